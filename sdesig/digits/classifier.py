"""A small classifier of the digits, whose hidden layer serves as features for Frechet distances."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from sdesig._modules import load_config, load_state, save_module
from sdesig._random import seeded

FEATURES = 32


class DigitClassifier(nn.Module):
    """A multilayer perceptron 64 - 128 - 32 - 10; the layer of 32 holds the features."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(64, 128), nn.SiLU(), nn.Linear(128, FEATURES), nn.SiLU())
        self.head = nn.Linear(FEATURES, 10)

    def features(self, images: Tensor) -> Tensor:
        """Features (n, 32) of images (n, 64) in [-1, 1]."""
        return self.body(images)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of the labels, (n, 10)."""
        return self.head(self.features(images))

    def save(self, folder: str | Path) -> None:
        """Write config.json and weights.safetensors."""
        save_module(Path(folder), {"type": "digit_classifier"}, self)

    @classmethod
    def load(cls, folder: str | Path) -> DigitClassifier:
        """Read what `save` wrote; raises as `sdesig._modules.load_state`."""
        load_config(Path(folder), "digit_classifier")
        classifier = cls()
        load_state(Path(folder), classifier)
        return classifier.eval()


def train_classifier(
    images: Tensor, labels: Tensor, *, iterations: int = 2000, batch: int = 128, seed: int = 0
) -> DigitClassifier:
    """Cross-entropy by AdamW, with noise of standard deviation .2 on the images against overfitting.

    Args:
        images, labels: (n, 64) in [-1, 1] and (n,).
    """
    with seeded(seed):
        classifier = DigitClassifier()
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, iterations)
    for _ in range(iterations):
        rows = torch.randint(len(images), (batch,), generator=generator)
        noisy = images[rows] + 0.2 * torch.randn(batch, 64, generator=generator)
        loss = nn.functional.cross_entropy(classifier(noisy), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return classifier.eval()

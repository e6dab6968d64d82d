"""A small classifier of the digits, whose hidden layer serves as features for Frechet distances."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from sdesig._modules import load_config, load_state, save_module

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

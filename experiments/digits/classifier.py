"""`python -m experiments.digits.classifier`: train the shipped classifier; its accuracy on held-out digits."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sdesig.digits import FOLDER, DigitClassifier, load_digits


def train_classifier(
    images: Tensor, labels: Tensor, *, iterations: int = 2000, batch: int = 128, seed: int = 0
) -> DigitClassifier:
    """Cross-entropy by AdamW, with noise of standard deviation .2 on the images against overfitting.

    Args:
        images, labels: (n, 64) in [-1, 1] and (n,).
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
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


def main() -> None:
    """Train on 4 of 5 images and test on the rest; then train on all of them, and ship that."""
    images, labels = load_digits()
    torch.set_num_threads(1)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    test, rest = order[: len(order) // 5], order[len(order) // 5 :]
    tried = train_classifier(images[rest], labels[rest])
    accuracy = (tried(images[test]).argmax(1) == labels[test]).double().mean().item()
    print(f"accuracy on {len(test)} held-out digits: {accuracy:.3f}")
    train_classifier(images, labels).save(FOLDER / "classifier")


if __name__ == "__main__":
    main()

"""`python -m experiments.digits.classifier`: train the shipped classifier; its accuracy on held-out digits."""

from __future__ import annotations

import torch

from sdesig.digits import FOLDER, load_digits, train_classifier


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

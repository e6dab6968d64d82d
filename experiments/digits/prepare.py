"""`python -m experiments.digits.prepare`: the shipped Gaussian reference and grid of steps; half a minute."""

from __future__ import annotations

import torch

from sdesig.digits import EVENT, FOLDER, REFERENCE, SNR, load_digits, load_teacher, reference
from sdesig.sampling import GaussianReference, PathSpace, choose_grid


def main() -> None:
    """See the module."""
    torch.set_num_threads(1)
    fitted = GaussianReference.fit(load_digits()[0], "pca")
    fitted.save(FOLDER / REFERENCE)
    grid = choose_grid(load_teacher(), PathSpace(EVENT, SNR, reference()))
    grid.save(FOLDER / "grid.json")


if __name__ == "__main__":
    main()

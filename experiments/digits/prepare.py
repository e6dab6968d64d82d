"""`python -m experiments.digits.prepare`: the shipped Gaussian reference and grid of steps; half a minute."""

from __future__ import annotations

import torch

from sdesig._files import write_tensors
from sdesig.digits import EVENT, FOLDER, REFERENCE, SNR, load_digits, load_teacher, reference
from sdesig.sampling import CanonicalSDE, GaussianReference, choose_grid


def main() -> None:
    """See the module."""
    torch.set_num_threads(1)
    fitted = GaussianReference.fit(load_digits()[0], "pca")
    tensors = {"mean": fitted.mean, "variance": fitted.variance, "basis": fitted.basis[0]}
    write_tensors(FOLDER / REFERENCE, tensors)
    grid = choose_grid(CanonicalSDE(load_teacher(), reference=reference()), event=EVENT, snr=SNR)
    grid.save(FOLDER / "grid.json")


if __name__ == "__main__":
    main()

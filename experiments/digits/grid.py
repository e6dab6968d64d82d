"""`python -m experiments.digits.grid`: choose the shipped grid of steps; half a minute."""

from __future__ import annotations

import torch

from sdesig.digits import EVENT, FOLDER, SNR, load_teacher, reference
from sdesig.distillation import choose_grid
from sdesig.sde import CanonicalSDE


def main() -> None:
    """See the module."""
    torch.set_num_threads(1)
    grid = choose_grid(CanonicalSDE(load_teacher(), reference=reference()), event=EVENT, snr=SNR)
    grid.save(FOLDER / "grid.json")


if __name__ == "__main__":
    main()

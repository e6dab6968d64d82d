"""`sdesig tour`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sdesig._files import check_output


@dataclass(frozen=True)
class Tour:
    """A one-minute tour with pictures: a path and its partial signatures, Levy areas, a reverse diffusion."""

    out: Path = Path("runs/tour")
    """Folder for the pictures."""
    seed: int = 0
    """First seed of all paths."""

    def run(self) -> None:
        """Run the command."""
        check_output("out", self.out, folder=True)
        from sdesig.tour import run_tour

        run_tour(self.out, self.seed)

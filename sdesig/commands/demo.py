"""`sdesig demo`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from sdesig._files import check_output


@tyro.conf.configure(tyro.conf.FlagCreatePairsOff)
@dataclass(frozen=True)
class Demo:
    """Sig-DEG on handwritten digits, from the shipped teacher to a report with figures; goes on if it was stopped."""

    out: Path = Path("runs/demo")
    """Folder for the report, the figures and the generators."""
    seed: int = 0
    """Of everything random."""
    quick: bool = False
    """A tiny run in seconds, to see that everything works; its numbers mean nothing."""

    def run(self) -> None:
        """Run the command."""
        check_output("out", self.out, folder=True)
        from sdesig.demo import run_demo

        run_demo(self.out, seed=self.seed, quick=self.quick)

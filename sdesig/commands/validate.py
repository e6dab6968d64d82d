"""`sdesig validate`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from sdesig._files import check_output


@tyro.conf.configure(tyro.conf.FlagCreatePairsOff)
@dataclass(frozen=True)
class Validate:
    """Hold the package against theory: CSV, figures and a summary; exit status 1 if a study contradicts theory."""

    names: tyro.conf.Positional[tuple[str, ...]] = ()
    """Studies; default: all."""
    quick: bool = False
    """A few minutes for all studies; the default."""
    full: bool = False
    """Ten times the samples."""
    out: Path | None = None
    """Folder for the results; default: validation/results in the source checkout."""

    def run(self) -> None:
        """Run the command."""
        if self.quick and self.full:
            raise ValueError("only one of --quick and --full may be given")
        try:
            from validation.studies import RESULTS, run_studies
        except ModuleNotFoundError as error:
            if error.name not in ("validation", "validation.studies"):
                raise
            raise ValueError(
                "the validation studies come with the source checkout of sdesig, not with the installed package"
            ) from None
        out = self.out or RESULTS
        check_output("out", out, folder=True)
        if not run_studies(self.names, full=self.full, out=out):
            sys.exit(1)

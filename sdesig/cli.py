"""The command line, `sdesig` or `python -m sdesig`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro


@dataclass(frozen=True)
class Demo:
    """A one-minute tour with pictures: a path and its partial signatures, Levy areas, a reverse diffusion."""

    out: Path = Path("demo-output")
    """Folder for the pictures."""
    seed: int = 0
    """First seed of all paths."""

    def run(self) -> None:
        """Run the command."""
        from sdesig.tour import run_tour

        run_tour(self.out, self.seed)


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
        if not run_studies(self.names, full=self.full, out=self.out or RESULTS):
            sys.exit(1)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: bad values are one line on standard error and exit status 2."""
    command = tyro.extras.subcommand_cli_from_dict(
        {"demo": Demo, "validate": Validate},
        prog="sdesig",
        description=__doc__,
        args=arguments,
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    try:
        command.run()
    except (ValueError, TypeError, OSError) as error:
        print(f"sdesig: {error}", file=sys.stderr)
        sys.exit(2)

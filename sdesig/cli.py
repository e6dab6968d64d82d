"""The command line, `sdesig` or `python -m sdesig`."""

from __future__ import annotations

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


def main() -> None:
    """Entry point: bad values are one line on standard error and exit status 2."""
    import sys

    command = tyro.extras.subcommand_cli_from_dict({"demo": Demo}, prog="sdesig", description=__doc__)
    try:
        command.run()
    except (ValueError, TypeError, OSError) as error:
        print(f"sdesig: {error}", file=sys.stderr)
        sys.exit(2)

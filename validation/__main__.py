"""`python -m validation` holds the package against theory: exit status 1 if a study contradicts it."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from validation.studies import RESULTS, STUDIES, check_names, draw_studies, run_studies


def main(arguments: Sequence[str] | None = None) -> None:
    """Run studies: CSV, figures and a summary."""
    parser = argparse.ArgumentParser(prog="python -m validation", description="Hold the package against theory.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"studies of {', '.join(STUDIES)}; default: all")
    sizes = parser.add_mutually_exclusive_group()
    sizes.add_argument("--quick", action="store_true", help="a few minutes for all studies; the default")
    sizes.add_argument("--full", action="store_true", help="ten times the samples")
    sizes.add_argument("--figures", action="store_true", help="draw the figures again from the CSV files in --out")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the results; default: %(default)s")
    options = parser.parse_args(arguments)
    try:
        check_names(options.names)
    except ValueError as error:
        parser.error(str(error))
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=options.out).close()  # now, not after the first study
    except OSError as error:
        parser.error(f"argument --out: must be a folder that can be written to; got {options.out} ({error.strerror})")
    if options.figures:
        draw_studies(options.names, out=options.out)
        return
    sys.exit(0 if run_studies(options.names, full=options.full, out=options.out) else 1)


if __name__ == "__main__":
    main()

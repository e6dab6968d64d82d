"""`python -m validation [name ...]`: run studies and write their results; exit status 1 if one contradicts theory."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from validation import signature_laws

STUDIES: dict[str, Callable[[Path, bool], bool]] = {"signature_laws": signature_laws.run}
RESULTS = Path(__file__).parent / "results"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the studies named (default: all); see --help."""
    parser = argparse.ArgumentParser(prog="python -m validation", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help=f"studies: {', '.join(STUDIES)}")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the results (default: %(default)s)")
    parser.add_argument("--full", action="store_true", help="ten times the samples")
    options = parser.parse_args(arguments)
    unknown = sorted(set(options.names) - set(STUDIES))
    if unknown:
        parser.error(f"unknown study {unknown[0]!r}; there are {', '.join(STUDIES)}")
    verdicts = {name: STUDIES[name](options.out, options.full) for name in options.names or STUDIES}
    for name, passed in verdicts.items():
        print(f"{'pass' if passed else 'FAIL'}  {name}")
    return 0 if all(verdicts.values()) else 1


if __name__ == "__main__":
    sys.exit(main())

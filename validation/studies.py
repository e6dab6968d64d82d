"""All studies, and how to run them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from validation import coverage, levy_area, reverse_diffusion, signature_laws, strong_orders, weak_orders
from validation.report import draw_study, run_study, write_summary

STUDIES = {
    study.name: study
    for study in (
        signature_laws.STUDY,
        levy_area.STUDY,
        coverage.STUDY,
        strong_orders.STUDY,
        weak_orders.STUDY,
        reverse_diffusion.STUDY,
    )
}
RESULTS = Path(__file__).parent / "results"


def check_names(names: Sequence[str]) -> None:
    """Raise ValueError for a name that is not in `STUDIES`."""
    for name in names:
        if name not in STUDIES:
            raise ValueError(f"study must be one of {', '.join(map(repr, STUDIES))}; got {name!r}")


def draw_studies(names: Sequence[str] = (), *, out: Path = RESULTS) -> None:
    """Draw the figures of studies (default: all that have a CSV in `out`) from their CSV files.

    Raises:
        ValueError: a name that is not in `STUDIES`.
        FileNotFoundError: a study that is named has no CSV in `out`.
    """
    check_names(names)
    for name in names or [name for name in STUDIES if (out / f"{name}.csv").exists()]:
        draw_study(STUDIES[name], out)
        print(f"written: {out / name}.png")


def run_studies(names: Sequence[str] = (), *, full: bool = False, out: Path = RESULTS) -> bool:
    """Run the studies named (default: all), write CSV, figure and summary.md to `out` after each of them.

    Sets torch to one thread.

    Returns:
        Whether all their rows agree with theory.

    Raises:
        ValueError: a name that is not in `STUDIES`, before any of them is run.
    """
    check_names(names)
    torch.set_num_threads(1)  # tensors are small: more threads mostly wait for each other
    verdicts = []
    for name in names or STUDIES:
        verdicts.append(run_study(STUDIES[name], out, full=full))
        write_summary(STUDIES.values(), out)
    print(f"written: {out / 'summary.md'}")
    return all(verdicts)

"""The report: one CSV file, one markdown table of all rows, and one of those that have a target."""

from __future__ import annotations

import csv
import os
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path

import torch

from experiments.benchmarks.comparison import Result
from sdesig.evaluation import replacing

PACKAGES = ("sdesig", "torch", "torchsde", "numpy", "sdeint", "jax", "diffrax", "signax")
COLUMNS = (
    *("topic", "what", "ours", "peer", "quantity", "value", "lowest", "highest", "target", "reached"),
    *("ours_seconds", "peer_seconds"),
)
Results = Mapping[str, Sequence[Result]]
"""Results by topic."""


def environment() -> str:
    """Processor, load, threads and versions, as a markdown list."""
    versions = [f"{name} {metadata.version(name)}" for name in PACKAGES if _installed(name)]
    return "\n".join(
        (
            f"- {_processor()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before the run",
            f"- torch: {torch.get_num_threads()} threads; jax: its default, one per core; numpy in sdeint: one",
            f"- python {platform.python_version()}, {', '.join(versions)}",
        )
    )


def measurement(result: Result) -> str:
    """A ratio or an expense with its range, or the statistic of a check."""
    if result.timing is None:
        return f"{result.quantity} = {result.value:{'.0f' if result.value >= 100 else '.2g'}}"
    quantity = "" if result.quantity == "ratio" else f"{result.quantity} "
    return f"{quantity}{result.value:.3g} ({result.timing.lowest:.3g} - {result.timing.highest:.3g})"


def markdown(results: Results, setting: str) -> str:
    """The `environment`, then a table for each topic, and below it what limits the rows that miss their target."""
    lines = [
        "# Foundations: sdesig against other packages",
        "",
        "Written by `make bench`. Ratio: the peer's time divided by ours, the median over pairs timed in alternation "
        "(smallest - largest). Cost: our time over the peer's, for a step if one is named. "
        "Rows without a target inform only.",
        "",
        setting,
    ]
    for topic, rows in results.items():
        lines += ["", f"## {topic.replace('_', ' ').capitalize()}", ""]
        lines += ["| what | ours | peer | ratio (median, range) | target | reached |", "|---|---|---|---|---|---|"]
        for row in rows:
            ours, peer = row.ours, row.peer
            if row.timing is not None:
                ours += f": {_duration(row.timing.ours_seconds)}"
                peer += f": {_duration(row.timing.peer_seconds)}"
            lines.append(_line(row.what, ours, peer, measurement(row), row.target, _reached(row)))
        missed = [row.explanation for row in rows if row.reached is False and row.explanation]
        for explanation in dict.fromkeys(missed):
            lines += ["", f"Not reached: {explanation}"]
    return "\n".join(lines) + "\n"


def targets(results: Results, setting: str) -> str:
    """The `environment`, then all rows with a target in one table, those that miss it first."""
    rows = [(topic, row) for topic, found in results.items() for row in found if row.reached is not None]
    missed = [pair for pair in rows if not pair[1].reached]
    lines = [
        "# Targets of the benchmarks",
        "",
        f"Written by `make bench`; all rows, and what limits those that miss their target, are in foundation.md. "
        f"{len(missed)} of {len(rows)} targets are missed. Ratio: the peer's time divided by ours; cost: ours over the "
        "peer's.",
        "",
        setting,
        "",
        "| topic | what | ours | over | measured (median, range) | target | reached |",
        "|---|---|---|---|---|---|---|",
    ]
    for topic, row in (*missed, *(pair for pair in rows if pair[1].reached)):
        cells = (topic.replace("_", " "), row.what, row.ours, row.peer, measurement(row), row.target, _reached(row))
        lines.append(_line(*cells))
    return "\n".join(lines) + "\n"


def write(results: Results, setting: str, directory: Path) -> None:
    """Write foundation.csv, foundation.md and targets.md."""
    for name, text in (("foundation", markdown), ("targets", targets)):
        with replacing(directory / f"{name}.md") as path:
            path.write_text(text(results, setting), encoding="utf-8")
    with replacing(directory / "foundation.csv") as path, path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for topic, rows in results.items():
            for row in rows:
                timing = row.timing
                span = ("", "") if timing is None else (timing.lowest, timing.highest)
                times = ("", "") if timing is None else (timing.ours_seconds, timing.peer_seconds)
                labels = (topic, row.what, row.ours, row.peer, row.quantity)
                writer.writerow((*labels, row.value, *span, row.target, _reached(row), *times))


def _line(*cells: str) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _reached(result: Result) -> str:
    return {None: "", True: "yes", False: "no"}[result.reached]


def _duration(seconds: float) -> str:
    return f"{1e3 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()

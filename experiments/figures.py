"""`python -m experiments.figures`: draw the charts of the committed results again, from their CSV and JSON files.

Pictures of samples are not drawn again: the samples are not kept.
"""

from __future__ import annotations

import json
from pathlib import Path

from experiments.digits.study import floor_figure, study_figure
from experiments.work_precision import geometric_brownian_motion, mixture, noncommutative
from experiments.work_precision.report import draw
from sdesig.evaluation import Row, error_figure, read_json, save_figure
from sdesig.sampling import Floor

HERE = Path(__file__).parent
STUDIES = ("mnist/results", "digits/demo", "digits/results", "toy_mixture/results")
STUDY_SEEDS = 500
"""Seeds of experiments/digits/results/study.json."""


def main() -> None:
    """Draw all."""
    for study in STUDIES:
        rows, floors = read_report(HERE / study / "report.json")
        save_figure(error_figure(rows, floors), HERE / study / "errors.png")
    results = HERE / "digits" / "results"
    study_lines = read_json(results / "study.json")
    save_figure(study_figure(study_lines["rows"], STUDY_SEEDS), results / "study.png")
    save_figure(floor_figure(study_lines["floors"]), results / "floors.png")
    for module in (geometric_brownian_motion, mixture, noncommutative):
        problem = module.problem(False)
        draw(problem.name, problem.targets, HERE / "work_precision" / "results")


def read_report(file: Path) -> tuple[list[Row], list[Floor]]:
    """The rows and floors of a report.json; the floors are those of the rows where it has no others."""
    report = json.loads(file.read_text())
    rows = report["rows"] if isinstance(report, dict) else report
    if isinstance(report, dict) and "floors" in report:
        return rows, [Floor(**floor) for floor in report["floors"]]
    found = {(row["depth"], row["steps"]): row["floor"] for row in rows if row["floor"] is not None}
    return rows, [Floor(value, 0.0, value, 1, steps, depth) for (depth, steps), value in found.items()]


if __name__ == "__main__":
    main()

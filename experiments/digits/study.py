"""What matters, from short trainings of equal length: study.md, study.json, and two figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from experiments.digits.floors import DEPTHS, LOG_SNR, floors_of
from experiments.digits.setting import RUNS, distilled
from experiments.files import replacing, write_json
from sdesig.digits import load_grid, load_teacher, path_space
from sdesig.evaluation import Comparison
from sdesig.evaluation.comparison import Sampler, baselines, generator_sampler
from sdesig.evaluation.report import markdown_table, save_figure
from sdesig.sampling import Floor, StepGrid

REFERENCES = ("none", "scalar", "pca")
CLOCKS = (*REFERENCES, LOG_SNR)
EVEN, CHOSEN = "path-average, reference", "path-average, reference, chosen grid"
VARIANTS = (
    ("training", "none: path-average", CHOSEN),
    ("training", "step coefficients alone", "short-coefficients"),
    ("training", "coefficients and network", "short"),
    ("depth", "depth 1", "short-depth-1"),
    ("depth", "depth 2", "short-depth-2"),
    ("depth", "depth 4", "short"),
    ("pairs", "local", "short"),
    ("pairs", "local, then rollouts", "short-both"),
    ("pairs", "rollouts", "short-rollout"),
    ("cell", "plain", "short-plain"),
    ("cell", "solver", "short"),
    ("clock", "SNR (no reference)", "short-none"),
    ("clock", "reference, scalar", "short-scalar"),
    ("clock", "reference per principal component", "short"),
    ("grid", "even, untrained", EVEN),
    ("grid", "even, trained", "short-even"),
    ("grid", "chosen, untrained", CHOSEN),
    ("grid", "chosen, trained", "short"),
)
"""Question, variant, and the run of `RUNS` or the training-free sampler that answers it."""
REMARK = """No student is trained on the expansion in log-SNR: it knows less of a step than that of the reference per
principal component at depths 1 and 2, and at depth 4 as much, within the errors.
"""


def study(runs: Path, seeds: int, groups: int, out: Path) -> None:
    """What matters, from short trainings of equal length: study.md, study.json, and a figure of the floors."""
    comparisons = {kind: Comparison(load_teacher(), path_space(kind)) for kind in REFERENCES}
    untrained = {sampler.name: sampler for sampler in baselines(load_grid())}
    lines = []
    steps = (4, 8, 16)

    def add(question: str, name: str, comparison: Comparison, sampler: Sampler) -> None:
        _, outcomes = comparison.run([(sampler, steps)], range(seeds))
        row: dict[str, Any] = {"question": question, "variant": name}
        for outcome in outcomes:
            value, error = outcome.rmse
            row[f"rmse_{outcome.steps}"] = f"{value:.4f} +- {error:.4f}"
        lines.append(row)
        print(row, flush=True)

    for question, variant, name in VARIANTS:
        if name in untrained:
            add(question, variant, comparisons["pca"], untrained[name])
        else:
            comparison = comparisons[RUNS[name].reference]
            add(question, variant, comparison, generator_sampler(variant, distilled(name, runs)))
    floors = {
        f"{kind}, {'even' if grid == StepGrid() else 'chosen'} grid": floors_of(kind, grid, (4, 8, 16), DEPTHS, groups)
        for kind in CLOCKS
        for grid in (StepGrid(), load_grid())
    }
    table = [
        {"clock": name, "depth": floor.depth, **{f"floor_{n}": _value(values, floor.depth, n) for n in (4, 8, 16)}}
        for name, values in floors.items()
        for floor in values
        if floor.steps == 4
    ]
    titles = {"question": "question", "variant": "variant", **{f"rmse_{n}": f"RMSE, {n} steps" for n in steps}}
    floor_titles = {"clock": "clock", "depth": "depth", **{f"floor_{n}": f"floor, {n} steps" for n in steps}}
    text = (
        f"# What matters\n\nWritten by `python -m experiments.digits`. Short trainings (200 iterations) of equal "
        f"length, {seeds} seeds; the variants of one question differ in it alone. +- is one standard error.\n\n"
        f"{markdown_table(lines, titles)}\n![study](study.png)\n\nInformation floors, {groups} pairs of paths each:\n\n"
        f"{markdown_table(table, floor_titles)}\n{REMARK}\n![floors](floors.png)\n"
    )
    write_json(out / "study.json", {"rows": lines, "floors": table})
    with replacing(out / "study.md") as file:
        file.write_text(text)
    save_figure(study_figure(lines), out / "study.png")
    save_figure(floor_figure(floors), out / "floors.png")
    print(text)


def _value(floors: Sequence[Floor], depth: int, steps: int) -> str:
    (floor,) = [floor for floor in floors if (floor.depth, floor.steps) == (depth, steps)]
    return f"{floor.rmse:.4f} +- {floor.standard_error:.4f}"


def floor_figure(floors: dict[str, list[Floor]]) -> Figure:
    """Floors against steps, one panel per depth, one line per clock and grid."""
    figure = Figure(figsize=(11, 3.8), layout="constrained")
    for axis, depth in zip(figure.subplots(1, len(DEPTHS), sharey=True), DEPTHS, strict=True):
        for name, values in floors.items():
            line = [(floor.steps, floor.rmse, 1.96 * floor.standard_error) for floor in values if floor.depth == depth]
            steps, rmse, errors = zip(*line, strict=True)
            axis.errorbar(steps, rmse, yerr=errors, fmt="o--" if "even" in name else "o-", ms=4, capsize=2, label=name)
        axis.set(xscale="log", yscale="log", title=f"depth {depth}", xlabel="steps")
        axis.set_xticks((4, 8, 16), ("4", "8", "16"))
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axis.legend(fontsize="x-small")
    return figure


def study_figure(lines: Sequence[dict[str, Any]]) -> Figure:
    """One panel per question, one line per variant."""
    figure = Figure(figsize=(15, 3.6), layout="constrained")
    questions = list(dict.fromkeys(line["question"] for line in lines))
    for axis, question in zip(figure.subplots(1, len(questions), sharey=True), questions, strict=True):
        for line in lines:
            if line["question"] == question:
                rmse, errors = zip(*(map(float, line[f"rmse_{n}"].split(" +- ")) for n in (4, 8, 16)), strict=True)
                bars = [1.96 * error for error in errors]
                axis.errorbar((4, 8, 16), rmse, yerr=bars, fmt="o-", ms=4, capsize=2, label=line["variant"])
        axis.set(xscale="log", yscale="log", title=question, xlabel="steps")
        axis.set_xticks((4, 8, 16), ("4", "8", "16"))
        axis.minorticks_off()
        axis.grid(alpha=0.3)
        axis.legend(fontsize="x-small", loc="lower left")
    return figure

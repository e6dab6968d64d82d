"""What matters, from short trainings of equal length: study.md, study.json, and two figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from experiments.digits.floors import DEPTHS, LOG_SNR, floors_of
from experiments.digits.setting import RUNS, distilled
from sdesig.digits import load_grid, load_teacher, path_space
from sdesig.evaluation import (
    Comparison,
    Sampler,
    SampleStore,
    generator_sampler,
    markdown_table,
    replacing,
    root_mean_square,
    save_figure,
    training_free,
    write_json,
)
from sdesig.sampling import Floor, StepGrid

REFERENCES = ("none", "scalar", "pca")
CLOCKS = (*REFERENCES, LOG_SNR)
STEPS = (4, 8, 16)
EVEN, CHOSEN = "path-average-reference", "path-average-grid"
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
"""Question, variant, and the run of `RUNS` or the key of the training-free sampler that answers it."""
REMARK = """No student is trained on the expansion in log-SNR: it knows less of a step than that of the reference per
principal component at depths 1 and 2, and at depth 4 as much, within the errors.
"""


def study(runs: Path, seeds: int, groups: int, out: Path) -> None:
    """What matters, from short trainings of equal length: study.md, study.json, and a figure of the floors."""
    comparisons = {kind: Comparison(load_teacher(), path_space(kind)) for kind in REFERENCES}
    untrained = training_free(path_space(), STEPS)
    found: dict[tuple[str, str], dict[int, tuple[float, float]]] = {}
    for question, variant, name in VARIANTS:
        sampler = untrained[name] if name in untrained else generator_sampler(name, distilled(name, runs), STEPS)
        kind = "pca" if name in untrained else RUNS[name].reference
        found[question, variant] = _errors(comparisons[kind], sampler, seeds)
        print(question, variant, found[question, variant], flush=True)
    lines = [
        {"question": question, "variant": variant, **{f"rmse_{n}": _shown(*errors[n]) for n in STEPS}}
        for (question, variant), errors in found.items()
    ]
    floors = {
        f"{kind}, {'even' if grid == StepGrid() else 'chosen'} grid": floors_of(kind, grid, STEPS, DEPTHS, groups)
        for kind in CLOCKS
        for grid in (StepGrid(), load_grid())
    }
    table = [
        {"clock": name, "depth": floor.depth, **{f"floor_{n}": _value(values, floor.depth, n) for n in STEPS}}
        for name, values in floors.items()
        for floor in values
        if floor.steps == 4
    ]
    titles = {"question": "question", "variant": "variant", **{f"rmse_{n}": f"RMSE, {n} steps" for n in STEPS}}
    floor_titles = {"clock": "clock", "depth": "depth", **{f"floor_{n}": f"floor, {n} steps" for n in STEPS}}
    text = (
        f"# What matters\n\nWritten by `python -m experiments.digits`. Short trainings (200 iterations) of equal "
        f"length, {seeds} seeds; the variants of one question differ in it alone. +- is one standard error.\n\n"
        f"{markdown_table(lines, titles)}\n![study](study.png)\n\nInformation floors, {groups} pairs of paths each:\n\n"
        f"{markdown_table(table, floor_titles)}\n{REMARK}\n![floors](floors.png)\n"
    )
    write_json(out / "study.json", {"rows": lines, "floors": table})
    with replacing(out / "study.md") as file:
        file.write_text(text)
    save_figure(study_figure(found), out / "study.png")
    save_figure(floor_figure(floors), out / "floors.png")
    print(text)


def _value(floors: Sequence[Floor], depth: int, steps: int) -> str:
    (floor,) = [floor for floor in floors if (floor.depth, floor.steps) == (depth, steps)]
    return _shown(floor.rmse, floor.standard_error)


def _shown(value: float, error: float) -> str:
    return f"{value:.4f} +- {error:.4f}"


def _errors(comparison: Comparison, sampler: Sampler, seeds: int) -> dict[int, tuple[float, float]]:
    """Root mean square and its standard error by the number of steps."""
    store = SampleStore(comparison, [sampler], range(seeds))
    store.make(progress=False)
    errors = {steps: store.errors(sampler.key, steps) for steps in sampler.steps}
    return {steps: root_mean_square(values) for steps, values in errors.items() if values is not None}


def floor_figure(floors: dict[str, list[Floor]]) -> Figure:
    """Floors against steps, one panel per depth, one line per clock and grid."""
    figure = Figure(figsize=(11, 3.8), layout="constrained")
    for axis, depth in zip(figure.subplots(1, len(DEPTHS), sharey=True), DEPTHS, strict=True):
        for name, values in floors.items():
            line = [(floor.steps, floor.rmse, 1.96 * floor.standard_error) for floor in values if floor.depth == depth]
            steps, rmse, errors = zip(*line, strict=True)
            axis.errorbar(steps, rmse, yerr=errors, fmt="o--" if "even" in name else "o-", ms=4, capsize=2, label=name)
        axis.set(xscale="log", yscale="log", title=f"depth {depth}", xlabel="steps")
        axis.set_xticks(STEPS, [str(n) for n in STEPS])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axis.legend(fontsize="x-small")
    return figure


def study_figure(found: dict[tuple[str, str], dict[int, tuple[float, float]]]) -> Figure:
    """One panel per question, one line per variant: root mean squares and standard errors by steps."""
    figure = Figure(figsize=(15, 3.6), layout="constrained")
    questions = list(dict.fromkeys(question for question, _ in found))
    for axis, question in zip(figure.subplots(1, len(questions), sharey=True), questions, strict=True):
        for (asked, variant), errors in found.items():
            if asked == question:
                rmse, spread = zip(*errors.values(), strict=True)
                bars = [1.96 * error for error in spread]
                axis.errorbar([*errors], rmse, yerr=bars, fmt="o-", ms=4, capsize=2, label=variant)
        axis.set(xscale="log", yscale="log", title=question, xlabel="steps")
        axis.set_xticks(STEPS, [str(n) for n in STEPS])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
        axis.legend(fontsize="x-small", loc="lower left")
    return figure

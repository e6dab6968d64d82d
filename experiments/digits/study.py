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
    Row,
    Sampler,
    SampleStore,
    draw_line,
    generator_sampler,
    legend_below,
    log_axes,
    look_of,
    looks_of,
    markdown_table,
    panels,
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
SAMPLERS = {"short": "depth-4", "short-depth-1": "depth-1", "short-depth-2": "depth-2", "short-plain": "plain"}
"""The samplers as which runs are drawn; other runs have looks of their own."""
CLOCK_NAMES = {"none": "SNR", "scalar": "scalar reference", "pca": "reference per principal component"}
CLOCK_LOOKS = tuple(look_of(name) for name in ("euler", "path-average", "depth-2", "path-average-grid"))
"""Of the clocks."""
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
    save_figure(study_figure(lines, seeds), out / "study.png")
    save_figure(floor_figure(table), out / "floors.png")
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


def floor_figure(lines: Sequence[Row]) -> Figure:
    """Floors against steps, one panel per depth, one line per clock and grid, from the lines of study.json."""
    figure, axes = panels(1, len(DEPTHS), figsize=(13, 4.6), sharey=True)
    kinds = list(dict.fromkeys(line["clock"].rpartition(", ")[0] for line in lines))
    looks = dict(zip(kinds, CLOCK_LOOKS, strict=True))
    for axis, depth in zip(axes, DEPTHS, strict=True):
        own = [line for line in lines if line["depth"] == depth]
        for line in own:
            kind, _, grid = line["clock"].rpartition(", ")
            options = {"ls": "--", "mfc": "none"} if "even" in grid else {"ls": "-"}
            rmse, bars = _read(line, "floor")
            draw_line(
                axis,
                STEPS,
                rmse,
                looks[kind],
                bars=bars,
                rank=4,
                label=f"{CLOCK_NAMES.get(kind, kind)}, {grid}",
                **options,
            )
    for axis, depth in zip(axes, DEPTHS, strict=True):
        log_axes(axis, STEPS, xlabel="steps", title=f"floor of depth {depth}")
    axes[0].set_ylabel("RMS floor per pixel")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, title="clock and grid; bars are 95 % intervals")
    return figure


def study_figure(lines: Sequence[Row], seeds: int | None = None) -> Figure:
    """One panel per question, one line per variant, from the rows of study.json."""
    questions = list(dict.fromkeys(line["question"] for line in lines))
    figure, axes = panels(2, 3, figsize=(13, 9.6), sharey=True)
    for axis, question in zip(axes.flat, questions, strict=True):
        own = [line for line in lines if line["question"] == question]
        runs = {variant: SAMPLERS.get(run, run) for asked, variant, run in VARIANTS if asked == question}
        looks = looks_of(runs.values())
        for rank, line in enumerate(own):
            rmse, bars = _read(line, "rmse")
            draw_line(axis, STEPS, rmse, looks[runs[line["variant"]]], bars=bars, rank=rank, label=line["variant"])
    for axis, question in zip(axes.flat, questions, strict=True):
        log_axes(axis, STEPS, xlabel="steps", ylabel="pathwise RMSE per pixel", title=f"question: {question}")
        legend_below(axis)
    shown = "" if seeds is None else f", seeds 0 to {seeds - 1}"
    figure.suptitle(
        f"students of 8x8 digits trained for 200 iterations{shown}; bars are 95 % intervals", fontsize="medium"
    )
    return figure


def _read(line: Row, key: str) -> tuple[list[float], list[float]]:
    """Values by number of steps and the lengths of their 95 % bars, of a line of study.json."""
    pairs = [line[f"{key}_{n}"].split(" +- ") for n in STEPS]
    return [float(value) for value, _ in pairs], [1.96 * float(error) for _, error in pairs]

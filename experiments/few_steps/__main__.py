"""`python -m experiments.few_steps`: samplers without training at 4 to 40 evaluations, ours beside others.

Of each problem the same seeds are drawn by all samplers, each of the others' on even steps and on Karras' grid. A run
that was stopped goes on; --problem does one of them. Those of images need --data and --extractor. Results go to
experiments/few_steps/results. Needs the extra for images, for the schedulers of diffusers.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from experiments.few_steps.setting import (
    BEFORE,
    EVEN,
    IMAGES,
    MANY,
    MMD,
    OURS,
    PROBLEMS,
    STUDENTS,
    Problem,
    evaluated,
    grids_of,
    of_images,
    samplers_of,
)
from experiments.targets import TITLES, Line, line
from sdesig.evaluation import (
    CALIBRATED,
    CONVERGED,
    Evaluation,
    FeatureExtractor,
    FeatureStatistics,
    Row,
    SampleStore,
    frechet_ratio,
    markdown_table,
    paired_ratio,
    panels,
    reference_statistics,
    replacing,
    save_figure,
    write_json,
)

RESULTS = Path(__file__).parent / "results"
KEPT = (
    *("key", "method", "steps", "pathwise_rmse", "pathwise_rmse_se", "seeds_changed", "seeds_changed_se"),
    *("distance", "distance_se", "frechet_distance", "frechet_distance_se", "perceptual", "perceptual_se"),
    *("seconds_per_1000", "n"),
)
"""Columns of the results. "distance" is that to the teacher's own law."""
SHOWN = (4, 5, 8, 10)
COMPARED = ("path-average-law", "path-average", "path-average-flow", "calibrated-even", "calibrated", *STUDENTS)
"""Keys of ours whose distances on images are held against the best of the others."""
TARGET_STEPS = (5, 10, 40)
FLOW_STEPS = (5, 8, 10)
TARGETS = {"digits": 0.8, "mixture-1.5-0.1": 0.75, "mnist": 0.95}
"""Of the pathwise error on even steps over what it was, in 5 and 10; in 40 it is 1 for all."""


def run(name: str, problem: Problem, folder: Path) -> None:
    """Measure a problem, and write its rows, targets and grids to a JSON file."""
    folder.mkdir(parents=True, exist_ok=True)
    grids = grids_of(problem, folder)
    found, kernel = evaluated(problem, samplers_of(problem, grids, folder), folder / "table")
    rows = [{key: row.get(key) for key in KEPT} for row in found.rows]
    aimed = targets(name, found.store, problem.steps)
    if kernel is not None:
        aimed += of_flows(name, found.store, kernel)
    if problem.images:
        aimed += of_images_laws(name, problem.extractor, found)
        aimed += of_students(name, problem, found, folder / "table" / "reference")
    result = {
        "title": problem.title,
        "distance": problem.distance,
        "rows": rows,
        "targets": aimed,
        "grids": {key: grid.to_json() for key, grid in grids.items()},
    }
    write_json(RESULTS / f"{name}.json", result)
    if problem.images:
        shutil.copyfile(
            folder / "table" / f"images-{problem.steps[0]}.png", RESULTS / f"images-{name}-{problem.steps[0]}.png"
        )


def targets(name: str, store: SampleStore, measured: Sequence[int]) -> list[Line]:
    """What was aimed at of the pathwise error, at the numbers of steps that were measured."""
    lines = []
    now_on = {EVEN: "even steps", "calibrated-even": "calibrated, even steps"}
    now_on = {key: what for key, what in now_on.items() if key in store.samplers}
    for steps, key in product((steps for steps in TARGET_STEPS if steps in measured), now_on):
        limit = 1.0 if steps == 40 else TARGETS.get(name, 1.0)
        before, now = store.errors(BEFORE, steps), store.errors(key, steps)
        assert before is not None
        assert now is not None
        target = f"{name}, {now_on[key]}, {steps}: RMSE over that before <= {limit:g}"
        lines.append(line(target, paired_ratio(now, before), limit + 0.03))
    return lines


def of_flows(name: str, store: SampleStore, kernel: MMD) -> list[Line]:
    """Whether our flow is nearer to the law than the best of others, each on the better of its grids."""
    lines = []
    for steps in FLOW_STEPS:
        ours = store.samples("path-average-flow", steps)
        for other in ("unipc", "ipndm-4"):
            theirs = min((store.samples(other + grid, steps) for grid in ("", "-karras")), key=lambda x: kernel(x)[0])
            value, error = (1e4 * number for number in kernel.difference(ours, theirs))
            interval = value, value - 1.96 * error, value + 1.96 * error
            lines.append(line(f"{name}, flow, {steps}: MMD^2 x 10^4 less that of {other} < 0", interval, 0.0, 1))
    return lines


def of_images_laws(name: str, extractor: FeatureExtractor | None, found: Evaluation) -> list[Line]:
    """Whether ours are as near to the teacher's law as the best of others, each on the better of its grids."""
    assert extractor is not None
    assert found.law is not None
    law = FeatureStatistics.of(found.law.features(extractor, CONVERGED, found.law.comparison.truth_steps))
    lines = []
    for steps in steps_of_all(found.rows):
        others = [row for row in found.rows if row["steps"] == steps and row["key"] not in (*OURS, CONVERGED)]
        best = min(others, key=lambda row: row["distance"])
        theirs = found.store.features(extractor, best["key"], steps)
        for key in (key for key in COMPARED if key in found.store.samplers):
            ratio = frechet_ratio(found.store.features(extractor, key, steps), theirs, law)
            label = found.store.samplers[key].label
            lines.append(line(f"{name}, {label}, {steps}: distance over that of {best['method']} <= 1.05", ratio, 1.05))
    return lines


def of_students(name: str, problem: Problem, found: Evaluation, cache: Path) -> list[Line]:
    """Whether students are nearer to the path than the best of the others, ours or not, and as near to real data."""
    lines, store, extractor = [], found.store, problem.extractor
    assert extractor is not None
    assert problem.data is not None
    real = reference_statistics(problem.data, extractor, cache=cache).statistics
    converged = store.features(extractor, CONVERGED, store.comparison.truth_steps)
    students = [key for key in problem.students for key in (key, key + CALIBRATED)]
    for key, steps in ((key, steps) for key in students for steps in problem.steps):
        label = store.samplers[key].label
        rows = [row for row in found.rows if row["steps"] == steps and row["key"] not in students]
        best = min((row for row in rows if row["pathwise_rmse"] is not None), key=lambda row: row["pathwise_rmse"])
        errors = [store.errors(one, steps) for one in (key, best["key"])]
        ratio = paired_ratio(*errors)  # type: ignore[arg-type]
        lines.append(line(f"{name}, {label}, {steps}: RMSE over that of {best['method']} < 1", ratio, 1.0))
        ratio = frechet_ratio(store.features(extractor, key, steps), converged, real)
        lines.append(line(f"{name}, {label}, {steps}: distance to data over converged paths' <= 1.05", ratio, 1.05))
    for key in problem.students:
        ratio = paired_ratio(*(store.errors(one, MANY) for one in (key, EVEN)))  # type: ignore[arg-type]
        label = store.samplers[key].label
        lines.append(line(f"{name}, {label}, {MANY}: RMSE over that of path-average, even <= 1", ratio, 1.03))
    return lines


def steps_of_all(rows: Sequence[Row]) -> list[int]:
    """Numbers of steps that all samplers were asked for; students and what they began as have more."""
    by_key: dict[str, set[int]] = {}
    for row in rows:
        if row["key"] != CONVERGED:
            by_key.setdefault(row["key"], set()).add(row["steps"])
    return sorted(set.intersection(*by_key.values()))


def best_of_grids(rows: Sequence[Row], column: str) -> dict[tuple[str, int], Row]:
    """Of every sampler and number of steps the row of the better grid, by the sampler's key without a grid."""
    best: dict[tuple[str, int], Row] = {}
    for row in rows:
        key = row["key"].removesuffix("-karras"), row["steps"]
        if row.get(column) is not None and (key not in best or row[column] < best[key][column]):
            best[key] = row
    return best


def write_text(results: dict[str, dict[str, Any]]) -> None:
    """report.md, of all problems that were measured."""
    text = "# Few steps without training\n\nWritten by `python -m experiments.few_steps`. "
    text += (
        "At equal evaluations, none at the last SNR. Every sampler of others is on the better, at each number and in "
        "each table, of two grids, even in log-SNR and Karras'; ours have one grid, as named. +- is one standard error "
        "over the seeds. Seconds per 1000 samples in the JSON files are of the processor; CelebA's and those beside "
        "students were not measured.\n"
    )
    for result in results.values():
        of_all = steps_of_all(result["rows"])
        rows = [row for row in result["rows"] if row["steps"] in of_all]
        floor = next(row for row in result["rows"] if row["key"] == CONVERGED)
        scale, digits = (1e4, 1) if result["distance"] == "MMD^2" else (1.0, 2)
        unit = " x 10^4" if scale > 1 else ""
        text += f"\n## {result['title']}\n\n{floor['n']} seeds. Pathwise RMSE:\n\n"
        text += _table(rows, "pathwise_rmse", 1.0, 4)
        text += f"\n{result['distance']}{unit} to the teacher's own law; converged paths have "
        text += f"{scale * floor['distance']:.{digits}f} +- {scale * floor['distance_se']:.{digits}f}:\n\n"
        text += _table(rows, "distance", scale, digits)
        if any(row.get("perceptual") is not None for row in rows):
            text += "\nPerceptual distance (x 1000) to the image of the converged path:\n\n"
            text += _table(rows, "perceptual", 1e3, 1)
        text += f"\n{markdown_table(result['targets'], TITLES)}\n"
    text += "\n![distance and path](few_steps.png)\n"
    with replacing(RESULTS / "report.md") as file:
        file.write_text(text)


def _table(rows: Sequence[Row], column: str, scale: float, digits: int) -> str:
    best = best_of_grids(rows, column)
    shown = [steps for steps in SHOWN if any(row["steps"] == steps for row in rows)]
    lines = []
    for key in dict.fromkeys(key for key, _ in best):
        found = {steps: best[key, steps] for steps in shown}
        plain = found[shown[0]]["method"].removesuffix(", Karras grid")
        cells = {
            str(steps): f"{scale * row[column]:.{digits}f} +- {scale * row[column + '_se']:.{digits}f}"
            + (" (K)" if row["key"].endswith("-karras") else "")
            for steps, row in found.items()
        }
        lines.append({"method": plain, **cells})
    lines.sort(key=lambda row: float(row["8"].split()[0]))
    return markdown_table(lines, {"method": "method", **{str(n): f"{n}" for n in shown}})


STYLES = {
    BEFORE: ("#88CCEE", "s", ":"),
    EVEN: ("#0072B2", "D", "-"),
    "path-average-grid": ("#332288", "P", "-"),
    "path-average-law": ("#AA4499", "^", "-"),
    "path-average": ("#DDCC77", "v", "-"),
    "path-average-flow": ("#D55E00", "o", "--"),
    "calibrated-grid": ("#999933", "X", "-"),
    "calibrated-even": ("#009E73", "d", "-"),
    "calibrated": ("#CC3311", "p", "-"),
    "calibrated-ipndm-4": ("0.45", "h", "--"),
    "depth-1": ("#44BB99", "<", "-."),
    "depth-2": ("#EE8866", ">", "-."),
    "depth-4": ("0.1", "*", "-."),
    "depth-1-calibrated": ("#44BB99", "<", ":"),
    "depth-2-calibrated": ("#EE8866", ">", ":"),
    "depth-4-calibrated": ("0.1", "*", ":"),
}


def figure(results: dict[str, dict[str, Any]]) -> Figure:
    """Path and distance against the evaluations, of ours and, in grey, of all others on the better of their grids."""
    drawn, axes = panels(2, len(results), figsize=(3 * len(results), 6), squeeze=False, sharex="col")
    for k, result in enumerate(results.values()):
        rows = [row for row in result["rows"] if row["key"] != CONVERGED]
        floor = next(row for row in result["rows"] if row["key"] == CONVERGED)
        drawn_at = steps_of_all(rows)
        for axis, column in zip(axes[:, k], ("pathwise_rmse", "distance"), strict=True):
            best = best_of_grids(rows, column)
            keys = list(dict.fromkeys(key for key, _ in best))
            for key in sorted(keys, key=lambda key: key in OURS):
                values = [best[key, steps][column] for steps in drawn_at]
                colour, marker, line_style = STYLES.get(key, ("0.75", None, "-"))
                label = best[key, drawn_at[0]]["method"] if key in OURS else "_"
                axis.plot(drawn_at, values, line_style, color=colour, marker=marker, ms=4, lw=1.5, label=label)
            axis.set_xscale("log")
            axis.set_xticks(drawn_at, [str(steps) for steps in drawn_at])
            axis.xaxis.set_minor_locator(NullLocator())
            if column == "pathwise_rmse":
                axis.set_yscale("log")
            else:
                axis.set_yscale("symlog", linthresh=1e-3 if result["distance"] == "MMD^2" else 1.0)
                axis.axhspan(
                    *(floor[column] + side * floor["distance_se"] for side in (-1, 1)),
                    color="0.9",
                    label="converged paths, +- a standard error",
                )
        axes[0, k].set_title(result["title"], fontsize="medium")
        axes[1, k].set_xlabel("evaluations")
    axes[0, 0].set_ylabel("pathwise RMSE")
    axes[1, 0].set_ylabel("MMD$^2$ (mixtures), Frechet distance (others)\nto the teacher's law")
    axes[1, 0].plot([], [], color="0.75", label="others, each on the better of two grids")
    shown = {label: handle for axis in axes[1] for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    drawn.legend(shown.values(), shown.keys(), loc="outside lower center", ncols=4, fontsize="small")
    return drawn


def main(arguments: Sequence[str] | None = None) -> None:
    """See the module."""
    parser = argparse.ArgumentParser(prog="python -m experiments.few_steps", description=__doc__)
    parser.add_argument("--problem", choices=(*PROBLEMS, *IMAGES), help="default all but images, and the report")
    parser.add_argument("--data", help="training images, as load_images reads them")
    parser.add_argument("--extractor", help="TorchScript file of features, for images")
    parser.add_argument("--perceptual", help="TorchScript file of a distance, for images")
    parser.add_argument("--runs", type=Path, default=Path("runs/few_steps"))
    parser.add_argument("--text", action="store_true", help="the report and its figure alone, from the JSON files")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if options.problem in IMAGES and not (options.text or (options.data and options.extractor)):
        parser.error(f"--problem {options.problem} needs --data and --extractor")
    for name in [] if options.text else PROBLEMS if options.problem is None else [options.problem]:
        folder = options.runs / name
        if name in IMAGES:
            run(name, of_images(IMAGES[name], options.data, options.extractor, folder, options.perceptual), folder)
        else:
            run(name, PROBLEMS[name](), folder)
    files = [RESULTS / f"{name}.json" for name in (*PROBLEMS, *IMAGES)]
    results = {file.stem: json.loads(file.read_text()) for file in files if file.exists()}
    write_text(results)
    save_figure(figure(results), RESULTS / "few_steps.png", dpi=80)


if __name__ == "__main__":
    main()

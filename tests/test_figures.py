"""One style for all figures: looks, labels, ticks, legends, files."""

import csv
import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.image import imread

from experiments import figures
from experiments.digits import one_seed, study
from experiments.work_precision import geometric_brownian_motion, mixture, noncommutative
from experiments.work_precision.report import figure as work_precision_figure
from sdesig._figures import (
    LOOKS,
    SCHEMES,
    SPARE,
    draw_line,
    legend_below,
    legend_beside,
    log_axes,
    looks_of,
    number_ticks,
    panels,
    save_figure,
)
from sdesig.convergence import fit_strong
from sdesig.evaluation import CALIBRATED, FEW_STEP, TRAINING_FREE, error_figure, image_figure, read_json
from sdesig.images.peers import PEERS
from sdesig.solvers import SCHEMES as OURS
from sdesig.solvers import TorchsdeMethod
from validation import studies
from validation.report import Point, draw_study, read_csv
from validation.strong_orders import LINES

ROOT = Path(__file__).parents[1]
GENERATORS = ("plain", "depth-1", "depth-2", "depth-4")
AGAIN = {"dpm-solver++2m": "dpmsolver++(2M)", "dpm-solver++3m": "dpmsolver++(3M)"}  # ours, and by diffusers
LIMIT = 150_000


def visible(figure):
    return [axis for axis in figure.axes if axis.axison]


def check_axes(figure, *, ticks=None):
    """Labels on every axis that has no neighbour with the same one; ticks where there are points."""
    axes = visible(figure)
    assert axes
    assert any(axis.get_ylabel() for axis in axes)
    assert all(axis.get_xlabel() for axis in axes)
    for axis in axes if ticks is None else ticks(figure):
        points = {x for container in axis.containers for x in container.lines[0].get_xdata()}
        assert set(axis.get_xticks()) == points
        shown = [label.get_text() for label in axis.get_xticklabels() if label.get_text()]
        assert {float(text) for text in shown} <= points
        assert float(shown[0]) == min(points)
        assert float(shown[-1]) == max(points)
        assert len(axis.get_xticks(minor=True)) == 0


def check_legends(figure):
    """Everything that has a legend has it beside the data."""
    figure.draw_without_rendering()
    legends = [axis.get_legend() for axis in figure.axes if axis.get_legend()] + list(figure.legends)
    assert legends
    for legend in legends:
        box = legend.get_window_extent()
        for axis in visible(figure):
            assert not box.shrunk(0.98, 0.98).overlaps(axis.get_window_extent())


# --- looks -----------------------------------------------------------------------------------------------------------


def test_every_sampler_has_a_look_that_no_other_has():
    """In colour; in grey all but those of one family at least by the marker."""
    names = [*TRAINING_FREE, *PEERS, *GENERATORS, *(FEW_STEP.keys() - TRAINING_FREE.keys() - {*AGAIN})]
    looks = [LOOKS[name] for name in names]
    assert len(set(looks)) == len(looks)
    assert len({look.marker for look in looks}) == len(looks)
    assert len({look.colour for look in looks}) == len(looks)
    assert all(LOOKS[key] == LOOKS[same] for key, same in AGAIN.items())


def test_samplers_on_the_grid_of_karras_and_calibrated_ones_differ_in_their_lines():
    ends = ("", "-karras", CALIBRATED)
    found = looks_of([key + end for key in [*FEW_STEP, *PEERS] for end in ends])
    for key in [*FEW_STEP, *PEERS]:
        looks = [found[key + end] for end in ends]
        assert len({look[:2] for look in looks}) == 1
        assert len({look.line for look in looks}) == 3
    assert not {*found.values()} & {*SPARE}


def test_every_scheme_has_a_look():
    ours = [*OURS, *(f"torchsde:{name}" for name in TorchsdeMethod.NAMES), *LINES]
    assert not [name for name, look in looks_of(ours).items() if look in SPARE]
    assert all(SCHEMES.get(name, name) in LOOKS for name in SCHEMES)
    shown = [looks_of([name])[name] for name in LINES]
    assert len(set(shown)) == len(shown)
    assert len({look.marker for look in shown}) == len(shown)


def test_what_has_no_look_gets_a_spare_one_in_turn():
    found = looks_of(["mine", "yours", "euler", "mine"])
    assert list(found) == ["mine", "yours", "euler"]
    assert (found["mine"], found["yours"], found["euler"]) == (*SPARE[:2], LOOKS["euler"])
    assert len(looks_of(map(str, range(100)))) == 100


def row(key, nfe, value=0.1, depth=None, method=None):
    bounds = {"pathwise_rmse_low": 0.9 * value, "pathwise_rmse_high": 1.1 * value}
    named = {"key": key, "method": method or key, "depth": depth, "nfe": nfe, "steps": nfe, "n": 10}
    return {**named, "pathwise_rmse": value, "pathwise_rmse_se": 0.01, **bounds}


def test_generators_look_as_their_depth_whatever_their_keys():
    rows = [row("runs/a", 4, depth=2), row("runs/b", 4, depth=2), row("c", 4, depth=2, method="plain Sig-DEG")]
    (axis,) = error_figure(rows).axes
    colours = [container.lines[0].get_color() for container in axis.containers]
    assert colours == [LOOKS["depth-2"].colour, SPARE[0].colour, LOOKS["plain"].colour]


# --- axes ------------------------------------------------------------------------------------------------------------


def test_ticks_are_plain_numbers_at_points_and_do_not_touch():
    figure, axis = panels(figsize=(3, 2))
    values = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
    axis.plot(values, values)
    number_ticks(axis, values)
    figure.draw_without_rendering()
    assert axis.get_xticks().tolist() == list(values)
    labels = [label for label in axis.get_xticklabels() if label.get_text()]
    assert {"1", "256"} <= {label.get_text() for label in labels}
    boxes = [label.get_window_extent() for label in labels]
    assert not any(one.overlaps(other) for one, other in pairwise(boxes))


@pytest.mark.parametrize("low, expected", [(0.001, "0.01"), (0.2, "0.5"), (1e-7, "10^{-6}")])
def test_errors_are_plain_numbers_where_they_are_not_too_small(low, expected):
    figure, axis = panels(figsize=(4, 3))
    axis.plot([4, 8], [1.0, low])
    log_axes(axis, [4, 8], xlabel="steps", ylabel="error")
    figure.draw_without_rendering()
    assert any(expected in label.get_text() for label in axis.get_yticklabels())


def test_lines_that_coincide_are_all_seen():
    """Each is smaller than the one before."""
    _, axis = panels(figsize=(4, 3))
    drawn = [draw_line(axis, [4, 8], [1, 2], look, rank=k).lines[0] for k, look in enumerate(SPARE[:4])]
    for one, other in pairwise(drawn):
        assert one.get_markersize() > other.get_markersize()
        assert one.get_linewidth() > other.get_linewidth()
        assert one.get_zorder() < other.get_zorder()


def test_legends_cover_no_data():
    for place in (legend_beside, legend_below):
        figure, axis = panels(figsize=(5, 3))
        axis.plot([1, 2], [1, 2], label="a line")
        axis.set_xlabel("x")
        place(axis)
        check_legends(figure)


# --- figures ---------------------------------------------------------------------------------------------------------


def test_evaluations_that_one_sampler_has_alone_stand_in_the_legend():
    rows = [row("euler", nfe, 1 / nfe) for nfe in (4, 8, 100, 1000)] + [row("ddim", 4) | {"pathwise_rmse": None}]
    rows += [row("sde-dpm++2m", nfe, 1 / nfe) for nfe in (4, 8)]
    figure = error_figure(rows)
    check_axes(figure)
    check_legends(figure)
    (axis,) = figure.axes
    assert axis.get_xticks().tolist() == [4, 8]
    labels = [text.get_text() for text in axis.get_legend().get_texts()]
    assert labels == ["euler\n(0.010 in 100, 0.001 in 1000)", "sde-dpm++2m"]
    assert axis.get_xlabel() == "evaluations of the network per sample"
    assert axis.get_ylabel() == "pathwise RMSE per coordinate"
    assert "10 seeds" in axis.get_title()


def test_columns_of_images_have_names():
    figure = image_figure([("one", torch.zeros(3, 8, 8)), ("two", torch.zeros(3, 8, 8))], columns=range(5, 8))
    first, second = figure.axes
    assert [label.get_text() for label in first.get_xticklabels()] == ["5", "6", "7"]
    assert first.get_xticks().tolist() == [3.5, 12.5, 21.5]
    assert not second.get_xticks().size


@pytest.mark.parametrize("name", list(figures.STUDIES))
def test_the_errors_of_the_studies(name):
    figure = error_figure(*figures.read_report(figures.HERE / name / "report.json"))
    check_axes(figure)
    check_legends(figure)


def test_the_study_of_digits():
    lines = read_json(figures.HERE / "digits" / "results" / "study.json")
    for figure in (study.study_figure(lines["rows"], 500), study.floor_figure(lines["floors"])):
        check_axes(figure)
        check_legends(figure)
        assert all(axis.get_title() for axis in figure.axes)


@pytest.mark.parametrize("module", [geometric_brownian_motion, mixture, noncommutative], ids=lambda m: m.__name__)
def test_work_precision_tells_packages_by_lines_and_schemes_by_colours(module):
    problem = module.problem(False)
    with (figures.HERE / "work_precision" / "results" / f"{problem.name}.csv").open(newline="") as file:
        figure = work_precision_figure(problem.name, list(csv.DictReader(file)), problem.targets)
    check_axes(figure, ticks=lambda figure: figure.axes[:1])
    check_legends(figure)
    styles = {}
    for container in figure.axes[0].containers:
        package, scheme = container.get_label().split(" (")[0].split(" ", 1)
        styles.setdefault(package, set()).add(container.lines[0].get_linestyle())
        assert container.lines[0].get_color() == looks_of([scheme])[scheme].colour
    assert styles == {"sdesig": {"-"}, "torchsde": {"--"}, "diffrax": {":"}}


@pytest.mark.parametrize("name", list(studies.STUDIES))
def test_validation_draws_its_figures_from_its_files(name, tmp_path):
    for file in studies.RESULTS.glob(f"{name}*.csv"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    studies.draw_studies([name], out=tmp_path)
    assert (tmp_path / f"{name}.png").stat().st_size <= LIMIT


@pytest.mark.parametrize("name", ["strong_orders", "weak_orders", "reverse_diffusion"])
def test_points_of_orders_have_labels_intervals_and_ticks(name):
    stored = read_csv(studies.RESULTS / f"{name}_points.csv")
    numbers = ("x", "y", "low", "high")
    points = [Point(p["panel"], p["line"], *(float(p[k]) for k in numbers), p["note"]) for p in stored]
    figure = studies.STUDIES[name].draw([], points)
    check_axes(figure)
    check_legends(figure)
    assert all(point.low <= point.y <= point.high for point in points if point.low == point.low)


def test_all_studies_of_a_folder_are_drawn(tmp_path, capsys):
    (tmp_path / "coverage.csv").write_bytes((studies.RESULTS / "coverage.csv").read_bytes())
    studies.draw_studies(out=tmp_path)
    assert capsys.readouterr().out == f"written: {tmp_path / 'coverage.png'}\n"
    with pytest.raises(FileNotFoundError):
        draw_study(studies.STUDIES["levy_area"], tmp_path)


def test_an_order_is_drawn_in_the_look_of_its_scheme():
    plt = pytest.importorskip("matplotlib.pyplot")
    noise = torch.randn(3, 100, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    errors = torch.tensor([8.0, 16.0, 32.0])[:, None].double() ** -1 * (1 + 0.01 * noise)
    estimate = fit_strong(errors, (8, 16, 32))
    axis = estimate.plot(name="milstein")
    assert axis.lines[0].get_color() == LOOKS["milstein"].colour
    assert axis.get_legend_handles_labels()[1] == [f"milstein: {estimate}"]
    assert axis.get_xticks().tolist() == [8, 16, 32]
    fit_strong(errors[:2], (64, 128)).plot(axis, name="euler")
    assert axis.get_xticks().tolist() == [8, 16, 32, 64, 128]
    plt.close(axis.figure)


def test_the_overview_is_of_the_demo_and_of_one_seed():
    assert one_seed.MAIN in one_seed.SEEDS
    assert set(one_seed.CURVES) <= {row["key"] for row in read_json(one_seed.DEMO)["rows"]}
    assert [sampler.key for sampler in one_seed.samplers()] == [
        *(one_seed.TWO, one_seed.AVERAGE, one_seed.OURS, one_seed.FLOW, one_seed.UNIPC)
    ]


# --- files -----------------------------------------------------------------------------------------------------------


def test_charts_are_small_and_photographs_keep_their_colours(tmp_path):
    colours = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    save_figure(image_figure([("photographs", colours)]), tmp_path / "photographs.png")
    assert len(np.unique(imread(tmp_path / "photographs.png").reshape(-1, 4)[:, :3], axis=0)) > 1000
    save_figure(error_figure([row("euler", 4), row("euler", 8)]), tmp_path / "chart.png")
    assert len(np.unique(imread(tmp_path / "chart.png").reshape(-1, 4)[:, :3], axis=0)) <= 256
    assert {file.name for file in tmp_path.iterdir()} == {"photographs.png", "chart.png"}


def test_committed_charts_are_small():
    drawn = [file for folder in ("validation", "experiments", "docs") for file in (ROOT / folder).rglob("*.png")]
    charts = [file for file in drawn if not file.name.startswith("images-") and "runs" not in file.parts]
    large = {str(file.relative_to(ROOT)): file.stat().st_size for file in charts if file.stat().st_size > LIMIT}
    assert not large
    assert json.loads((figures.HERE / "digits" / "results" / "study.json").read_text())

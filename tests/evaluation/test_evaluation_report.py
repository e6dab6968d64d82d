"""Rows, tables and figures of samples made by hand."""

import json
import math
from dataclasses import replace

import pytest
import torch

from sdesig._intervals import root_mean_square_interval
from sdesig.evaluation import (
    FeatureExtractor,
    FeatureStatistics,
    Sampler,
    error_figure,
    frechet_distance,
    image_figure,
    markdown_table,
    reference_statistics,
    save_figure,
    table_cell,
)
from sdesig.evaluation.metrics import measure_samples
from sdesig.evaluation.report import report_row
from sdesig.sampling import DPMSolver1, PathAverage, StepGrid
from sdesig.sampling.information_floor import Floor

KEYS = {
    *("key", "method", "depth", "steps", "nfe", "pathwise_rmse", "pathwise_rmse_se", "pathwise_rmse_low"),
    *("pathwise_rmse_high", "pathwise_median", "seeds_apart", "floor", "seconds_per_1000", "n"),
    *("digest", "measured"),
}
EULER = Sampler("euler", "Euler", (4, 8), scheme=DPMSolver1())
DDIM = Sampler("ddim", "DDIM", (4, 8), scheme=DPMSolver1(), eta=0.0)
AVERAGE = Sampler("average", "average", (4, 8), scheme=PathAverage(), referenced=True)
DEEP = Sampler("deep", "Deep", (4, 8), scheme=PathAverage(), referenced=True, depth=2)
BARE = Sampler("bare", "bare", (4, 8), scheme=PathAverage(), depth=2)
COORDINATES = FeatureExtractor("coordinates", "c", lambda x: x, floats=True)
FIRST = FeatureExtractor("first", "f", lambda x: x[:, :1], floats=True)
FLOORS = [Floor(0.1 * steps * depth, 0.01, 0.05, 10, steps, depth) for depth in (1, 2) for steps in (4, 8)]
ERRORS = torch.tensor([1.0, -2.0, 3.0, 4.0])


def samples(n=4, seed=0):
    return torch.randn(n, 3, generator=torch.Generator().manual_seed(seed))


class Made:
    """A store of one sampler, made by hand."""

    def __init__(self, sampler, errors, n, seconds):
        self.samplers, self.seeds = {sampler.key: sampler}, range(n)
        self._errors, self._seconds = errors, seconds

    def errors(self, key, steps):
        return self._errors

    def seeds_apart(self, key, steps):
        return None

    def seconds_per_1000(self, key, steps):
        return self._seconds


def row_of(sampler=EULER, steps=4, errors=ERRORS, *, n=4, seconds=0.5, **options):
    return report_row(Made(sampler, errors, n, seconds), sampler.key, steps, **options)


def distances(values, real, *extractors):
    """Of values to the real ones: arguments of a row."""
    found = []
    for extractor in extractors:
        reference = reference_statistics(real, extractor)
        found += measure_samples(extractor(values), extractor, reference, seeds=(0, 3), ema=None)
    return {"measured": found, "extractors": extractors}


# --- rows ------------------------------------------------------------------------------------------------------------


def test_a_row_by_hand():
    """Squares 1, 4, 9, 16: mean 7.5, variance 43; torch's median is the lower one of -2, 1, 3, 4."""
    row = row_of()
    assert set(row) == KEYS
    assert row["pathwise_rmse"] == pytest.approx(math.sqrt(7.5))
    assert row["pathwise_rmse_se"] == pytest.approx(math.sqrt(43) / 2 / (2 * math.sqrt(7.5)))
    assert row["pathwise_median"] == 1.0
    assert (row["key"], row["method"], row["steps"], row["nfe"], row["n"]) == ("euler", "Euler", 4, 4, 4)
    assert row["seconds_per_1000"] == 0.5
    assert row["depth"] is None
    assert row["floor"] is None


def test_a_floor_is_of_one_grid():
    skewed = StepGrid((0.0, 0.3, 1.0))
    floors = [Floor(0.5, 0.01, 0.4, 10, 4, 2), Floor(0.2, 0.01, 0.1, 10, 4, 2, skewed.quantiles)]
    others = [DEEP, replace(DEEP, grid=skewed), replace(DEEP, grid=StepGrid((0, 0.4, 1)))]
    assert [row_of(sampler, floors=floors)["floor"] for sampler in others] == [0.5, 0.2, None]


def test_without_errors_there_is_no_error():
    row = row_of(DDIM, errors=None)
    assert [row[key] for key in ("pathwise_rmse", "pathwise_rmse_se", "pathwise_median")] == [None] * 3
    assert "NaN" not in json.dumps(row)


def test_floors_are_for_generators_with_the_reference_only():
    """Neither for a solver, which has no depth, nor for a generator in another clock."""
    found = [row_of(sampler, 8, floors=FLOORS)["floor"] for sampler in (DEEP, BARE, AVERAGE, EULER)]
    assert found == [1.6, None, None, None]


def test_floors_of_another_depth_or_number_of_steps_are_not_taken():
    made = [(DEEP, 4), (DEEP, 16), (replace(DEEP, depth=3), 8)]
    assert [row_of(sampler, steps, floors=FLOORS)["floor"] for sampler, steps in made] == [0.8, None, None]


def test_frechet_distances_by_hand():
    """The first is "frechet_distance", others have their names; a constant shift has the distance |shift|^2."""
    shift = torch.tensor([0.3, -0.4, 0.0])
    row = row_of(**distances(samples(50) + shift, samples(50), COORDINATES, FIRST))
    names = ("frechet_distance", "frechet_distance_first")
    assert set(row) == KEYS | {*names, *(f"{name}_se" for name in names)}
    assert row["frechet_distance"] == pytest.approx(0.25, rel=1e-4)
    assert row["frechet_distance_first"] == pytest.approx(0.09, rel=1e-4)


def test_frechet_distances_are_to_the_real_data():
    real = samples(80, seed=1)
    row = row_of(**distances(samples(40), real, COORDINATES))
    real_statistics = FeatureStatistics.of(real)
    assert row["frechet_distance"] == pytest.approx(
        FeatureStatistics.of(samples(40)).distance(real_statistics), rel=1e-9
    )
    assert row["frechet_distance_se"] == frechet_distance(samples(40), real_statistics).standard_error > 0
    metrics = {number["metric"]: number["value"] for number in row["measured"]}
    assert metrics["FD-coordinates"] == row["frechet_distance"]


def test_rows_are_json():
    given = distances(samples(), ERRORS[:, None] + samples(), COORDINATES)
    for row in (row_of(DEEP, floors=FLOORS, **given), row_of(DDIM, errors=None)):
        again = json.loads(json.dumps(row, allow_nan=False))
        assert again == {**row, "measured": [{**number, "seeds": [0, 3]} for number in row["measured"]]}


# --- table -----------------------------------------------------------------------------------------------------------

COLUMNS = {"method": "method", "steps": "steps", "pathwise_rmse": "RMSE", "floor": "floor", "absent": "absent"}


def test_a_table_by_hand():
    rows = [
        {"method": "euler", "steps": 16, "pathwise_rmse": 0.123456, "pathwise_rmse_se": 0.00123, "floor": None},
        {"method": "deep", "steps": 4, "pathwise_rmse": None, "pathwise_rmse_se": None, "floor": 0.0123456},
    ]
    assert markdown_table(rows, COLUMNS) == (
        "| method | steps | RMSE             | floor  | absent |\n"
        "|--------|-------|------------------|--------|--------|\n"
        "| euler  | 16    | 0.1235 +- 0.0012 | -      | -      |\n"
        "| deep   | 4     | -                | 0.0123 | -      |\n"
    )


def test_a_table_without_rows_is_its_head():
    assert markdown_table([], {"a": "alpha"}) == "| alpha |\n|-------|\n"


def test_a_zero_is_no_missing_value():
    row = row_of(EULER, 4, torch.zeros(4), seconds=0.0)
    table = markdown_table([row], {"pathwise_rmse": "a", "seconds_per_1000": "b"})
    assert table.splitlines()[2] == "| 0.0000 (0.0000 - 0.0000) | 0 |"


def test_cells_say_how_certain_they_are():
    """An interval, or that there is none; +- for what has a standard error, to two of its digits; shares in %."""
    row = {"pathwise_rmse": 0.05404, "pathwise_rmse_se": 0.0027, "seeds_apart": 0.0315, "n": 2000, "floor": 0.00673}
    assert table_cell(row, "pathwise_rmse") == "0.0540 +- 0.0027"  # of an older report
    row |= {"pathwise_rmse_low": 0.04912, "pathwise_rmse_high": 0.06}
    assert table_cell(row, "pathwise_rmse") == "0.0540 (0.0491 - 0.0600)"
    assert table_cell(row, "pathwise_rmse", 3) == "0.054 (0.049 - 0.060)"
    row |= {"pathwise_rmse_low": None, "pathwise_rmse_high": None}
    assert table_cell(row, "pathwise_rmse") == "0.0540 (?)"
    assert [table_cell(row, key) for key in ("seeds_apart", "n", "floor", "missing")] == [
        "3.1 %",
        "2000",
        "0.00673",
        "-",
    ]
    for value, error, expected in (
        (0.8642, 0.0213, "0.864 +- 0.021"),
        (30.7, 0.31, "30.70 +- 0.31"),
        (5.0, 20.0, "5 +- 20"),
    ):
        assert table_cell({"fd": value, "fd_se": error}, "fd") == expected
    assert table_cell({"fd": 0.8642, "fd_se": None}, "fd") == "0.864"


def test_intervals_of_many_seeds_and_of_few():
    errors = torch.linspace(0.5, 1.5, 100)
    row = row_of(errors=errors)
    assert (row["pathwise_rmse_low"], row["pathwise_rmse_high"]) == root_mean_square_interval(errors)
    errors[0] = 100.0
    row = row_of(errors=errors)
    assert row["pathwise_rmse_low"] is row["pathwise_rmse_high"] is None


def test_rows_count_the_evaluations_of_other_samplers():
    row = row_of(Sampler("peer", "Peer", (3,), draw=lambda y, n: y, evaluations=2), 3, None)
    assert (row["nfe"], row["depth"], row["floor"], row["pathwise_rmse"], row["seeds_apart"]) == (6, *[None] * 4)


# --- figures ---------------------------------------------------------------------------------------------------------


def test_labels_are_no_formulas_and_no_columns(tmp_path):
    """Dollars of a label are shown as they are, and a bar in it does not end a cell."""
    label = r"$\nothing_$ | two"
    row = row_of(replace(EULER, label=label), 4)
    save_figure(error_figure([row]), tmp_path / "errors.png")
    save_figure(image_figure([(label, torch.zeros(2, 4, 4))]), tmp_path / "images.png")
    assert markdown_table([row], {"method": "m", "steps": "n"}).splitlines()[2] == r"| $\nothing_$ \| two | 4 |"


def test_the_error_figure_has_a_line_per_method_and_floor():
    """Not for DDIM, which has no errors."""
    made = [(EULER, 4), (EULER, 8), (DDIM, 4, None), (DEEP, 4), (DEEP, 8)]
    rows = [row_of(*arguments, floors=FLOORS) for arguments in made]
    (axis,) = error_figure(rows, FLOORS).axes
    assert [text.get_text() for text in axis.get_legend().get_texts()] == [
        "floor of depth 1",
        "floor of depth 2",
        "Euler",
        "Deep",
    ]
    assert [container.get_label() for container in axis.containers] == ["Euler", "Deep"]
    dotted = [line for line in axis.lines if line.get_linestyle() == ":"]
    assert [line.get_xydata().tolist() for line in dotted] == [
        [[4, pytest.approx(0.4)], [8, pytest.approx(0.8)]],
        [[4, pytest.approx(0.8)], [8, pytest.approx(1.6)]],
    ]
    assert dotted[1].get_color() == axis.containers[1].lines[0].get_color()
    assert axis.get_xscale() == axis.get_yscale() == "log"
    assert axis.get_xticks().tolist() == [4, 8]


def test_error_bars_are_95_percent():
    (axis,) = error_figure([row_of()]).axes
    (container,) = axis.containers
    (segment,) = container.lines[2][0].get_segments()
    half = 1.96 * math.sqrt(43) / 2 / (2 * math.sqrt(7.5))
    assert segment[:, 1].tolist() == [pytest.approx(math.sqrt(7.5) - half), pytest.approx(math.sqrt(7.5) + half)]


def test_many_steps_can_be_left_out():
    (axis,) = error_figure([row_of(EULER, 4), row_of(EULER, 1000)], most_steps=100).axes
    assert axis.containers[0].lines[0].get_xydata().tolist() == [[4, pytest.approx(math.sqrt(7.5))]]
    assert axis.get_xticks().tolist() == [4]


def test_the_image_figure_has_a_line_per_name_and_a_column_per_image(tmp_path):
    images = torch.linspace(-2, 2, 3 * 64).reshape(3, 8, 8)
    figure = image_figure([("one", images), ("two", -images)], title="both")
    assert [axis.get_ylabel() for axis in figure.axes] == ["one", "two"]
    assert figure.get_suptitle() == "both"
    shown = torch.from_numpy(figure.axes[0].images[0].get_array().filled())
    assert shown.shape == (8, 27)
    torch.testing.assert_close(shown[:, 9:17], images[1].clamp(-1, 1))
    assert bool((shown[:, 8::9] == 1).all())
    figure.savefig(tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 0


def test_the_image_figure_does_not_warn():
    image_figure([("one", torch.zeros(2, 8, 8))])


def test_figures_are_drawn_without_a_display(tmp_path):
    """Off pyplot: nothing is left open."""
    plt = pytest.importorskip("matplotlib.pyplot")
    error_figure([row_of(), row_of(DDIM, 4, None)], FLOORS).savefig(tmp_path / "b.png")
    assert plt.get_fignums() == []

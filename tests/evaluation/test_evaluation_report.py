"""Tables and figures of outcomes made by hand."""

import json
import math

import pytest
import torch

from sdesig.evaluation.comparison import OtherSampler, Outcome, Sampler
from sdesig.evaluation.frechet import FeatureStatistics, frechet_distance
from sdesig.evaluation.report import cell, error_figure, image_figure, markdown_table, report_rows
from sdesig.sampling import DPMSolver1, PathAverage, StepGrid
from sdesig.sampling.error_statistics import root_mean_square_interval
from sdesig.sampling.information_floor import Floor

KEYS = {
    *("method", "depth", "steps", "nfe", "pathwise_rmse", "pathwise_rmse_se", "pathwise_rmse_low"),
    *("pathwise_rmse_high", "pathwise_median", "seeds_apart", "floor", "seconds_per_1000", "n"),
}
EULER = Sampler("euler", DPMSolver1())
DDIM = Sampler("ddim", DPMSolver1(), eta=0.0)
AVERAGE = Sampler("average", PathAverage(), referenced=True)
DEEP = Sampler("deep", PathAverage(), referenced=True, depth=2)
BARE = Sampler("bare", PathAverage(), depth=2)
FLOORS = [Floor(0.1 * steps * depth, 0.01, 0.05, 10, steps, depth) for depth in (1, 2) for steps in (4, 8)]
ERRORS = torch.tensor([1.0, -2.0, 3.0, 4.0])


def samples(n=4, seed=0):
    return torch.randn(n, 3, generator=torch.Generator().manual_seed(seed))


def outcome(sampler=EULER, steps=4, errors=ERRORS, n=4, seconds=0.5):
    return Outcome(sampler, steps, samples(n), errors, seconds)


# --- rows ------------------------------------------------------------------------------------------------------------


def test_a_row_by_hand():
    """Squares 1, 4, 9, 16: mean 7.5, variance 43; torch's median is the lower one of -2, 1, 3, 4."""
    (row,) = report_rows([outcome()], real=None)
    assert set(row) == KEYS
    assert row["pathwise_rmse"] == pytest.approx(math.sqrt(7.5))
    assert row["pathwise_rmse_se"] == pytest.approx(math.sqrt(43) / 2 / (2 * math.sqrt(7.5)))
    assert row["pathwise_median"] == 1.0
    assert (row["method"], row["steps"], row["nfe"], row["n"], row["seconds_per_1000"]) == ("euler", 4, 4, 4, 0.5)
    assert row["depth"] is None
    assert row["floor"] is None


def test_a_floor_is_of_one_grid():
    skewed = StepGrid((0.0, 0.3, 1.0))
    floors = [Floor(0.5, 0.01, 0.4, 10, 4, 2), Floor(0.2, 0.01, 0.1, 10, 4, 2, skewed.quantiles)]
    others = [DEEP, DEEP._replace(name="skewed", grid=skewed), DEEP._replace(name="other", grid=StepGrid((0, 0.4, 1)))]
    rows = report_rows([outcome(sampler) for sampler in others], floors=floors, real=None)
    assert [row["floor"] for row in rows] == [0.5, 0.2, None]


def test_without_errors_there_is_no_error():
    (row,) = report_rows([outcome(DDIM, errors=None)], real=None)
    assert [row[key] for key in ("pathwise_rmse", "pathwise_rmse_se", "pathwise_median")] == [None] * 3
    assert "NaN" not in json.dumps(row)


def test_rows_keep_the_order():
    made = [outcome(EULER, 8), outcome(DDIM, 4, None), outcome(EULER, 4)]
    assert [(row["method"], row["steps"]) for row in report_rows(made, real=None)] == [
        ("euler", 8),
        ("ddim", 4),
        ("euler", 4),
    ]


def test_floors_are_for_generators_with_the_reference_only():
    """Neither for a solver, which has no depth, nor for a generator in another clock."""
    made = [outcome(sampler, 8) for sampler in (DEEP, BARE, AVERAGE, EULER)]
    assert [row["floor"] for row in report_rows(made, floors=FLOORS, real=None)] == [1.6, None, None, None]


def test_floors_of_another_depth_or_number_of_steps_are_not_taken():
    made = [outcome(DEEP, 4), outcome(DEEP, 16), outcome(DEEP._replace(depth=3), 8)]
    assert [row["floor"] for row in report_rows(made, floors=FLOORS, real=None)] == [0.8, None, None]


def test_frechet_distances_by_hand():
    """The first is "frechet_distance", others have their names; a constant shift has the distance |shift|^2."""
    shift = torch.tensor([0.3, -0.4, 0.0])
    made = Outcome(EULER, 4, samples(50) + shift, None)
    features = {"pixels": lambda x: x, "first": lambda x: x[:, :1]}
    (row,) = report_rows([made], features=features, real=samples(50))
    names = ("frechet_distance", "frechet_distance_first")
    assert set(row) == KEYS | {*names, *(f"{name}_se" for name in names)}
    assert row["frechet_distance"] == pytest.approx(0.25, rel=1e-4)
    assert row["frechet_distance_first"] == pytest.approx(0.09, rel=1e-4)


def test_frechet_distances_are_to_the_real_data():
    real = samples(80, seed=1)
    (row,) = report_rows([outcome(n=40)], features={"x": lambda x: x}, real=real)
    real_statistics = FeatureStatistics.of(real)
    assert row["frechet_distance"] == pytest.approx(
        FeatureStatistics.of(samples(40)).distance(real_statistics), rel=1e-9
    )
    assert row["frechet_distance_se"] == frechet_distance(samples(40), real_statistics).standard_error > 0


def test_without_real_data_there_are_no_distances():
    (row,) = report_rows([outcome()], features={"x": lambda x: x}, real=None)
    assert set(row) == KEYS


def test_rows_are_json():
    rows = report_rows(
        [outcome(DEEP), outcome(DDIM, 4, None)],
        floors=FLOORS,
        features={"x": lambda x: x},
        real=ERRORS[:, None] + samples(),
    )
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows


def test_no_outcomes():
    assert report_rows([], floors=FLOORS, real=None) == []


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
    rows = report_rows([outcome(EULER, 4, torch.zeros(4), seconds=0.0)], real=None)
    table = markdown_table(rows, {"pathwise_rmse": "a", "seconds_per_1000": "b"})
    assert table.splitlines()[2] == "| 0.0000 (0.0000 - 0.0000) | 0 |"


def test_cells_say_how_certain_they_are():
    """An interval, or that there is none; +- for what has a standard error, to two of its digits; shares in %."""
    row = {"pathwise_rmse": 0.05404, "pathwise_rmse_se": 0.0027, "seeds_apart": 0.0315, "n": 2000, "floor": 0.00673}
    assert cell(row, "pathwise_rmse") == "0.0540 +- 0.0027"  # of an older report
    row |= {"pathwise_rmse_low": 0.04912, "pathwise_rmse_high": 0.06}
    assert cell(row, "pathwise_rmse") == "0.0540 (0.0491 - 0.0600)"
    assert cell(row, "pathwise_rmse", 3) == "0.054 (0.049 - 0.060)"
    row |= {"pathwise_rmse_low": None, "pathwise_rmse_high": None}
    assert cell(row, "pathwise_rmse") == "0.0540 (?)"
    assert [cell(row, key) for key in ("seeds_apart", "n", "floor", "missing")] == ["3.1 %", "2000", "0.00673", "-"]
    for value, error, expected in (
        (0.8642, 0.0213, "0.864 +- 0.021"),
        (30.7, 0.31, "30.70 +- 0.31"),
        (5.0, 20.0, "5 +- 20"),
    ):
        assert cell({"fd": value, "fd_se": error}, "fd") == expected
    assert cell({"fd": 0.8642, "fd_se": None}, "fd") == "0.864"


def test_intervals_of_many_seeds_and_of_few():
    errors = torch.linspace(0.5, 1.5, 100)
    (row,) = report_rows([outcome(errors=errors)], real=None)
    assert (row["pathwise_rmse_low"], row["pathwise_rmse_high"]) == root_mean_square_interval(errors)
    errors[0] = 100.0
    (row,) = report_rows([outcome(errors=errors)], real=None)
    assert row["pathwise_rmse_low"] is row["pathwise_rmse_high"] is None


def test_rows_count_the_evaluations_of_other_samplers():
    (row,) = report_rows([Outcome(OtherSampler("peer", lambda y, n: y, evaluations=2), 3, samples(), None)], real=None)
    assert (row["nfe"], row["depth"], row["floor"], row["pathwise_rmse"], row["seeds_apart"]) == (6, *[None] * 4)


# --- figures ---------------------------------------------------------------------------------------------------------


def rows_of(*made):
    return report_rows(made, floors=FLOORS, real=None)


def test_the_error_figure_has_a_line_per_method_and_floor():
    """Not for DDIM, which has no errors."""
    rows = rows_of(outcome(EULER, 4), outcome(EULER, 8), outcome(DDIM, 4, None), outcome(DEEP, 4), outcome(DEEP, 8))
    (axis,) = error_figure(rows, FLOORS).axes
    assert [text.get_text() for text in axis.get_legend().get_texts()] == [
        "floor of depth 1",
        "floor of depth 2",
        "euler",
        "deep",
    ]
    assert [container.get_label() for container in axis.containers] == ["euler", "deep"]
    dashed = [line for line in axis.lines if line.get_linestyle() == "--"]
    assert [line.get_xydata().tolist() for line in dashed] == [
        [[4, pytest.approx(0.4)], [8, pytest.approx(0.8)]],
        [[4, pytest.approx(0.8)], [8, pytest.approx(1.6)]],
    ]
    assert dashed[1].get_color() == axis.containers[1].lines[0].get_color()
    assert axis.get_xscale() == axis.get_yscale() == "log"
    assert axis.get_xticks().tolist() == [4, 8]


def test_error_bars_are_95_percent():
    (axis,) = error_figure(rows_of(outcome())).axes
    (container,) = axis.containers
    (segment,) = container.lines[2][0].get_segments()
    half = 1.96 * math.sqrt(43) / 2 / (2 * math.sqrt(7.5))
    assert segment[:, 1].tolist() == [pytest.approx(math.sqrt(7.5) - half), pytest.approx(math.sqrt(7.5) + half)]


def test_many_steps_can_be_left_out():
    (axis,) = error_figure(rows_of(outcome(EULER, 4), outcome(EULER, 1000)), most_steps=100).axes
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
    error_figure(rows_of(outcome(), outcome(DDIM, 4, None)), FLOORS).savefig(tmp_path / "b.png")
    assert plt.get_fignums() == []

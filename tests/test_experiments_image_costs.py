"""The table of costs in small. No assertion depends on real times."""

import json

import pytest

from experiments.image_costs import __main__ as costs
from sdesig.sigdeg import UNet


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("costs")
    with pytest.MonkeyPatch.context() as patch:
        small = costs.Setting(lambda: UNet(1, 16, widths=(64, 128)), 2, 8)
        patch.setattr(costs, "SETTINGS", {"small": small})
        patch.setattr(costs, "REPEATS", 1)
        costs.main(["--out", str(folder)])
    return folder


def test_times(report):
    (row,) = json.loads((report / "costs.json").read_text())["times"]
    assert (row["network"], row["images"]) == ("small", 2)
    assert row["overhead_percent"] == pytest.approx(100 * (row["seconds"] / row["seconds_of_network"] - 1))


def test_bytes(report):
    """A rollout of ten steps keeps ten times as much as one, two of them a fifth of that, none hardly anything."""
    rows = {row["of"]: row["ratio"] for row in json.loads((report / "costs.json").read_text())["memory"]}
    assert rows["training step of the teacher"] == 1.0
    for name, ratio in rows.items():
        if "student" in name:
            assert 1.0 < ratio < 1.25, name
    assert rows["step of a student, depth 1"] < rows["step of a student, depth 4"]
    whole = rows["rollout of 10 steps, depth 4"]
    assert 9 < whole < 12
    assert rows["the same, window=2"] < 0.3 * whole
    assert rows["the same, recompute=True"] < 0.1 * whole


def test_the_text(report):
    text = (report / "costs.md").read_text()
    assert "| small " in text
    assert "rollout of 10 steps" in text

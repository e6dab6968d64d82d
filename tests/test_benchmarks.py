"""The benchmark runs on tiny sizes, and its arithmetic is right. No assertion depends on real times."""

import csv
import importlib.util
import math
import subprocess
import sys

import pytest
import torch

from experiments.benchmarks import __main__ as program
from experiments.benchmarks import (
    agreement,
    comparison,
    drawing,
    image_overhead,
    known_grid,
    levy_area,
    memory,
    random_order,
    report,
    sampling,
    scheduler,
    solvers,
)
from experiments.benchmarks.comparison import (
    Case,
    Check,
    Cost,
    Expense,
    Overhead,
    Peak,
    compare,
    fastest,
    import_peer,
    max_z,
)

PEERS = ("sdeint", "jax", "diffrax", "signax")


class Clock:
    """Stands in for time.perf_counter; a run takes the next of its durations and adds its name to `calls`."""

    def __init__(self, monkeypatch):
        self.now, self.calls = 0.0, []
        monkeypatch.setattr(comparison.time, "perf_counter", lambda: self.now)

    def run(self, name, *durations):
        remaining = iter(durations)

        def run():
            self.calls.append(name)
            self.now += next(remaining)

        return run


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


def _case(clock, target, ours=1.0, peer=2.0):
    runs = clock.run("ours", *4 * [ours]), clock.run("peer", *4 * [peer])
    return Case("task", "we", "they", *runs, repetitions=3, target=target, explanation="too slow")


def test_compare_takes_the_median_of_ratios_of_neighbours_without_the_first_calls(clock):
    timing = compare(clock.run("ours", 100.0, 1.0, 2.0, 4.0), clock.run("peer", 1.0, 3.0, 2.0, 20.0), 3)
    assert clock.calls == ["ours", "peer"] * 4
    assert (timing.ratio, timing.lowest, timing.highest) == (3.0, 1.0, 5.0)
    assert (timing.ours_seconds, timing.peer_seconds) == (2.0, 3.0)


def test_fastest_ignores_the_first_call_and_single_outliers(clock):
    runs = {"steady": clock.run("steady", 1.0, 2.0, 2.0, 2.0), "best": clock.run("best", 9.0, 1.0, 9.0, 1.0)}
    assert fastest(runs, 3) == "best"


@pytest.mark.parametrize("target, reached", [(None, None), (2.0, True), (2.1, False)])
def test_a_case_reaches_its_target_or_not(clock, target, reached):
    result = _case(clock, target).measure()
    assert (result.value, result.reached) == (2.0, reached)


@pytest.mark.parametrize("bound, reached", [(2.1, True), (2.0, False)])
def test_a_cost_is_the_median_time_of_a_step_without_the_first_run(clock, bound, reached):
    run = clock.run("ours", 9e-5, 1e-5, 2e-5, 7e-5)
    result = Cost("task", "we", run, steps=10, repetitions=3, bound=bound, explanation="too slow").measure()
    assert result.value == pytest.approx(2.0)
    assert (result.reached, result.timing, result.target) == (reached, None, f"< {bound:g}")


@pytest.mark.parametrize("bound, reached", [(None, None), (3.0, True), (2.9, False)])
def test_an_expense_is_of_units_and_the_smaller_the_better(clock, bound, reached):
    runs = clock.run("ours", 9.0, 6.0, 8.0, 12.0), clock.run("peer", 9.0, 1.0, 2.0, 1.0)
    result = Expense("task", "we", "they", *runs, 3, bound, units_ours=4, units_peer=2).measure()
    assert (result.value, result.timing.lowest, result.timing.highest) == (3.0, 2.0, 6.0)
    assert (result.quantity, result.reached, result.timing.ours_seconds) == ("cost", reached, 8.0)
    assert report.measurement(result) == "cost 3 (2 - 6)"


def test_an_overhead_is_in_percent_of_the_part(clock):
    inside = iter([5.0, 1.0, 2.0, 1.0])  # the first is what was before
    result = Overhead("task", "we", "part", clock.run("ours", 1.25, 3.0, 3.0), lambda: next(inside), 3, 50.0).measure()
    assert (result.value, result.timing.lowest, result.timing.highest) == (50.0, 25.0, 200.0)
    assert (result.quantity, result.reached, result.target) == ("overhead, %", True, "<= 50")


@pytest.mark.parametrize("peak, reached", [(12.0, True), (12.1, False), (259.4, False)])
def test_a_peak(peak, reached):
    result = Peak("task", "we", "states", lambda: peak, 12.0).measure()
    assert (result.value, result.reached, result.target) == (peak, reached, "<= 12")
    assert report.measurement(result) == f"states = {'12' if peak < 100 else '259'}"


def test_the_peak_of_a_tensor_that_is_gone():
    """In a process of its own, as it is measured: in a large one the system may take pages away meanwhile."""
    size = 2**26
    work = f"print(peak_bytes(lambda: torch.ones({size // 4}).sum()))"
    code = f"import torch; from experiments.benchmarks.memory import peak_bytes; {work}"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 0.9 * size < int(run.stdout) < 1.5 * size


@pytest.mark.parametrize("name", memory.WORK)
def test_what_takes_memory_runs(name, request):
    if name != "sample":
        request.getfixturevalue("diffusers")
    assert memory.WORK[name](True)().isfinite().all()


@pytest.mark.parametrize("value, reached", [(0.9, True), (1.0, False), (math.nan, False)])
def test_a_check_passes_below_its_bound_only(value, reached):
    assert Check("what", "we", "they", "max |z|", lambda: value, 1.0).measure().reached is reached


def test_max_z_is_a_z_score_and_sees_a_small_shift():
    generator = torch.Generator().manual_seed(0)
    ours, peer = (torch.randn(n, 3, generator=generator, dtype=torch.float64) for n in (20_000, 5_000))
    means, variances = [x.mean(0) for x in (ours, peer)], [x.var(0) for x in (ours, peer)]
    expected = [
        abs(means[0][k] - means[1][k]) / math.sqrt(variances[0][k] / 2e4 + variances[1][k] / 5e3) for k in range(3)
    ]
    assert max_z(ours, peer) == pytest.approx(float(max(expected)))
    assert max_z(ours, peer) < 5  # false-alarm rate 2e-6
    assert max_z(ours + torch.tensor([0.0, 0.15, 0.0]), peer) > 5  # ten standard errors


def test_a_missing_peer_names_the_extra():
    with pytest.raises(ModuleNotFoundError, match=r"needs no_such_package: pip install -e '\.\[peers\]'"):
        import_peer("no_such_package")


@pytest.mark.parametrize(
    "cases",
    [
        *(sampling.cases, drawing.cases, image_overhead.cases, scheduler.cases),
        *(levy_area.automatic_cases, known_grid.cases, random_order.cases, solvers.cases),
    ],
    ids=lambda c: c.__module__,
)
def test_topics_without_optional_peers_run(cases, request):
    if cases is scheduler.cases:
        request.getfixturevalue("diffusers")
    results = [case.measure() for case in cases(quick=True)]
    assert results
    for result in results:
        assert 0 < result.value < math.inf
        assert result.timing is None or 0 < result.timing.lowest <= result.value <= result.timing.highest


@pytest.mark.skipif(not all(map(importlib.util.find_spec, PEERS)), reason="needs the extra 'peers'")
def test_the_whole_benchmark_runs_and_all_peers_agree(monkeypatch):
    monkeypatch.setattr(program, "THREADS", 1)
    assert program.main(["--quick"]) == 0


def test_values_of_the_peers_convention_survive_the_way_through_coefficients():
    values = torch.randn(3, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.allclose(agreement._values(agreement._partial_signature(values, 0.3)), values, rtol=1e-14)


def test_exit_status_tells_disagreement_but_not_slowness(clock, monkeypatch, capsys):
    monkeypatch.setattr(program, "THREADS", 1)
    failing = Check("law", "we", "they", "max |z|", lambda: 7.0, 5.0)
    monkeypatch.setattr(
        program, "TOPICS", {"speed": lambda quick: [_case(clock, 10.0)], "law": lambda quick: [failing]}
    )
    assert program.main(["--quick", "--only", "speed"]) == 0
    assert "NOT REACHED" in capsys.readouterr().out
    assert program.main(["--quick"]) == 1


def test_only_a_complete_run_writes_the_report(clock, monkeypatch, tmp_path):
    monkeypatch.setattr(program, "THREADS", 1)
    monkeypatch.setattr(program, "RESULTS", tmp_path / "results")
    check = Check("law", "we", "they", "max |z|", lambda: 1.25, 5.0)
    monkeypatch.setattr(
        program,
        "TOPICS",
        {"slow": lambda quick: [_case(clock, 3.0), _case(clock, 1.0)], "the_law": lambda quick: [check]},
    )
    program.main(["--only", "slow"])
    program.main(["--quick"])
    assert not (tmp_path / "results").exists()

    assert program.main([]) == 0
    table = (tmp_path / "results" / "foundation.md").read_text()
    assert "| task | we: 1 s | they: 2 s | 2 (2 - 2) | >= 3 | no |" in table
    assert "| task | we: 1 s | they: 2 s | 2 (2 - 2) | >= 1 | yes |" in table
    assert "| law | we | they | max \\|z\\| = 1.2 | < 5 | yes |" in table
    assert table.count("Not reached: too slow") == 1
    assert "## The law" in table
    assert f"torch {torch.__version__.split('+')[0]}" in table
    aimed = (tmp_path / "results" / "targets.md").read_text()
    assert "1 of 3 targets are missed" in aimed
    missed, reached, law = (line for line in aimed.splitlines() if line.endswith(("no |", "yes |")))
    assert missed == "| slow | task | we | they | 2 (2 - 2) | >= 3 | no |"
    assert (reached.startswith("| slow | task"), law.startswith("| the law | law")) == (True, True)
    with (tmp_path / "results" / "foundation.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["reached"] for row in rows] == ["no", "yes", "yes"]
    assert tuple(rows[0]) == report.COLUMNS
    assert (rows[0]["topic"], float(rows[0]["value"]), float(rows[0]["peer_seconds"])) == ("slow", 2.0, 2.0)
    assert (rows[2]["quantity"], float(rows[2]["value"]), rows[2]["lowest"]) == ("max |z|", 1.25, "")

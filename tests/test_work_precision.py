"""Work-precision studies run on tiny sizes, their packages agree, and their arithmetic is right."""

import csv
import importlib.util
import math

import numpy as np
import pytest
import torch

from experiments.work_precision import __main__ as program
from experiments.work_precision import evaluations, geometric_brownian_motion, mixture, noncommutative, report
from experiments.work_precision.curves import Curve, errors, measure_seconds, powers_of_two, work_to_reach
from sdesig.sampling import CanonicalSDE, SNRDenoiser

needs_diffrax = pytest.mark.skipif(not importlib.util.find_spec("diffrax"), reason="needs the extra 'peers'")


@pytest.fixture
def without_diffrax(monkeypatch):
    for module in (geometric_brownian_motion, mixture, noncommutative):
        monkeypatch.setattr(module, "installed", lambda package: False)


def _power_law(label, factor, order, steps, paths=100):
    """Differences whose RMSE per coordinate is factor N^-order, the same size on every path."""
    signs = torch.randint(0, 2, (paths, 64), generator=torch.Generator().manual_seed(3)).double() * 2 - 1
    sizes = torch.tensor([factor * n**-order for n in steps], dtype=torch.float64)
    return Curve("sdesig", f"sdesig {label}", label.split(",")[0], steps, sizes[:, None, None] * signs)


def test_work_between_points_follows_the_power_law_through_them():
    steps = powers_of_two(4, 64)
    assert steps == (4, 8, 16, 32, 64)
    rmse, seconds = [2.0 * n**-1.5 for n in steps], [0.1 * n for n in steps]
    assert work_to_reach(0.02, rmse, seconds) == pytest.approx(0.1 * 100 ** (2 / 3))
    assert work_to_reach(rmse[2], rmse, seconds) == pytest.approx(seconds[2])
    assert work_to_reach(1.0, rmse, seconds) == seconds[0]
    assert math.isinf(work_to_reach(1e-3, rmse, seconds))


def test_a_curve_knows_its_error_and_the_standard_error():
    curve = _power_law("path_average", 2.0, 1.5, (4, 16))
    assert curve.rmse == pytest.approx([0.25, 0.03125])
    assert curve.standard_errors == pytest.approx([0.0, 0.0], abs=1e-12)
    noise = torch.randn(1, 20_000, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    # E (|z|^2/4) = 1, with variance 1/2: sqrt(1/2/n)/2
    assert Curve("sdesig", "", "", (1,), noise).standard_errors[0] == pytest.approx(
        math.sqrt(0.5 / 20_000) / 2, rel=0.1
    )


def test_evaluations_and_their_ratios_are_those_of_the_power_laws():
    steps = tuple(range(1, 2000, 10))
    curves = [
        _power_law("dpm_solver_2m", 2.0, 1.0, steps),
        _power_law("path_average, no reference", 2.0, 1.5, steps),
        _power_law("path_average, scalar reference", 0.01, 1.5, steps),
        _power_law("shark", 2.0, 1.5, steps),
    ]
    rows = evaluations.needs(curves, mixture.mixture().means.double())
    found = {(row.measure.split(",")[0], row.label): row for row in rows}
    baseline, plain, scalar, shark = (found["per coordinate", curve.label] for curve in curves)
    assert baseline.evaluations == pytest.approx(40.0)
    assert plain.evaluations == pytest.approx(40 ** (2 / 3))
    assert plain.ratio == pytest.approx(40 ** (1 / 3))
    assert plain.ratio_interval == pytest.approx((plain.ratio, plain.ratio))
    assert shark.evaluations == pytest.approx(2 * plain.evaluations)
    assert (plain.reached, scalar.reached, shark.reached) == (True, True, None)
    assert (plain.at_most, scalar.at_most) == (False, True)
    # 8 times the error of a coordinate in all 64
    assert found["summed over all 64", curves[0].label].evaluations == pytest.approx(320.0)


def test_the_plane_holds_the_means_and_nothing_else():
    law = mixture.mixture()
    whole, plane = (list(evaluations.measures(law.means).values())[k] for k in (2, 1))
    assert torch.allclose(plane(law.means), whole(law.means))
    beside = law.means.new_ones(64) - law.means @ torch.ones(64) @ law.means / 4  # sum_j m_j m_j^T = 4 P
    assert plane(beside).item() < 1e-9


def test_the_intervals_cover_the_spread_of_the_paths():
    steps = (8, 16, 32, 64)
    curves = [_power_law(name, 2.0, 1.0, steps, 400) for name in ("dpm_solver_2m", "path_average, no reference")]
    scales = torch.randn(2, 400, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for curve, scale in zip(curves, scales, strict=True):
        curve.differences *= scale[:, None]
    ratio = evaluations.needs(curves, mixture.mixture().means.double())[1]
    # log of the ratio of two means of 400 chi-squares, halved: standard deviation sqrt(2 * 2/400)/2 = .05
    width = math.log(ratio.ratio_interval[1] / ratio.ratio_interval[0])
    assert width == pytest.approx(2 * 1.96 * 0.05, rel=0.25)
    assert ratio.reached is False


def test_log_snr_is_the_canonical_sde_in_other_variables():
    law = mixture.mixture()
    sde, canonical = mixture.LogSNR(law), CanonicalSDE(SNRDenoiser(law.denoise_y))
    x = torch.randn(5, 64, generator=torch.Generator().manual_seed(0))
    for s in (-6.0, 0.0, 5.0):
        snr = torch.tensor(math.exp(s), dtype=torch.float64)
        # x = y/tau, dtau = tau ds: dx = dy/tau - x ds
        assert torch.allclose(sde.f(s, x), canonical.f(snr, snr * x) - x, atol=1e-5)
        assert torch.allclose(sde.g(s, x), canonical.g(snr, snr * x) * (snr.sqrt() / snr).float())


@needs_diffrax
def test_the_mixture_in_jax_is_the_mixture():
    law = mixture.mixture()
    sde, peer = mixture.LogSNR(law), mixture._diffrax(law, 16)
    x = torch.randn(5, 64, generator=torch.Generator().manual_seed(0))
    for s in (-6.0, 0.0, 5.0):
        assert np.allclose(np.array(peer.drifts["ito"](s, x.numpy())), sde.f(s, x).numpy(), atol=1e-4)
        assert np.allclose(np.array(peer.diffusion(s, x.numpy()).diagonal), sde.g(s, x).numpy(), rtol=1e-5)


def _same_errors(curves, labels):
    """|z| < 5 (false-alarm rate 6e-7 each, somewhat more for squares of lognormal numbers)."""
    by_label = {curve.label: curve for curve in curves}
    first, second = (by_label[label] for label in labels)
    pairs = zip(first.rmse, second.rmse, first.standard_errors, second.standard_errors, strict=True)
    return all(abs(a - b) < 5 * math.hypot(c, d) for a, b, c, d in pairs)


def test_one_scheme_has_one_error_in_ours_and_torchsde(without_diffrax):
    curves = errors(geometric_brownian_motion.problem(True), 2000)
    for ours, theirs in (("euler", "euler"), ("milstein", "milstein"), ("torchsde:srk", "srk")):
        assert _same_errors(curves, (f"sdesig {ours}", f"torchsde {theirs}"))
    assert not _same_errors(curves, ("sdesig euler", "torchsde milstein"))


@needs_diffrax
def test_one_scheme_has_one_error_in_ours_and_diffrax():
    problem = geometric_brownian_motion.problem(True)
    curves = errors(problem, 2000)
    for ours, theirs in (("euler", "Euler"), ("milstein", "ItoMilstein")):
        assert _same_errors(curves, (f"sdesig {ours}", f"diffrax {theirs}"))
    assert not _same_errors(curves, ("sdesig euler", "diffrax SlowRK"))


def test_areas_make_the_difference(without_diffrax):
    curves = {curve.label: curve.rmse for curve in errors(noncommutative.problem(True), 1000)}
    for scheme in ("milstein", "log_ode"):
        assert curves[f"sdesig {scheme}"][0] / curves[f"sdesig {scheme}"][1] > 1.75  # order 1: 2
    for label in ("sdesig heun", "torchsde heun", "torchsde euler"):
        assert curves[label][0] / curves[label][1] < 1.65  # order 1/2: 1.41


def test_a_report_is_written_whole(without_diffrax, tmp_path):
    problem = mixture.problem(True)
    curves = errors(problem, 4)
    measure_seconds(problem, curves, batch=2, repetitions=1)
    needed = evaluations.needs(curves, mixture.mixture().means)
    report.write(problem, curves, needed, program.described(), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mixture.csv", "mixture.md", "mixture.png"]
    with (tmp_path / "mixture.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == report.COLUMNS
    assert {row["path"] for row in rows} == {"generator", "seeds", "BrownianInterval"}
    assert all(float(row["seconds"]) > 0 and float(row["rmse"]) > 0 for row in rows)
    table = (tmp_path / "mixture.md").read_text()
    assert "| sdesig path_average, scalar reference | generator |" in table
    assert "best of the others" in table


def test_unknown_problems_are_refused(capsys):
    with pytest.raises(SystemExit):
        program.main(["lorenz"])
    assert "problem must be one of geometric_brownian_motion, noncommutative, mixture; got lorenz" in (
        capsys.readouterr().err
    )

"""The validation studies run, write their results, notice a wrong theory, and leave the rows of other studies alone."""

import csv
import dataclasses
import importlib
import math

import pytest
import torch
from matplotlib.figure import Figure
from scipy.integrate import quad

from sdesig.convergence import fit_strong, fit_weak
from sdesig.signature.areas._draws import pair_count
from sdesig.signature.areas.truncation import terms_needed
from sdesig.solvers import SRA1, Euler, Milstein, Taylor15
from validation import levy_area, signature_laws, strong_orders, studies, weak_orders
from validation.report import Row, Study, mean_interval, order_row, run_study, write_summary


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def read(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def empty(rows, points):
    return Figure()


def toy(name, *verdicts):
    """A study with one row for each verdict; its measurement is the number of samples."""

    def run(samples, report):
        for k, passed in enumerate(verdicts):
            report(Row(f"case {k} | of {name}", "x = 1", samples, 0.5, 2.0, passed, {"k": k}))
        return []

    return Study(name, f"The study {name}.", run, empty, quick=1, full=10)


# --- the studies ---


@pytest.mark.parametrize(
    "study, rows", [(signature_laws.STUDY, 18), (levy_area.STUDY, 38)], ids=["signature_laws", "levy_area"]
)
def test_studies_agree_with_theory_and_write_their_results(study, rows, tmp_path, monkeypatch):
    monkeypatch.setattr(levy_area, "DIMENSIONS", (2,))
    assert run_study(dataclasses.replace(study, quick=20_000), tmp_path, full=False)
    assert {path.name for path in tmp_path.iterdir()} == {f"{study.name}.csv", f"{study.name}.png"}
    assert len(read(tmp_path / f"{study.name}.csv")) == rows


def test_results_are_whole_or_as_they_were(tmp_path, monkeypatch):
    """A run that is stopped in the middle of a file leaves that of the run before."""
    study = toy("one", True, True)
    assert run_study(study, tmp_path, full=False)
    write_summary([study], tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}

    class Stopped:
        def __init__(self, file):
            self.file = file

        def writerow(self, row):
            self.file.write("half of a row")
            raise KeyboardInterrupt

    monkeypatch.setattr("validation.report.csv.writer", Stopped)
    with pytest.raises(KeyboardInterrupt):
        run_study(study, tmp_path, full=True)
    after = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert after.keys() == before.keys()
    assert after[tmp_path / "one.csv"] == before[tmp_path / "one.csv"]


def test_a_wrong_covariance_fails(tmp_path, monkeypatch):
    right = signature_laws.gaussian_word_covariance
    monkeypatch.setattr(signature_laws, "gaussian_word_covariance", lambda words, h: 1.1 * right(words, h))
    monkeypatch.setattr(signature_laws, "laws", lambda samples, laws=signature_laws.laws: [next(laws(samples))])
    assert not run_study(dataclasses.replace(signature_laws.STUDY, quick=10_000), tmp_path, full=False)


def test_weak_areas_that_promise_less_fail():
    """davie's residual has no conditional variance, foster's area no fourth moment."""
    assert signature_laws.check_weak_area("foster", 20_000, seeded(0)).passed
    assert not signature_laws.check_weak_area("davie", 20_000, seeded(0)).passed


@pytest.fixture(scope="module")
def squares():
    return levy_area.squared_errors(3, levy_area.points(3), 3000, seeded(1))


def of_method(squares, method):
    return {point: values for point, values in squares.items() if getattr(point, "method", point) == method}


@pytest.mark.parametrize("method", ["fourier", "milstein"])
def test_a_wrong_constant_fails(squares, method, monkeypatch):
    right = levy_area.exact_error
    for factor, expected in ((1.0, True), (1.15, False), (1 / 1.15, False)):
        monkeypatch.setattr(levy_area, "exact_error", lambda m, n, factor=factor: factor * right(m, n))
        verdicts = [
            levy_area.error_row(3, point, values).passed for point, values in of_method(squares, method).items()
        ]
        assert len(verdicts) == 4
        assert verdicts == [expected] * 4, (factor, verdicts)


@pytest.mark.parametrize("method", list(levy_area.ORDERS))
def test_a_wrong_order_fails(squares, method, monkeypatch):
    values = {point.terms: value for point, value in of_method(squares, method).items() if point.terms >= 5}
    assert levy_area.order_row(3, method, values).passed
    monkeypatch.setitem(levy_area.ORDERS, method, 1.5 - levy_area.ORDERS[method])
    assert not levy_area.order_row(3, method, values).passed


@pytest.mark.parametrize("method", ["wiktorsson", "mronroe", "legendre"])
def test_a_tail_that_is_not_coupled_exceeds_the_tolerance(method, monkeypatch):
    """The numbers of the tail drawn anew, with the law that the coupled ones have: right in law, far from the path."""
    name = "_coupled_legendre_tail" if method == "legendre" else "_coupled_tail"
    coupled = getattr(levy_area, name)

    def independent(*arguments):
        tail = coupled(*arguments)
        return tuple(torch.randn(value.shape, generator=seeded(2), dtype=value.dtype) for value in tail)

    point = levy_area.Point(method, terms_needed(3, 1.0, 0.025, method=method), 0.025)
    for tail, expected in ((coupled, True), (independent, False)):
        monkeypatch.setattr(levy_area, name, tail)
        squares = levy_area.squared_errors(3, [point], 400, seeded(3))
        assert levy_area.error_row(3, point, squares[point]).passed is expected


@pytest.mark.parametrize("method", ["wiktorsson", "mronroe"])
def test_coupled_tails_are_standard_normal_and_independent_of_the_terms_kept(method):
    dim, rows, terms = 3, 4000, 3
    numbers = torch.randn(40, rows, 2 * dim, generator=seeded(4), dtype=torch.float64)
    w, m, g = torch.randn(3, rows, dim, generator=seeded(5), dtype=torch.float64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(levy_area, "LONG", 40)
        tail = levy_area._coupled_tail(method, w, terms, numbers, m, g)
    joint = torch.cat([*tail, w, *numbers[:terms]], -1)
    assert tail[-1].shape == (rows, pair_count(dim))
    identity = torch.eye(joint.shape[1], dtype=torch.float64)
    signature_laws.check_gaussian(joint, identity, false_alarm_rate=1e-5).assert_passed()


@pytest.mark.parametrize("terms", [3, 4])
def test_the_coupled_tail_of_legendre_is_standard_normal_and_independent_of_the_coefficients_kept(terms):
    dim, rows = 3, 4000
    xi = torch.randn(41, rows, dim, generator=seeded(8), dtype=torch.float64)
    g = torch.randn(rows, pair_count(dim), generator=seeded(9), dtype=torch.float64)
    tail = levy_area._coupled_legendre_tail(terms, xi, g)
    joint = torch.cat([*tail, *xi[: terms + 1]], -1)
    identity = torch.eye(joint.shape[1], dtype=torch.float64)
    signature_laws.check_gaussian(joint, identity, false_alarm_rate=1e-5).assert_passed()


def test_the_error_of_a_weak_method_is_noticed(squares, monkeypatch):
    for method in levy_area.WEAK:
        assert levy_area.weak_row(3, method, squares[method]).passed
    monkeypatch.setattr(levy_area, "weak_error", lambda depth: 1.15 * (4 * depth - 2) ** -0.5)
    for method in levy_area.WEAK:
        assert not levy_area.weak_row(3, method, squares[method]).passed


def test_laws_of_areas_given_the_increment_are_noticed(monkeypatch):
    """milstein's tail has not the whole covariance; the law at W = 0 is not the one at another W."""
    assert levy_area.covariance_law("mronroe", 3, 10_000, seeded(6)).passed
    assert not levy_area.covariance_law("milstein", 3, 10_000, seeded(6)).passed
    assert levy_area.exact2d_law(4, 10_000, seeded(7)).passed
    right = levy_area.area_cf
    monkeypatch.setattr(levy_area, "area_cf", lambda x, norm2: right(x, 0.8 * norm2))
    assert not levy_area.exact2d_law(4, 10_000, seeded(7)).passed


def test_characteristic_function_against_the_density_of_the_area():
    """Averaged over |W|^2/2 ~ Exp(1) it is that of the density 1/cosh(pi a)."""
    for x in levy_area.FREQUENCIES:
        averaged = quad(lambda r, x=x: math.exp(-r) * levy_area.area_cf(x, 2 * r), 0, 60)[0]
        expected = 2 * quad(lambda a, x=x: math.cos(x * a) / math.cosh(math.pi * a), 0, 15)[0]
        assert averaged == pytest.approx(expected, rel=1e-7, abs=1e-9)


def rows_of(study, names, samples, monkeypatch):
    """The rows of some cases of a study of orders."""
    module = importlib.import_module(f"validation.{study.name}")
    monkeypatch.setattr(module, "CASES", tuple(case for case in module.CASES if case.name in names))
    rows = []
    study.run(samples, rows.append)
    return rows


def test_strong_orders_agree_with_theory(monkeypatch):
    """Scalar noise: all schemes, and controls at orders 1/2, 1 and 3/2. General noise: exact and of order 1/2."""
    names = ("TanhDiffusion", "HeisenbergGroup")
    rows = rows_of(strong_orders.STUDY, names, 4000, monkeypatch)
    assert all(row.passed for row in rows), [row for row in rows if not row.passed]
    assert len({tuple(row.details) for row in rows}) == 1
    for name, orders, controls, exact in zip(names, (15, 9), (3, 4), (0, 5), strict=True):
        theories = [row.theory for row in rows if f" on {name} " in row.case]
        assert [sum(theory.startswith(kind) for theory in theories) for kind in ("strong", "control", "exact")] == [
            orders,
            controls,
            exact,
        ]


def test_wrong_strong_orders_fail(monkeypatch):
    """Every scheme declared half an order too high; and controls declared half an order too low."""
    for shift, start in ((0.5, "strong order"), (-0.5, "control")):
        with monkeypatch.context() as patch:
            for scheme in (Euler, Milstein, Taylor15):
                patch.setattr(scheme, "strong_order", {"scalar": scheme.strong_order["scalar"] + shift})
            patch.setattr(
                strong_orders,
                "general_schemes",
                lambda sde: {"euler": Euler(), "milstein": Milstein(), "taylor15": Taylor15()},
            )
            rows = rows_of(strong_orders.STUDY, ("TanhDiffusion",), 1000, patch)
        found = [row for row in rows if row.theory.startswith(start) and "reflected" not in row.case]
        assert len(found) >= 2
        assert not any(row.passed for row in found)


def test_weak_orders_agree_with_theory(monkeypatch):
    rows = rows_of(weak_orders.STUDY, ("FadingNoise",), 100_000, monkeypatch)
    assert [row.theory for row in rows].count("weak order >= 2") == 4
    assert [row.theory for row in rows].count("control: weak order below 2") == 2
    assert all(row.passed for row in rows), [row for row in rows if not row.passed]


def test_the_wrong_limit_is_noticed():
    case = next(case for case in weak_orders.CASES if case.name == "KuboOscillator")
    for scheme, expected in ((Euler(), False), (weak_orders.UncorrectedEuler(), True)):
        errors, floors = weak_orders.weak_errors(case, {"euler": scheme}, 10_000)
        assert fit_weak(errors["euler"], case.steps, floors=floors).refutes(1.0) is expected


def test_wrong_weak_orders_fail(monkeypatch):
    """Schemes declared an order too high, and a scheme of order 2 as a control that must fail order 2."""
    monkeypatch.setattr(weak_orders, "general_schemes", lambda sde: {"euler": Euler(), "sra1": SRA1()})
    monkeypatch.setattr(weak_orders, "BELOW_TWO", ("sra1",))
    monkeypatch.setattr(Euler, "weak_order", 2.0)
    monkeypatch.setattr(SRA1, "weak_order", 3.0)
    rows = rows_of(weak_orders.STUDY, ("FadingNoise",), 100_000, monkeypatch)
    assert [row.passed for row in rows] == [False] * 3


# --- the writer ---


def test_interval_is_the_one_of_check_moments():
    """Its ends are the expectations at which the z-score reaches the threshold."""
    samples = torch.randn(2000, generator=seeded(8), dtype=torch.float64).square()
    mean, low, high = mean_interval(samples, 1e-3)
    assert mean == pytest.approx(samples.mean().item())
    for end, sign in ((low, 1), (high, -1)):
        law = signature_laws.check_moments(samples.unsqueeze(1), [end], false_alarm_rate=1e-3)
        assert law.z_scores.item() == pytest.approx(sign * law.threshold, rel=1e-6)
    assert high - mean > mean - low  # skewed samples: the mean is more likely to be too small
    _, low, high = mean_interval(torch.tensor([-1.0, 1.0], dtype=torch.float64).repeat(50), 1e-3)
    assert high == -low == pytest.approx(0.1 * 3.290527, rel=1e-5)


def test_summary_keeps_the_rows_of_other_studies(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(studies, "STUDIES", {"one": toy("one", True, True), "two": toy("two", True, False)})
    assert not studies.run_studies(out=tmp_path)
    first = (tmp_path / "summary.md").read_text()
    assert "[one](one.csv)" in first
    assert "1 of 2 rows agree with theory. `python -m validation two --quick`" in first
    assert "| two | case 1 \\| of two | x = 1 | 1 (0.5 .. 2) | FAIL |" in first
    assert "FAIL  two: case 1 | of two: 1 (0.5 .. 2); theory: x = 1" in capsys.readouterr().out
    assert studies.run_studies(["one"], full=True, out=tmp_path)
    second = (tmp_path / "summary.md").read_text()
    assert "`python -m validation one --full`" in second
    assert "| one | case 1 \\| of one | x = 1 | 10 (0.5 .. 2) | pass |" in second
    assert [line for line in first.splitlines() if "| two |" in line] == [
        line for line in second.splitlines() if "| two |" in line
    ]
    assert read(tmp_path / "two.csv")[1] | {"seconds": ""} == {
        "case": "case 1 | of two",
        "theory": "x = 1",
        "measured": "1",
        "ci_low": "0.5",
        "ci_high": "2",
        "passed": "False",
        "note": "",
        "mode": "quick",
        "seconds": "",
        "k": "1",
    }


def test_a_run_that_is_killed_keeps_what_was_finished(tmp_path, monkeypatch):
    def killed(samples, report):
        report(Row("case", "x = 1", 1.0, 0.5, 2.0, True))
        raise KeyboardInterrupt

    monkeypatch.setattr(
        studies, "STUDIES", {"one": toy("one", True), "two": dataclasses.replace(toy("two"), run=killed)}
    )
    with pytest.raises(KeyboardInterrupt):
        studies.run_studies(out=tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"one.csv", "one.png", "summary.md"}
    write_summary(studies.STUDIES.values(), tmp_path)
    assert "| one |" in (tmp_path / "summary.md").read_text()


def order_estimate(order):
    """Of errors N^-order known to 1 %."""
    noise = 1 + 0.01 * torch.randn(4, 100, generator=seeded(9), dtype=torch.float64)
    return fit_strong(torch.tensor([8.0, 16.0, 32.0, 64.0])[:, None].double() ** -order * noise, (8, 16, 32, 64))


def test_an_interval_below_theory_and_within_the_slack_is_noted(tmp_path, monkeypatch):
    def run(samples, report):
        for order in (1.1, 0.9, 0.8):
            report(order_row("scheme", order_estimate(order), 1.0, {}))
        report(order_row("scheme", order_estimate(0.8), 1.0, {}, control=True))
        return []

    monkeypatch.setattr(studies, "STUDIES", {"one": Study("one", "Orders.", run, empty, quick=1, full=1)})
    assert not studies.run_studies(out=tmp_path)
    assert [(row["passed"], row["note"]) for row in read(tmp_path / "one.csv")] == [
        ("True", ""),
        ("True", "interval below 1"),
        ("False", ""),
        ("True", ""),
    ]
    summary = (tmp_path / "summary.md").read_text()
    assert "interval lies above theory - 0.15" in summary
    assert "3 of 4 rows agree with theory, 1 within the slack." in summary
    assert summary.count("| pass (interval below 1) |") == 1


def test_committed_results_have_notes():
    """The rows of the committed summary that pass with an interval wholly below theory say so."""
    for name in ("strong_orders", "weak_orders", "reverse_diffusion"):
        for row in read(studies.RESULTS / f"{name}.csv"):
            theory = row["theory"]
            order = float(theory.split(">=")[1]) if ">=" in theory else -math.inf
            below = row["passed"] == "True" and float(row["ci_high"]) < order
            assert row["note"] == (f"interval below {order:g}" if below else ""), row


def test_unknown_study_stops_before_any_work(tmp_path):
    with pytest.raises(ValueError, match=r"study must be one of 'signature_laws', .*; got 'nothing'"):
        studies.run_studies(["signature_laws", "nothing"], out=tmp_path / "new")
    assert not (tmp_path / "new").exists()

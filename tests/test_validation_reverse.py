"""The study of reverse diffusions runs at a small size and notices a scheme that does not keep its promise."""

import pytest
import torch

from validation import reverse_diffusion
from validation.reverse_diffusion import CASES, METHODS, Case, pathwise_errors, ratio_interval

CASE = Case(1.0, 0.3, 32, 1.0, (16, 32, 64, 128), fitted=32, truth_steps=1024)


@pytest.fixture(scope="module")
def errors():
    return pathwise_errors(CASE, 100)


def rows_of(method, errors):
    rows = []
    reverse_diffusion._report_rows(CASE, method, errors[method], errors[METHODS[1]], {}, rows.append)
    return rows


def test_rows_agree_with_theory(errors):
    rows = [row for method in errors for row in rows_of(method, errors)]
    assert [row.case for row in rows if not row.passed] == []
    assert len(rows) == 4 + 2 + 2  # four orders, two controls, two comparisons


def test_a_promise_of_order_one_and_a_half_fails_for_a_scheme_of_order_one(errors):
    promising = METHODS[0]._replace(order=1.5)
    assert not rows_of(promising, {promising: errors[METHODS[0]], METHODS[1]: errors[METHODS[1]]})[0].passed


def test_ratio_interval_covers_the_ratio():
    """Normal errors of standard deviation 1 and 2: the ratio is 1/2. 400 intervals; outside with a rate below 1e-4."""
    generator = torch.Generator().manual_seed(0)
    covered = 0
    for _ in range(400):
        ours, theirs = (s * torch.randn(100, generator=generator, dtype=torch.float64) for s in (1, 2))
        _, low, high = ratio_interval(ours, theirs)
        covered += low <= 0.5 <= high
    assert 0.89 <= covered / 400 <= 0.99


def test_the_figure_has_a_panel_for_every_case(monkeypatch):
    small = tuple(case._replace(dim=2, steps=(4, 8, 16), fitted=None, truth_steps=32) for case in CASES)
    monkeypatch.setattr(reverse_diffusion, "CASES", small)
    monkeypatch.setattr(reverse_diffusion, "WEAK_CASES", ())
    rows = []
    figure = reverse_diffusion.draw([], reverse_diffusion.run(20, rows.append))
    titles = [f"{case.title}, seeds 0 to {max(10, round(20 * case.share)) - 1}" for case in small]
    assert [axis.get_title() for axis in figure.axes] == [*titles, ""]
    assert len(rows) == 2 * len(small)


@pytest.mark.parametrize("case", reverse_diffusion.WEAK_CASES[::2], ids=lambda case: case.label)
def test_weak_orders_agree_with_theory(case):
    for order, passed in ((case.order, True), (case.order + 1, False)):
        rows = []
        reverse_diffusion.report_weak_order(case._replace(order=order, steps=(8, 16, 32)), 8000, rows.append)
        assert rows[0].theory == f"weak order >= {order:g}"
        assert rows[0].passed is passed, rows[0]
        if case.scheme == "dpm_solver_1":
            assert rows[1].theory == "control: weak order below 2"
            assert rows[1].passed

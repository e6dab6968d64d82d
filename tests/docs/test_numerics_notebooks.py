"""The notebooks and the page for SDE numerics run, and their text claims no more than the values that they compute."""

import re
from statistics import NormalDist

from notebooks import run_notebook, run_page

from sdesig import strong_order
from sdesig.solvers import SCHEMES


def test_start_page_prints_what_it_shows(monkeypatch, tmp_path):
    names = run_page("start/numerics.md", monkeypatch, tmp_path)
    assert names["milstein"].supports(1.0)
    assert names["euler"].refutes(1.0)


def test_orders(monkeypatch, tmp_path):
    names = run_notebook("1_orders", monkeypatch, tmp_path)
    milstein, euler, without = names["milstein"], names["euler"], names["without"]
    assert milstein.supports(1.0)
    assert milstein.refutes(1.5)
    for half in (euler, without):
        assert half.supports(0.5)
        assert half.refutes(1.0)
    assert names["weak_euler"].supports(1.0)
    assert names["weak_euler"].refutes(2.0)
    platen = names["weak_platen"]
    assert not platen.supports(2.0)
    assert platen.used == (True, True, False)
    assert platen.ci_low < 2.0 < platen.ci_high
    legend = [text.get_text() for text in names["axis"].get_legend().get_texts()]
    assert legend[0] == f"euler: {names['weak_euler']}"
    assert abs(names["areas"].square().mean() - 0.25) < 0.02  # of the density 1/cosh(pi a)
    assert "must be commutative, as the SDE declares" in names["printed"]
    assert "Milstein needs Levy areas for general noise" in names["printed"]


def test_property_tests(monkeypatch, tmp_path):
    names = run_notebook("2_property_tests", monkeypatch, tmp_path)
    assert names["report"].passed
    assert names["report"].false_alarm_rate == 1e-6
    assert names["failed"] <= 10 + 4 * 3
    said = names["printed"]
    assert "W and A alone: True" in said
    assert re.search(r"^A\[0,1\] H\[0\] W\[1\] +0\.083333 ", said, re.M)  # H drawn apart
    assert re.search(r"W and -A alone: True\nwith H: +False", said)
    half = 2 * (names["threshold"] / 0.02) ** 2
    for size, share in zip(names["sizes"], names["caught"], strict=True):
        expected = NormalDist().cdf(0.02 * ((size / 2) ** 0.5 - (half / 2) ** 0.5))
        assert abs(share - expected) < 0.4
    assert names["caught"][0] < 0.2
    assert names["caught"][-1] > 0.8
    assert re.search(r"join_forgetful holds: False\njoin holds: +True", said)


def test_your_own_scheme(monkeypatch, tmp_path):
    monkeypatch.setitem(SCHEMES, "platen_additive", None)  # so that what the notebook adds goes again
    names = run_notebook("3_your_own_scheme", monkeypatch, tmp_path)
    assert names["platen"].supports(1.5)
    assert names["without"].supports(1.0)
    assert names["without"].refutes(1.5)

    class Varying(names["Oscillators"]):
        """With noise that changes in time: additive too, as the scheme declares."""

        def g(self, t, y):
            return super().g(t, y) * (1 + 0.8 * (3 * t).sin())

    options = names["options"] | {"paths": 500}
    assert strong_order(Varying(), names["start"], scheme=names["PlatenAdditive"](), **options).supports(1.5)
    assert "needs additive noise; the SDE's is general" in names["printed"]
    assert "so a path of depth >= 2; this one has depth 1" in names["printed"]
    studies = {name: study.errors for name, (study, _) in names["studies"].items()}
    # in 16 steps it asks 80 times; ShARK and SRA1 ask 64 times in 32 steps, Euler's scheme in 64
    for peer in ("shark", "torchsde:srk"):
        assert studies["platen_additive"][1] * 1.25**1.5 > 10 * studies[peer][2]  # at equal evaluations
    assert studies["platen_additive"][0] > studies["euler"][2]

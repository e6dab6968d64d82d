"""The page and the notebooks on models of diffusers run, and their text claims no more than what they compute."""

import pytest

pytest.importorskip("diffusers")

import torch
from notebooks import run_notebook, run_page

from sdesig.evaluation import paired_ratio
from sdesig.images import SigDEGPipeline


def test_start_page_prints_what_it_shows(monkeypatch, tmp_path):
    kept = run_page("start/diffusers.md", monkeypatch, tmp_path)["kept"]
    assert min(kept["path-average"]) > 0.8
    assert max(kept["SDE-DPM-Solver++(2M)"]) < 0.05
    assert min(kept["DPM-Solver++(2M)"]) > 0.97


@pytest.mark.notebooks
def test_path_average_in_diffusers(monkeypatch, tmp_path):
    names = run_notebook("5_path_average_in_diffusers", monkeypatch, tmp_path)
    assert (names["alone"][0] - names["together"][3]).abs().max() < 1e-4
    assert torch.equal(names["one"], names["two"])
    median = {key: distance.median() for key, distance in names["distances"].items()}
    for n in (5, 10, 20, 40, 80):  # as the text says: the flow is nearest up to 20 steps, path-average from 40 on
        assert (median["DPM-Solver++(2M)", n] < median["path-average", n]) == (n <= 20)
        assert median["path-average", n] < 0.5 * median["SDE-DPM-Solver++(2M)", n]
    assert median["path-average", 80] < 0.2 * median["path-average", 5]
    assert median["SDE-DPM-Solver++(2M)", 80] > 0.8 * median["SDE-DPM-Solver++(2M)", 5]


@pytest.mark.notebooks
def test_distil_a_diffusers_model(monkeypatch, tmp_path):
    """About as near as the untrained scheme, and nearer than SDE-DPM-Solver++(2M), in 4, 8 and 16 steps."""
    names = run_notebook("6_distil_a_diffusers_model", monkeypatch, tmp_path)
    store, generator = names["store"], names["generator"]
    for n in (4, 8, 16):
        own = store.errors("Sig-DEG", n)
        assert paired_ratio(own, store.errors("sde-dpm++2m", n))[2] < 1
        assert 0.7 < paired_ratio(own, store.errors("path-average-reference", n))[0] < 1.3
    torch.testing.assert_close(
        generator.sample(seeds=[7], steps=8).values[0], names["few"].values[7], rtol=0, atol=1e-4
    )
    assert names["distance"].median() < 0.2
    assert isinstance(names["pipeline"], SigDEGPipeline)

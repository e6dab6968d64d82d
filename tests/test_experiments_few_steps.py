"""experiments/few_steps: its distance against closed forms, and a small run of it all."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from experiments.few_steps import __main__ as program
from experiments.few_steps import setting
from experiments.few_steps.setting import MMD, anisotropic, of_mixture
from experiments.mnist.setting import MNIST
from sdesig.sde import Mixture
from sdesig.sigdeg import UNet


def gaussians(n, shift, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 2, generator=generator, dtype=torch.float64) + torch.tensor([shift, 0.0])


def closed_form(shift, bandwidths):
    """E k(x, x') + E k(y, y') - 2 E k(x, y) of N(0, I) and N((shift, 0), I): x - y is N(., 2 I)."""
    values = []
    for h in bandwidths:
        peak = h**2 / (h**2 + 2)
        values.append(2 * peak * (1 - math.exp(-(shift**2) / (2 * (h**2 + 2)))))
    return sum(values) / len(values)


@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_the_distance_has_its_value_and_its_error(shift):
    """The mean of 40 estimates lies within 5 standard errors: a false alarm in 10^6 runs."""
    found = []
    for k in range(40):
        kernel = MMD(gaussians(300, shift, 2 * k))
        kernel._bandwidths = [0.3, 0.7, 1.4]  # fixed, where they are estimated otherwise
        kernel._own = kernel._mean_without_diagonal(kernel._law)
        found.append(kernel(gaussians(300, 0.0, 2 * k + 1)))
    values, errors = torch.tensor(found).T
    wanted = closed_form(shift, (0.3, 0.7, 1.4))
    assert abs(values.mean() - wanted) < 5 * values.std() / math.sqrt(40)
    if shift:
        assert 0.6 < errors.mean() / values.std() < 1.6


def test_the_difference_is_that_of_the_distances():
    """It is surer than either where the samples are those of the same seeds, nearly."""
    kernel, samples = MMD(gaussians(400, 0.5, 0)), gaussians(400, 0.0, 1)
    others = samples + torch.tensor([0.02, 0.0])
    value, error = kernel.difference(samples, others)
    one, other = kernel(samples), kernel(others)
    assert value == pytest.approx(one[0] - other[0], abs=1e-12)
    assert error < 0.1 * one[1]
    assert kernel.difference(samples, samples) == (0.0, 0.0)


def test_the_anisotropic_mixture_is_what_it_says():
    law = anisotropic()
    assert law.dim == 64
    spread = law.covariance().diagonal().sqrt()
    assert spread[0] / spread[-1] > 10


def test_a_small_run_of_all(tmp_path, monkeypatch):
    small = {"tiny": lambda: of_mixture("a mixture", Mixture.circle(1.0, 0.3, modes=3, dtype=torch.float32), 40)}
    monkeypatch.setattr(program, "PROBLEMS", small)
    monkeypatch.setattr(program, "RESULTS", tmp_path)
    monkeypatch.setattr(
        setting, "choose_grid", lambda *_, even=False, law=0.0, **kept: setting.StepGrid(free=0.2 + law / 10)
    )
    monkeypatch.setattr(program.Comparison, "seconds_per_1000", lambda *_: 1.0)
    program.main(["--runs", str(tmp_path / "runs")])
    result = json.loads((tmp_path / "tiny.json").read_text())
    keys = {row["key"] for row in result["rows"]}
    assert {*setting.OURS, "unipc", "unipc-karras", "ipndm-4", "sa-solver", "sde-dpm++2m-karras"} <= keys
    assert len(result["targets"]) == 9
    text = (tmp_path / "report.md").read_text()
    assert "| UniPC" in text
    assert "a mixture" in text
    assert (tmp_path / "few_steps.png").stat().st_size > 10_000


@pytest.mark.usefixtures("diffusers")
def test_a_small_run_on_images(tmp_path, monkeypatch):
    """Of a study whose teacher is trained on the way; ours are held against the best of the others."""
    pixels = np.random.default_rng(0).integers(0, 256, (60, 4, 4), dtype=np.uint8)
    np.savez(tmp_path / "images.npz", x=pixels)
    study = replace(MNIST, size=4, network=lambda: UNet(1, 4, widths=(8,)), batch=4, committed=None)
    study = replace(study, teacher=replace(study.teacher, iterations=2))
    monkeypatch.setattr(program, "IMAGES", {"tiny": (study, 40)})
    monkeypatch.setattr(program, "PROBLEMS", {})
    monkeypatch.setattr(program, "RESULTS", tmp_path)
    monkeypatch.setattr(setting, "IMAGE_STEPS", (5, 8))
    monkeypatch.setattr(setting, "choose_grid", lambda *_, law=0.0, **__: setting.StepGrid(free=0.2 + law / 10))
    monkeypatch.setattr(program.Comparison, "seconds_per_1000", lambda *_: 1.0)
    monkeypatch.setattr("sdesig._intervals.RESAMPLES", 20)
    command = ["--problem", "tiny", "--runs", str(tmp_path / "runs")]
    with pytest.raises(SystemExit):
        program.main(command)
    program.main([*command, "--data", f"{tmp_path / 'images.npz'}:x", "--extractor", "pixels"])
    result = json.loads((tmp_path / "tiny.json").read_text())
    rows = {(row["key"], row["steps"]): row for row in result["rows"]}
    others = [row for (key, steps), row in rows.items() if steps == 5 and key not in setting.OURS]
    assert {row["key"].removesuffix("-karras") for row in others} == {*setting.IMAGE_PEERS}
    best = min(others, key=lambda row: row["distance"])
    lines = [line for line in result["targets"] if "no reference, 5" in line["target"]]
    assert [f"that of {best['method']} <=" in line["target"] for line in lines] == [True]
    wanted = rows["path-average", 5]["distance"] / best["distance"]
    assert float(lines[0]["measured"].split()[0]) == pytest.approx(wanted, abs=2e-3)
    assert (tmp_path / "images-tiny-5.png").exists()
    assert "no reference" in (tmp_path / "report.md").read_text()

"""experiments/few_steps: its distance against closed forms, and a small run of it all."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from experiments.few_steps import __main__ as program
from experiments.few_steps import setting, tried
from experiments.few_steps.setting import MMD, anisotropic, of_mixture
from experiments.image_study.study import SNR
from experiments.mnist.setting import MNIST
from sdesig.sampling import CanonicalSDE, GaussianReference, PathSpace, SNRDenoiser
from sdesig.sde import Mixture
from sdesig.sigdeg import SigDEG, UNet
from sdesig.solvers import solve


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
    whole = of_mixture("a mixture", Mixture.circle(1.0, 0.3, modes=3, dtype=torch.float32), 40)
    small = {"tiny": lambda: replace(whole, steps=(5, 8, 10), truth_steps=64)}
    monkeypatch.setattr(program, "PROBLEMS", small)
    monkeypatch.setattr(program, "RESULTS", tmp_path)
    monkeypatch.setattr(setting, "choose_grid", lambda *_, law=0.0, **kept: setting.StepGrid(free=0.2 + law / 10))
    monkeypatch.setattr("sdesig.evaluation.comparison.Comparison.seconds_per_1000", lambda *_: 1.0)
    program.main(["--runs", str(tmp_path / "runs")])
    result = json.loads((tmp_path / "tiny.json").read_text())
    keys = {row["key"] for row in result["rows"]}
    ours = {key for key in setting.OURS if not key.startswith("depth-")}
    assert {*ours, "unipc", "unipc-karras", "ipndm-4", "sa-solver", "sde-dpm++2m-karras"} <= keys
    assert len(result["targets"]) == 2 * 2 + 3 * 2
    text = (tmp_path / "report.md").read_text()
    assert "| UniPC" in text
    assert "a mixture" in text
    assert (tmp_path / "few_steps.png").stat().st_size > 10_000


class Apart(torch.nn.Module):
    """Mean square."""

    def forward(self, images, others):
        return (images - others).square().flatten(1).mean(1)


@pytest.mark.usefixtures("diffusers")
@pytest.mark.parametrize("students", [False, True])
def test_a_small_run_on_images(students, tmp_path, monkeypatch):
    """A teacher of two iterations and an untrained student; ours are held against the best of the others."""
    pixels = np.random.default_rng(0).integers(0, 256, (60, 4, 4), dtype=np.uint8)
    np.savez(tmp_path / "images.npz", x=pixels)
    study = replace(MNIST, size=4, network=lambda: UNet(1, 4, widths=(8,)), batch=4, committed=None)
    study = replace(study, teacher=replace(study.teacher, iterations=2))
    monkeypatch.setattr(program, "IMAGES", {"tiny": setting.OfImages(study, 40, students)})
    monkeypatch.setattr(program, "PROBLEMS", {})
    monkeypatch.setattr(program, "RESULTS", tmp_path)
    monkeypatch.setattr(setting, "IMAGE_STEPS", (5, 8))
    for module in (setting, program):
        monkeypatch.setattr(module, "MANY", 12)
    monkeypatch.setattr(setting, "choose_grid", lambda *_, law=0.0, **__: setting.StepGrid(free=0.2 + law / 10))
    monkeypatch.setattr("sdesig.evaluation.comparison.Comparison.seconds_per_1000", lambda *_: 1.0)
    monkeypatch.setattr("sdesig._intervals.RESAMPLES", 20)
    command = ["--problem", "tiny", "--runs", str(tmp_path / "runs")]
    with pytest.raises(SystemExit):
        program.main(command)
    runs = tmp_path / "runs" / "tiny"
    teacher = study.trained_teacher(
        study.images(f"{tmp_path / 'images.npz'}:x", runs / "data"), runs, torch.device("cpu")
    )
    space = PathSpace(teacher.event, SNR, GaussianReference(0.0, 0.0), grid=setting.StepGrid.karras(SNR))
    SigDEG.from_teacher(teacher, space, depth=2).save(runs / "depth-2" / "student")
    with pytest.warns(DeprecationWarning, match="torch.jit.script"):
        torch.jit.script(Apart()).save(str(tmp_path / "apart.pt"))
    files = ["--data", f"{tmp_path / 'images.npz'}:x", "--extractor", "pixels"]
    program.main([*command, *files, "--perceptual", str(tmp_path / "apart.pt")])
    result = json.loads((tmp_path / "tiny.json").read_text())
    rows = {(row["key"], row["steps"]): row for row in result["rows"]}
    others = [row for (key, steps), row in rows.items() if steps == 5 and key not in setting.OURS]
    assert {row["key"].removesuffix("-karras") for row in others} == {
        *(setting.STUDENT_PEERS if students else setting.IMAGE_PEERS)
    }
    for row in rows.values():
        assert (row["perceptual"] is None) == (row["pathwise_rmse"] is None)
    assert rows["path-average", 5]["perceptual"] > 0
    assert "Perceptual distance" in (tmp_path / "report.md").read_text()
    best = min(others, key=lambda row: row["distance"])
    lines = [line for line in result["targets"] if "no reference, 5" in line["target"]]
    assert [f"that of {best['method']} <=" in line["target"] for line in lines] == [True]
    wanted = rows["path-average", 5]["distance"] / best["distance"]
    assert float(lines[0]["measured"].split()[0]) == pytest.approx(wanted, abs=2e-3)
    assert (tmp_path / "images-tiny-5.png").exists()
    assert "no reference" in (tmp_path / "report.md").read_text()
    assert (("depth-2", 5) in rows) == students
    if not students:
        return
    followers = [
        row
        for (key, steps), row in rows.items()
        if steps == 5 and row["pathwise_rmse"] and not key.startswith("depth-2")
    ]
    nearest = min(followers, key=lambda row: row["pathwise_rmse"])
    assert rows["depth-2-calibrated", 5]["pathwise_rmse"] > 0
    (one,) = (line for line in result["targets"] if "depth 2, 5: RMSE" in line["target"])
    assert f"over that of {nearest['method']} < 1" in one["target"]
    wanted = rows["depth-2", 5]["pathwise_rmse"] / nearest["pathwise_rmse"]
    assert float(one["measured"].split()[0]) == pytest.approx(wanted, abs=2e-3)
    (one,) = (line for line in result["targets"] if "depth 2, 5: distance to data" in line["target"])
    wanted = rows["depth-2", 5]["frechet_distance"] / rows["converged-path", 128]["frechet_distance"]
    assert float(one["measured"].split()[0]) == pytest.approx(wanted, abs=2e-3)
    (one,) = (
        line for line in result["targets"] if "depth 2, 12: RMSE over that of path-average, even" in line["target"]
    )
    wanted = rows["depth-2", 12]["pathwise_rmse"] / rows[setting.EVEN, 12]["pathwise_rmse"]
    assert float(one["measured"].split()[0]) == pytest.approx(wanted, abs=2e-3)
    assert ("depth-2-calibrated", 12) not in rows


@pytest.mark.parametrize("change", tried.CHANGES)
def test_what_was_tried_is_exact_for_data_of_the_reference(change):
    """As the scheme itself is; Q = 0 whatever is done with it. ShARK, which asks at both ends of the noise, is not."""
    scheme, _ = tried.CHANGES[change]
    if "ShARK" in change:
        return
    law = Mixture(torch.ones(1), torch.zeros(1, 2), torch.diag(torch.tensor([2.0, 0.1]))[None])
    sde = CanonicalSDE(SNRDenoiser(law.denoise_y), reference=GaussianReference(0.0, torch.tensor([2.0, 0.1])))
    path = PathSpace((2,), (math.exp(-6), math.exp(6)), sde.reference).paths(range(4))
    start = sde.start(path.initial_noise(), path.t0)
    ends = [solve(sde, start, path.grid(n), scheme=scheme, path=path)[-1] for n in (2, 32)]
    torch.testing.assert_close(*ends, rtol=1e-3, atol=1e-3)


def test_a_table_of_what_was_tried(tmp_path, monkeypatch):
    """At equal evaluations: those with two a step take half the steps."""
    pixels = np.random.default_rng(0).integers(0, 256, (60, 14, 14), dtype=np.uint8)
    np.savez(tmp_path / "images.npz", x=pixels)
    study = replace(MNIST, size=14, network=lambda: UNet(1, 14, widths=(8,), patch=2), batch=4, committed=None)
    study = replace(study, teacher=replace(study.teacher, iterations=2))
    mixture = Mixture.circle(1.0, 0.3, modes=3, dtype=torch.float32)
    monkeypatch.setattr(tried, "IMAGES", {"mnist": setting.OfImages(study, 40)})
    monkeypatch.setattr(
        tried, "PROBLEMS", {"tiny": lambda: replace(of_mixture("a mixture", mixture, 40), truth_steps=64)}
    )
    monkeypatch.setattr(tried, "TRIED_ON", ("tiny",))
    chosen = ("two evaluations: the first at the average", "tau* at a third for the mean coordinate")
    monkeypatch.setattr(tried, "CHANGES", {name: tried.CHANGES[name] for name in chosen})
    monkeypatch.setattr(tried, "choose_grid", lambda *_, **__: setting.StepGrid(free=0.2))
    monkeypatch.setattr("sdesig._intervals.RESAMPLES", 20)
    command = ["--seeds", "30", "--image-seeds", "24", "--runs", str(tmp_path / "runs"), "--out", str(tmp_path)]
    with pytest.raises(SystemExit):
        tried.main([*command, "--data", "x"])
    tried.main([*command, "--data", f"{tmp_path / 'images.npz'}:x", "--extractor", "pixels"])
    found = json.loads((tmp_path / "tried.json").read_text())
    by_name = {(line["problem"], line["change"]): line for line in found}
    plain = by_name["a mixture", "none"]
    assert plain["ratio_8"] is None
    for name in tried.CHANGES:
        assert (("a mixture", name) in by_name) != name.startswith("tau*")
    twice = by_name["a mixture", "two evaluations: the first at the average"]
    assert twice["ratio_8"][0] == pytest.approx(twice["rmse_8"] / plain["rmse_8"], rel=1e-5)
    bases = [line for line in found if line["problem"].endswith("basis")]
    assert [line["ratio_6"] is None for line in bases] == [False, True, False, False]
    text = (tmp_path / "tried.md").read_text()
    assert "principal components of 7 x 7 patches" in text
    assert "| none" in text


def test_components_of_patches_are_a_basis():
    """Orthonormal, and each within one patch."""
    basis = tried.of_patches(torch.randn((50, 1, 14, 14), generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(basis.mT @ basis, torch.eye(196), rtol=1e-5, atol=1e-5)
    inside = basis.T.reshape(-1, 2, 7, 2, 7).abs().amax((2, 4)) > 0
    assert (inside.sum((1, 2)) == 1).all()

"""How many seeds keep their image: the exact denoiser against a sum over the images, and the shares in small."""

import json
import math

import pytest

pytest.importorskip("diffusers")

import torch
from diffusers import DDPMScheduler

from experiments.same_image import __main__ as same_image


def test_the_denoiser_is_that_of_the_images():
    """E[eps | x_t] by Bayes' formula, one image after the other."""
    images = torch.randn(5, 1, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = torch.randn(3, 1, 2, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    squared = DDPMScheduler().alphas_cumprod[600].item()
    alpha, sigma = math.sqrt(squared), math.sqrt(1 - squared)
    found = same_image.noise_of(images)(x, torch.tensor(600))
    for row, noise in zip(x, found, strict=True):
        weights = [math.exp(-(row - alpha * image).square().sum().item() / (2 * sigma**2)) for image in images]
        mean = sum(weight * image for weight, image in zip(weights, images, strict=True)) / sum(weights)
        torch.testing.assert_close(noise, (row - alpha * mean) / sigma, rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore:Should have t:UserWarning")  # torchsde's tree in DPMSolverSDEScheduler
def test_samples_end_at_the_images_and_the_path_of_a_seed_is_one(tmp_path, monkeypatch, capsys):
    """Of 40 seeds more than half keep their image by path-average; by a scheduler that draws new noise in every step
    hardly more than chance has it, 1 in 20."""
    monkeypatch.setattr(same_image, "EVALUATIONS", (20, 40))
    same_image.main(["--images", "20", "--seeds", "40", "--out", str(tmp_path)])
    rows = {row["scheduler"]: row for row in json.loads((tmp_path / "digits.json").read_text())}
    assert rows.keys() == same_image.SCHEDULERS.keys()
    assert rows["path-average"]["same"] > 0.7
    assert rows["SDE-DPM-Solver++(2M)"]["same"] < 0.4
    assert rows["path-average"]["standard_error"] == pytest.approx(
        math.sqrt(rows["path-average"]["same"] * (1 - rows["path-average"]["same"]) / 40)
    )
    assert (tmp_path / "digits.md").read_text().strip() == capsys.readouterr().out.strip()

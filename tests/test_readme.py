"""Every Python example of the README runs, in order, and shows what it says."""

import re
from pathlib import Path

import diffusers
import torch

from sdesig.generator import NetworkDenoiser, SigDEG, UNet
from sdesig.sde import GaussianReference

README = Path(__file__).parent.parent / "README.md"


def image_models(folder):
    """A tiny pipeline, returned, and the student of a tiny teacher in runs/mine."""
    torch.manual_seed(0)
    kinds = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",), "block_out_channels": (8,)}
    unet = diffusers.UNet2DModel(8, in_channels=3, out_channels=3, norm_num_groups=4, layers_per_block=1, **kinds)
    teacher = NetworkDenoiser(UNet(3, 8, widths=(8,)), 0.5)
    reference = GaussianReference(0.0, 0.25)
    student = SigDEG.from_teacher(teacher, event=(3, 8, 8), snr=(0.01, 100.0), depth=2, reference=reference)
    student.save(folder / "runs/mine/student")
    pipeline = diffusers.DDPMPipeline(unet, diffusers.DDPMScheduler())
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_examples_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    assert len(blocks) >= 6
    names: dict[str, object] = {"pipeline": image_models(tmp_path)}
    for block in blocks:
        exec(compile(block, str(README), "exec"), names)
        if "distill(" in block:
            difference = names["samples"].values - names["again"].values
            assert difference.square().mean().sqrt() < 0.4 * names["again"].values.std()
    assert [image.size for image in names["images"]] == [(8, 8)] * 2
    step, again = names["step"], names["again"]
    assert (step.coefficients - again.coefficients).abs().max() < 1e-5
    words = names["words_for_scheme"](strong=1.5, noise="additive")
    assert words == ((0,), (1,), (0, 0), (0, 1), (1, 0))
    torch.testing.assert_close(names["expected_signature"](dim=2, h=0.1, depth=4)[1, 1, 2, 2].item(), 0.1**2 / 8)
    estimate = names["estimate"]
    assert estimate.supports(1.0)
    assert estimate.refutes(1.5)
    radius = names["samples"].square().sum(-1).sqrt()
    assert abs(radius.mean() - 1.0) < 0.05

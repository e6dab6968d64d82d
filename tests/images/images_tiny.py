"""Tiny diffusers models with random weights, for the tests of `sdesig.images`."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from students_start import StudentsStart

from sdesig.sampling import CanonicalSDE
from sdesig.solvers import solve

TINY = {
    "sample_size": 8,
    "in_channels": 1,
    "out_channels": 1,
    "block_out_channels": (8, 16),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "attention_head_dim": 4,
}
SKIPS = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ("SkipDownBlock2D", "SkipDownBlock2D"),
    "up_block_types": ("SkipUpBlock2D", "SkipUpBlock2D"),
    "time_embedding_type": "fourier",
    "center_input_sample": True,
}
"""Like the published models with the score-SDE scheduler (NCSN++)."""


def seeded(module, seed=0, scale=0.2):
    """The module, noise added to all weights: those that start at zero too."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(scale * torch.randn(p.shape, generator=generator))
    return module.eval()


def tiny_unet(seed=0, **changes):
    unet2d = pytest.importorskip("diffusers").UNet2DModel
    torch.manual_seed(seed)
    return seeded(unet2d(**{**TINY, **changes}), seed)


def save_pipeline(folder, unet, scheduler):
    """The layout of a pipeline."""
    unet.save_pretrained(folder / "unet")
    scheduler.save_pretrained(folder / "scheduler")
    index = {"_class_name": "DDPMPipeline", "unet": ["diffusers", "UNet2DModel"]}
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def normal(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def change_json(file, **changes):
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def change_weights(file, change):
    """Apply a function to the tensors of a safetensors file."""
    tensors = {name: value.clone() for name, value in load_file(file).items()}
    change(tensors)
    save_file(tensors, file)


def flip_last_bit(file):
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def check_widened(network, inputs, names):
    """Widened by 2 conditions and 3 extra inputs: the new weights, `names`, start at zero and learn, the old ones are
    copies, and every condition and extra input counts. Returns it, with gradients."""
    before = {name: value.clone() for name, value in network.state_dict().items()}
    copy = network.widened(2, 3)
    x, noise, conditions, extra = inputs
    copy(x, noise, conditions, extra).square().sum().backward()
    new = {name: p for name, p in copy.named_parameters() if name not in before}
    assert sorted(new) == sorted(names)
    for p in new.values():
        assert (p == 0).all()
        assert (p.grad != 0).all(dim=0).any()
    seeded(copy)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    value = copy(x, noise, conditions, extra)
    for k in range(3):
        other = extra.clone()
        other[:, k] += 1
        assert (copy(x, noise, conditions, other) - value).abs().max() > 1e-3
    for k in range(2):
        assert (copy(x, noise, conditions + torch.eye(2)[k], extra) - value).abs().max() > 1e-3
    return copy


def path_average_samples(teacher, student, n, steps):
    """What an untrained student is to give: samples by the scheme that it starts as, on the student's paths."""
    sde, path = CanonicalSDE(teacher, reference=student.space.reference), student.space.paths(n)
    times = path.grid(steps)
    with torch.no_grad():
        states = solve(sde, sde.start(path.initial_noise(), times[0]), times, scheme=StudentsStart(), path=path)
    return sde.noisy_data(states[-1], times[-1])

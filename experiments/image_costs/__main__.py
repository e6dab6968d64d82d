"""`python -m experiments.image_costs`: seconds of sampling beside those of the network, bytes kept for a backward pass.

Networks have random weights: neither depends on them. Results go to experiments/image_costs/results. Needs the extra
for images. Run it on an idle machine; on a GPU with --device cuda.
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sdesig.evaluation import markdown_table, replacing, write_json
from sdesig.images import DiffusersUNet
from sdesig.sampling import GaussianReference, PathSpace, SNRDenoiser, TeacherOptions, draw_paths
from sdesig.sigdeg import ModelDenoiser, Network, NetworkDenoiser, SigDEG, UNet, rollout_loss
from sdesig.testing import saved_bytes

RESULTS = Path(__file__).parent / "results"
SNR = (1 / 80**2, 1 / 0.05**2)
STEPS = 10
REPEATS = 2
DDPM_CIFAR10 = {
    "sample_size": 32,
    "in_channels": 3,
    "out_channels": 3,
    "block_out_channels": [128, 256, 256, 256],
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
    "layers_per_block": 2,
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
}
"""`UNet2DModel` as in google/ddpm-cifar10-32."""


class Setting(NamedTuple):
    """A network, the images that are sampled at once, and those of a training step."""

    make: Callable[[], Network]
    sampled: int
    trained: int


SETTINGS = {
    "UNet of experiments/mnist": Setting(lambda: UNet(1, 28, widths=(32, 64), patch=2), 100, 64),
    "UNet2DModel of google/ddpm-cifar10-32": Setting(lambda: DiffusersUNet(DDPM_CIFAR10), 32, 4),
}


def costs(name: str, setting: Setting, device: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A row of the table of times, and rows of that of bytes."""
    teacher = teacher_of(setting, device)
    student = functools.partial(student_of, teacher, space_of(teacher.event))
    parameters = f"{sum(p.numel() for p in teacher.parameters()) / 1e6:.2f} M"
    of_network = {"network": name, "parameters": parameters}
    timed = {**of_network, "images": setting.sampled, **overhead(student().eval(), teacher.eval(), setting.sampled)}
    usual, kept = 0, []
    for what, value in memory(student, teacher.train(), setting.trained):
        usual = usual or value
        kept.append({**of_network, "of": what, "mebibytes": round(value / 2**20), "ratio": value / usual})
        print(kept[-1], flush=True)
    return timed, kept


def teacher_of(setting: Setting, device: str) -> NetworkDenoiser:
    """A teacher with the network of a setting, of random weights."""
    torch.manual_seed(0)
    return NetworkDenoiser(setting.make().to(device), 0.5)


def space_of(event: tuple[int, ...]) -> PathSpace:
    """Paths with a reference per cosine, of no data in particular."""
    generator = torch.Generator().manual_seed(0)
    reference = GaussianReference.fit(0.5 * torch.randn(500, *event, generator=generator), "dct")
    return PathSpace(event, SNR, reference)


def student_of(
    teacher: ModelDenoiser, space: PathSpace, depth: int = 4, cell: str = "solver", rank: int | None = None
) -> SigDEG:
    """A student that is not trained, on the device of its teacher."""
    made = SigDEG.from_teacher(teacher, replace(space, depth=depth), depth=depth, cell=cell, rank=rank)
    return made.to(next(teacher.parameters()).device)


def network_of(student: SigDEG) -> Network:
    """The network that a student asks."""
    return next(module for module in student.modules() if isinstance(module, Network))


@torch.no_grad()
def overhead(student: SigDEG, teacher: ModelDenoiser, rows: int) -> dict[str, float]:
    """Seconds of sampling in 10 steps from seeds, and of 10 evaluations of the teacher's network on as many images."""
    y = torch.randn(rows, *student.space.event, device=student.space.device)

    def evaluate() -> None:
        for _ in range(STEPS):
            teacher(y, torch.tensor(1.0))

    of_network, of_sampling = [], []
    for _ in range(REPEATS + 1):  # the first, to warm up, is left out
        of_network.append(_seconds(evaluate))
        of_sampling.append(_seconds(lambda: student.sample(rows, STEPS)))
    least, whole = min(of_network[1:]), min(of_sampling[1:])
    print(f"{whole:.3f} s of sampling, {least:.3f} s of the network", flush=True)
    return {"seconds": whole, "seconds_of_network": least, "overhead_percent": 100 * (whole / least - 1)}


def _seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def memory(student: Callable[..., SigDEG], teacher: ModelDenoiser, rows: int) -> Iterator[tuple[str, int]]:
    """What is kept for the backward pass of what, in bytes: of the teacher's own training step first."""
    device = next(teacher.parameters()).device
    clean, noise = torch.randn(2, rows, *teacher.event, device=device)
    yield "training step of the teacher", saved_bytes(lambda: _denoising(teacher, clean, noise))
    for depth in (1, 2, 4):
        yield f"step of a student, depth {depth}", saved_bytes(_rollout(student(depth), rows, 1))
    yield "step of a student, depth 4, rank 8", saved_bytes(_rollout(student(rank=8), rows, 1))
    yield "step of a plain student, depth 2", saved_bytes(_rollout(student(2, "plain"), rows, 1))
    made = student()
    yield f"rollout of {STEPS} steps, depth 4", saved_bytes(_rollout(made, rows, STEPS))
    yield "the same, window=2", saved_bytes(_rollout(made, rows, STEPS, first=4, window=2))
    yield "the same, recompute=True", saved_bytes(_rollout(made, rows, STEPS, recompute=True))


def _denoising(teacher: ModelDenoiser, clean: Tensor, noise: Tensor) -> Tensor:
    return (teacher(clean + noise, torch.tensor(1.0)) - clean).square().mean()


def _rollout(student: SigDEG, rows: int, steps: int, **options: Any) -> Callable[[], Tensor]:
    student.train().cell.set_trainable()
    generator = torch.Generator(student.space.device).manual_seed(0)
    # where the teacher's paths end does not matter
    teacher = SNRDenoiser(lambda y, snr: y / (snr + 4))
    paths = draw_paths(teacher, student.space, TeacherOptions(steps=steps, cells=steps), rows, generator=generator)
    return functools.partial(rollout_loss, student, student.sde, paths, **options)


def main(arguments: Sequence[str] | None = None) -> None:
    """See --help."""
    parser = argparse.ArgumentParser(prog="python -m experiments.image_costs", description=__doc__)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    times, kept = [], []
    for name, setting in SETTINGS.items():
        timed, of_network = costs(name, setting, options.device)
        times.append(timed)
        kept += of_network
    machine = torch.cuda.get_device_name() if options.device == "cuda" else f"{options.threads} core(s) of a CPU"
    publish(times, kept, machine, options.out)


def publish(times: list[dict[str, Any]], kept: list[dict[str, Any]], machine: str, out: Path) -> None:
    """Write costs.json and costs.md."""
    time_columns = {
        "network": "network",
        "parameters": "parameters",
        "images": "images",
        "seconds": "seconds of sampling",
        "seconds_of_network": "of its network alone",
        "overhead_percent": "overhead, %",
    }
    memory_columns = {"network": "network", "of": "of", "mebibytes": "MiB", "ratio": "over the teacher's"}
    text = (
        f"# What Sig-DEG costs beside its network\n\nWritten by `python -m experiments.image_costs` on {machine}. "
        f"Sampling: {STEPS} steps of depth 4 from seeds, with a reference per cosine, the drawing of the paths "
        f"included; the least of {REPEATS} times.\n\n{markdown_table(times, time_columns)}\n"
        "The path of a seed costs the same per coordinate and step whatever the network. The overhead has a "
        "student's own inputs to its network in it.\n\nTensors that are kept for the backward pass, weights "
        "included, of "
        f"{' and '.join(str(setting.trained) for setting in SETTINGS.values())} images:\n\n"
        f"{markdown_table(kept, memory_columns)}"
    )
    write_json(out / "costs.json", {"times": times, "memory": kept})
    with replacing(out / "costs.md") as file:
        file.write_text(text)
    print(text)


if __name__ == "__main__":
    main()

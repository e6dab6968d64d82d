"""The parts of `make gpu`, each a function of the setting that returns lines of the table."""

from __future__ import annotations

import importlib.util
import json
import math
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from experiments.benchmarks.comparison import compare, seconds
from experiments.benchmarks.scheduler import SHAPES, path_average, pipeline_run, two_m
from experiments.benchmarks.scheduler import STEPS as SCHEDULER_STEPS
from experiments.cifar10.setting import GPU
from experiments.gpu.running import Line, Partial, Setting, Skipped, line
from experiments.image_costs.__main__ import DDPM_CIFAR10, STEPS, network_of, space_of, student_of, teacher_of
from experiments.image_costs.__main__ import Setting as NetworkSetting
from experiments.image_study.study import Study
from sdesig import digits
from sdesig.brownian import BrownianPath
from sdesig.images import DiffusersUNet
from sdesig.sampling import (
    CanonicalSDE,
    DPMSolver1,
    GaussianReference,
    PathAverage,
    PathSpace,
    ReverseScheme,
    SNRDenoiser,
)
from sdesig.sigdeg import Network, NetworkDenoiser, TrainingOptions, UNet, train_teacher
from sdesig.solvers import solve

ROOT = Path(__file__).parents[2]
TESTS = ["tests/devices", "tests/brownian/test_path.py"]
TINY_TESTS = ["tests/signature/test_words.py"]
LATENTS = {**DDPM_CIFAR10, "sample_size": 64, "in_channels": 4, "out_channels": 4}
NETWORKS = {
    "UNet of experiments/mnist": NetworkSetting(lambda: UNet(1, 28, widths=(32, 64), patch=2), 1000, 64),
    "UNet2DModel of google/ddpm-cifar10-32": NetworkSetting(lambda: DiffusersUNet(DDPM_CIFAR10), 128, 4),
    "the same for latents 4x64x64": NetworkSetting(lambda: DiffusersUNet(LATENTS), 16, 4),
}
TINY_NETWORK = NetworkSetting(lambda: UNet(1, 8, widths=(8,)), 2, 2)
TEACHER_STEPS = 1000
GPU_EVENT = (GPU.channels, GPU.size, GPU.size)


def same_image(setting: Setting) -> list[Line]:
    """One seed is one path and one image on the GPU and on the CPU: differences of samples, as root mean squares."""
    lines, devices = [], ("cpu", setting.device)
    for dtype, most in ((torch.float64, 1e-13), (torch.float32, 1e-6)):
        expected, found = (_path(dtype, device) for device in devices)
        lines.append(_difference(f"path, depth 4, {_name(dtype)}", expected, found, most))
    seeds = range(4 if setting.tiny else 64)
    student = digits.load_student("depth-2")
    expected, found = (student.to(device).sample(seeds, STEPS).values for device in devices)
    lines.append(_difference(f"trained student of digits, {STEPS} steps, float32", expected, found, 1e-4))
    network = TINY_NETWORK if setting.tiny else NETWORKS["UNet of experiments/mnist"]
    teacher = teacher_of(network, "cpu").eval()
    made = student_of(teacher, space_of(teacher.event)).eval()
    expected = made.sample(seeds, STEPS).values
    made, what = made.to(setting.device), f"untrained student, convolutions, {STEPS} steps"
    for precision, most in (("float32", 1e-4), ("float32 with TF32", 1e-2), ("bfloat16", 5e-2)):
        network_of(made).mixed_precision = precision == "bfloat16"
        with torch.backends.cudnn.flags(enabled=True, allow_tf32="TF32" in precision):
            lines.append(_difference(f"{what}, {precision}", expected, made.sample(seeds, STEPS).values, most))
    return lines


def costs(setting: Setting) -> list[Line]:
    """Drawing per normal, and what sampling in ten steps takes beside its network."""
    lines, steps, repetitions = [], 8, 2 if setting.tiny else 5
    for rows, size in ((2, 20),) if setting.tiny else ((16, 784), (100, 784), (16, 12288), (100, 12288)):
        variance = torch.linspace(0.01, 1.0, size)
        for name, c in (("one clock", torch.tensor(0.25)), ("a clock per coordinate", variance)):
            reference = GaussianReference(torch.zeros(size), c).to(setting.device)
            space = PathSpace((size,), digits.SNR, reference, cells=8)  # of which all cells are drawn
            timing = compare(
                setting.synchronized(partial(_draw, space, rows, steps)),
                setting.synchronized(partial(torch.randn, (4, steps, rows, size), device=setting.device)),
                repetitions,
            )
            what = f"drawing per normal over torch.randn, batch {rows}, {size} coordinates, {name}"
            lines.append(line(what, 1 / timing.ratio, "times"))
            nanoseconds = 1e9 * timing.ours_seconds / (4 * steps * rows * size)
            lines.append(line(what.replace(" over torch.randn", ""), nanoseconds, "ns"))
    for name, network in ({"tiny UNet": TINY_NETWORK} if setting.tiny else NETWORKS).items():
        teacher = teacher_of(network, setting.device).eval()
        space = space_of(teacher.event)
        student = student_of(teacher, space).eval()
        rows, y = network.sampled, torch.randn(network.sampled, *teacher.event, device=setting.device)
        for label, sampling in (
            ("SigDEG.sample, depth 4", partial(student.sample, rows, STEPS)),
            ("path-average", partial(_sample, PathAverage(), teacher, space.to(setting.device), rows, STEPS)),
        ):
            timing = compare(
                setting.synchronized(sampling),
                setting.synchronized(partial(_evaluate, teacher, y, STEPS)),
                repetitions,
            )
            what = f"{label}, {STEPS} steps of {rows} images beside their network, {name}"
            lines.append(line(what, 100 * (1 / timing.ratio - 1), "%"))
    return lines


def scheduler(setting: Setting) -> list[Line]:
    """`PathAverageScheduler` over DPM-Solver++(2M) SDE of diffusers, each without its model."""
    lines = []
    for shape in ((1, 4, 8, 8),) if setting.tiny else SHAPES:
        for steps in (4,) if setting.tiny else SCHEDULER_STEPS:
            ours, peer = (
                setting.synchronized(pipeline_run(made, shape, steps, setting.device))
                for made in (path_average(), two_m())
            )
            timing = compare(ours, peer, 2 if setting.tiny else 5)
            what = f"time over DPM-Solver++(2M) SDE's, {steps} steps of latents {'x'.join(map(str, shape))}"
            lines.append(line(what, 1 / timing.ratio, "times", most=4.0))
            lines.append(line(f"a step of it, {what.partition(', ')[2]}", 1e3 * timing.ours_seconds / steps, "ms"))
    return lines


def speed(setting: Setting) -> list[Line]:
    """Ten steps of a student over the thousand steps of its teacher, per image."""
    network = TINY_NETWORK if setting.tiny else NETWORKS["UNet2DModel of google/ddpm-cifar10-32"]
    steps, rows = (20, 2) if setting.tiny else (TEACHER_STEPS, 64)
    teacher = teacher_of(network, setting.device).eval()
    space = space_of(teacher.event)
    student = student_of(teacher, space).eval()
    own = replace(space, reference=GaussianReference(0.0, 0.0)).to(setting.device)
    ours = setting.synchronized(partial(student.sample, rows, STEPS))
    ours()
    _sample(DPMSolver1(), teacher, own, rows, 2)
    whole = seconds(setting.synchronized(partial(_sample, DPMSolver1(), teacher, own, rows, steps)))
    ten = min(seconds(ours) for _ in range(3))
    least = None if setting.tiny else 80.0
    return [
        line(f"{STEPS} steps over the {steps} of the teacher, {rows} images", whole / ten, "times faster", least=least),
        line(f"{STEPS} steps of 1000 images", 1000 * ten / rows, "s"),
        line(f"{steps} steps of 1000 images", 1000 * whole / rows, "s"),
    ]


def training(setting: Setting) -> list[Line]:
    """Training of a teacher over a bare loop of the same network, in bfloat16, in images per second."""
    event, batch, few, many = ((1, 8, 8), 4, 2, 4) if setting.tiny else (GPU_EVENT, GPU.batch, 20, 120)
    make = TINY_NETWORK.make if setting.tiny else GPU.network
    data = torch.randn(4 * batch, *event, generator=torch.Generator().manual_seed(0)).to(setting.device)
    torch.manual_seed(0)
    network = make().to(setting.device)
    bare = _bare_loop(network, data, batch)

    def trained(iterations: int) -> float:
        options = TrainingOptions(iterations=iterations, precision="bfloat16")
        with tempfile.TemporaryDirectory() as folder:
            call = partial(train_teacher, network, data, folder, options, batch=batch, progress=False)
            return seconds(setting.synchronized(call))

    def looped(iterations: int) -> float:
        return seconds(setting.synchronized(partial(bare, iterations)))

    rates = []
    for timed in (trained, looped):
        timed(2)
        # what a run takes at its begin and end is in both numbers
        rates.append(batch * (many - few) / max(1e-9, timed(many) - timed(few)))
    least = None if setting.tiny else 0.85
    return [
        line("training of a teacher over a bare loop", rates[0] / rates[1], "", least=least),
        line("training of a teacher", rates[0], "images/s"),
        line("a bare loop of its network", rates[1], "images/s"),
    ]


def tests(setting: Setting) -> list[Line]:
    """The tests that need a GPU, in a process of their own; what it says is in tests.txt beside the trainings."""
    chosen = TINY_TESTS if setting.tiny else [*TESTS, "-k", "cuda or on_the_gpu"]
    workers = ["-n", "4"] if importlib.util.find_spec("xdist") and not setting.tiny else []
    command = [sys.executable, "-m", "pytest", "-rfE", "--tb=short", "-p", "no:cacheprovider", *workers, *chosen]
    file = setting.runs / "tests.txt"
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w") as output:
        run = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)
        try:
            run.wait(max(1.0, setting.seconds_left - 15))
        except subprocess.TimeoutExpired:
            run.send_signal(signal.SIGINT)  # then it says how far it came
        try:
            run.wait(10)
        finally:
            run.kill()
    text = file.read_text()
    counts = {name: int(count) for count, name in re.findall(r"(\d+) (passed|failed|error|skipped)", _last(text))}
    if not counts:
        raise RuntimeError(f"pytest said nothing that is understood: {text[-1000:]}")
    bad = counts.get("failed", 0) + counts.get("error", 0)
    lines = [line("tests that failed", bad, most=0), *(line(f"tests {name}", counts[name]) for name in counts)]
    named = re.findall(r"^(?:FAILED|ERROR) (.*)$", text, flags=re.MULTILINE)
    return [*lines, *(line(f"failed: {name[:200]}", 1.0) for name in named[:20])]


def cifar10(setting: Setting) -> list[Line]:
    """As much of experiments/cifar10 as the time allows: the teacher, then its students; it goes on from there."""
    if setting.data is None:
        raise Skipped("no images: --data names a folder or archive of CIFAR-10, such as cifar10_train.tar.xz")
    study = tiny_study() if setting.tiny else GPU
    images = study.images(setting.data, setting.runs / "data")
    try:
        teacher = study.trained_teacher(images, setting.runs, torch.device(setting.device))
        for name in study.runs:
            study.distilled(name, teacher, images, setting.runs)
    except KeyboardInterrupt:  # at the deadline or by hand: what was done is kept
        if setting.seconds_left > 1:
            raise
        raise Partial(_trained(study, setting.runs)) from None
    return _trained(study, setting.runs)


PARTS: dict[str, tuple[Callable[[Setting], list[Line]], float]] = {
    "same_image": (same_image, 60),
    "costs": (costs, 90),
    "scheduler": (scheduler, 40),
    "speed": (speed, 60),
    "training": (training, 50),
    "tests": (tests, 100),
    "cifar10": (cifar10, math.inf),
}
"""The parts in their order, with the seconds that each may take of the whole."""


def tiny_study() -> Study:
    """That of CIFAR-10 in two iterations of one run."""
    run = GPU.runs["plain"]
    options = run.options
    options = replace(
        options,
        steps=(2, 2),
        evaluations=100,
        teacher_options=replace(options.teacher_options, steps=4, cells=4),
        training=replace(options.training, iterations=2),
    )
    return replace(
        GPU,
        size=8,
        network=lambda: UNet(3, 8, widths=(8,)),
        teacher=replace(GPU.teacher, iterations=2),
        batch=4,
        verdict=0,
        runs={"plain": replace(run, options=options)},
    )


def _path(dtype: torch.dtype, device: str) -> Tensor:
    path = BrownianPath(0.0, 1.0, (8, 100), seeds=range(8), depth=4, dtype=dtype, device=device)
    return path.partial_signatures(path.grid(16)).coefficients


def _difference(what: str, expected: Tensor, found: Tensor, most: float) -> Line:
    apart = (found.detach().cpu().double() - expected.detach().cpu().double()).square().mean().sqrt().item()
    return line(f"{what}: apart from the CPU's", apart, "rms", most=most)


def _draw(space: PathSpace, rows: int, steps: int) -> Tensor:
    return space.paths(rows).partial_signatures(space.times(steps)).coefficients


@torch.no_grad()
def _sample(scheme: ReverseScheme, teacher: SNRDenoiser, space: PathSpace, rows: int, steps: int) -> Tensor:
    path, sde = space.paths(rows), CanonicalSDE(teacher, reference=space.reference)
    return solve(sde, space.start(path, steps), space.times(steps), scheme=scheme, path=path, save="last")


@torch.no_grad()
def _evaluate(teacher: NetworkDenoiser, y: Tensor, steps: int) -> None:
    for _ in range(steps):
        teacher(y, torch.tensor(1.0))


def _bare_loop(network: Network, data: Tensor, batch: int) -> Callable[[int], None]:
    """Iterations of a training that does nothing but train: no average, no clipping, no checks, nothing written."""

    def run(iterations: int) -> None:
        network.mixed_precision = True
        optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=True)
        for _ in range(iterations):
            clean = data[torch.randint(len(data), (batch,), device=data.device)]
            sigma = torch.randn(batch, device=data.device).exp()
            noisy = clean + sigma.reshape(-1, *[1] * (clean.ndim - 1)) * torch.randn_like(clean)
            loss = (network(noisy, sigma.log() / 4) - clean).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        network.mixed_precision = False

    return run


def _last(text: str) -> str:
    """The last line with words in it."""
    return next((found for found in reversed(text.splitlines()) if found.strip()), "")


def _trained(study: Study, runs: Path) -> list[Line]:
    """How far each training of a study came."""
    lines = []
    planned = {"teacher": study.teacher} | {name: run.options.training for name, run in study.runs.items()}
    for name, options in planned.items():
        file = runs / name / "stats.jsonl"
        if file.exists() and (stats := file.read_text().splitlines()):
            last = json.loads(stats[-1])
            lines.append(line(f"{name}: iterations of {options.iterations}", last["iteration"]))
            lines.append(line(f"{name}: loss", last["loss"]))
            lines.append(line(f"{name}: throughput", last["samples_per_second"], "samples/s"))
    return lines


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")

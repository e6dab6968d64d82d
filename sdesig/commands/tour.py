"""`sdesig tour`: what a partial signature knows, Levy areas, and one seed at every number of steps."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torchsde
from torch import Tensor

from sdesig._files import check_output
from sdesig.brownian import BrownianPath
from sdesig.evaluation import panels, pathwise_errors, save_figure, share_apart, spread_of
from sdesig.sampling import CanonicalDenoiser, CanonicalSDE, GaussianReference
from sdesig.sde import VP, Mixture
from sdesig.signature import PartialSignature, sample_partial_signature
from sdesig.signature.legendre import gauss_legendre, orthonormal_legendre
from sdesig.solvers import solve

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MIXTURE, DIFFUSION = Mixture.circle(1.0, 0.1, dtype=torch.float64), VP.linear()


@dataclass(frozen=True)
class Tour:
    """A one-minute tour with pictures: a path and its partial signatures, Levy areas, a reverse diffusion."""

    out: Path = Path("runs/tour")
    """Folder for the pictures."""
    seed: int = 0
    """First seed of all paths."""

    def run(self) -> None:
        """Run the command."""
        check_output("out", self.out, folder=True)
        chapters: list[tuple[str, Callable[[int], tuple[Figure, str]]]] = [
            ("path.png", what_a_step_knows),
            ("areas.png", levy_areas),
            ("reverse_diffusion.png", one_seed_at_every_step_count),
        ]
        for name, chapter in chapters:
            figure, text = chapter(self.seed)
            save_figure(figure, self.out / name, dpi=130)
            print(f"{text}\n  -> {self.out / name}\n", flush=True)


def conditional_mean(step: PartialSignature, positions: Tensor) -> Tensor:
    """E[W_u - W_s | the coefficients of a step] at positions (u - s)/h, shape (positions, *shape)."""
    nodes, weights = gauss_legendre(step.depth)
    basis = orthonormal_legendre(positions[:, None] * nodes, step.depth) @ weights * positions
    return step.h.sqrt() * torch.tensordot(basis.to(step.dtype), step.coefficients, ([0], [0]))


def what_a_step_knows(seed: int) -> tuple[Figure, str]:
    """A path, and its conditional mean given partial signatures of depth 1, 2 and 4 on four steps."""
    rows, steps, points = 500, 4, 256
    path = BrownianPath(0.0, 1.0, (rows,), seeds=range(seed, seed + rows), depth=4, cells=2**10, dtype=torch.float64)
    fine, coarse = path.grid(steps * points), path.partial_signatures(path.grid(steps))
    value = torch.cat([torch.zeros(1, rows), path.partial_signatures(fine).increment.cumsum(0)])
    x = torch.linspace(0, 1, points + 1, dtype=torch.float64)
    figure, axes = panels(1, 3, figsize=(13, 3.6), sharey=True)
    lines = [f"A Brownian path, and what partial signatures on {steps} steps know of it (rms over {rows} seeds):"]
    for axis, depth in zip(axes, (1, 2, 4), strict=True):
        axis.plot(fine, value[:, 0], color="0.7", lw=0.8, label=f"the path of seed {seed}")
        squares = []
        for k in range(steps):
            start = value[k * points]
            mean = start + conditional_mean(coarse[k].truncate(depth), x)
            squares.append((value[k * points : (k + 1) * points + 1] - mean).square().mean())
            axis.plot(
                (k + x) / steps,
                mean[:, 0],
                color="C0",
                lw=2,
                label="its mean given the steps' signatures" if k == 0 else None,
            )
            axis.plot(k / steps, start[0], "o", color="C1", ms=4, label="ends of steps" if k == 0 else None)
        axis.set(title=f"depth {depth}", xlabel="time t")
        lines.append(f"  depth {depth}: unknown inside a step {torch.stack(squares).mean().sqrt():.4f}")
    axes[0].set_ylabel("$W_t$")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    figure.suptitle(f"what partial signatures on {steps} steps know of a Brownian path (seed {seed})")
    return figure, "\n".join(lines)


def levy_areas(seed: int) -> tuple[Figure, str]:
    """A planar path and its Levy area; the law of 10^5 sampled areas against the exact density 1/cosh(pi a)."""
    path = BrownianPath(0.0, 1.0, (1, 2), seeds=[seed], cells=2**10, area=True, dtype=torch.float64)
    steps = path.partial_signatures(path.grid(2**10))
    line = torch.cat([torch.zeros(1, 2), steps.increment[:, 0].cumsum(0)])
    whole = path.partial_signature(0.0, 1.0)
    assert whole.levy_area is not None
    area = whole.levy_area[0, 0, 1].item()
    figure, (left, right) = panels(1, 2, figsize=(11, 4))
    left.fill(*line.T, color="C0", alpha=0.25, lw=0)
    left.plot(*line.T, color="C0", lw=0.7)
    left.plot(*line[[0, -1]].T, "o--", color="C1", ms=5, lw=1)
    left.set(
        title=f"seed {seed}: signed area between path and chord (dashed) {area:+.3f}",
        xlabel="$W^1$",
        ylabel="$W^2$",
        aspect="equal",
    )

    value = sample_partial_signature(
        (100_000, 2), 1.0, 3, area="legendre", generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    assert value.levy_area is not None
    areas, h_w = value.levy_area[:, 0, 1], value.space_time_area[:, 0] * value.increment[:, 1]
    a = torch.linspace(-2.5, 2.5, 400)
    right.hist(areas.numpy(), bins=120, range=(-2.5, 2.5), density=True, color="C0", alpha=0.5, label="sampled")
    right.plot(a, 1 / torch.cosh(math.pi * a), color="C1", label=r"exact, $1/\cosh(\pi a)$")
    right.plot(a, torch.exp(-2 * a**2) * math.sqrt(2 / math.pi), "k:", label="Gaussian of the same variance")
    right.set(title="Levy area of a unit step, 100000 samples", xlabel="$A_{01}$", ylabel="density", yscale="log")
    right.set_ylim(1e-4, 2)
    right.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=3)
    text = (
        "Levy areas of 100000 unit steps, drawn jointly with W, H and K (sampled / exact):\n"
        f"  variance {areas.var():.4f} / 0.25, kurtosis {(areas**4).mean() / areas.var() ** 2:.3f} / 5, "
        f"E[A_01 H_0 W_1] {(areas * h_w).mean():.5f} / {1 / 12:.5f}"
    )
    return figure, text


def one_seed_at_every_step_count(seed: int) -> tuple[Figure, str]:
    """Reverse diffusion of a mixture of 8 Gaussians: torchsde's Euler scheme, and path-average with a reference."""
    rows = 400
    figure, axes = panels(2, 4, figsize=(13, 7), sharex=True, sharey=True)
    lines = [
        "Reverse diffusion on one path per seed, rms distance to the same seeds at the most steps, and the share of "
        "seeds farther apart than half the standard deviation:"
    ]
    samplers = {
        "torchsde's Euler": (_euler_samples, (16, 64, 256, 1024)),
        "path-average": (_path_average_samples, (4, 8, 16, 256)),
    }
    for line, (name, (sampler, counts)) in zip(axes, samplers.items(), strict=True):
        seeds, others = (range(first, first + rows) for first in (seed, seed + rows))
        reference = sampler(seeds, counts[-1])
        mode = torch.atan2(reference[:, 1], reference[:, 0])
        distances = []
        for axis, steps in zip(line, counts, strict=True):
            points = sampler(seeds, steps)
            axis.scatter(*points.T, c=mode, cmap="hsv", s=6)
            axis.set(title=f"{name}, {steps} steps", aspect="equal")
            if steps < counts[-1]:
                apart = share_apart(pathwise_errors(points, reference), spread_of(reference)) or 0.0
                distances.append(f"{_rms(points - reference):.3f} ({apart:.1%} apart) at {steps}")
        line[0].set_ylabel("$x_2$")
        other = _rms(sampler(others, counts[-1]) - reference)
        lines.append(f"  {name}: {', '.join(distances)} steps (other seeds: {other:.3f})")
    for axis in axes[-1]:
        axis.set_xlabel("$x_1$")
    figure.suptitle(
        f"seeds {seed} to {seed + rows - 1}: colours are the angle at which the seed ends in the last panel of the row"
    )
    return figure, "\n".join(lines)


def _euler_samples(seeds: range, steps: int) -> Tensor:
    """x of the VP diffusion, steps even in its time, by torchsde."""
    sde = DIFFUSION.reverse(MIXTURE.denoiser(DIFFUSION))
    times = sde.solver_time(torch.tensor([DIFFUSION.t_max, DIFFUSION.t_min], dtype=torch.float64))
    t0, t1 = times.tolist()
    path = BrownianPath(t0, t1, (len(seeds), 2), seeds=seeds, depth=1, cells=2**11, dtype=torch.float64)
    path.prefetch(path.grid(steps))
    return torchsde.sdeint(sde, path.initial_noise(), times, bm=path, method="euler", dt=(t1 - t0) / steps)[-1]


def _path_average_samples(seeds: range, steps: int) -> Tensor:
    """x/alpha of the same diffusion, steps even in log-SNR."""
    reference = GaussianReference(MIXTURE.mean(), MIXTURE.covariance().trace().item() / 2)
    sde = CanonicalSDE(CanonicalDenoiser(MIXTURE.denoiser(DIFFUSION), DIFFUSION), reference=reference)
    low, high = (DIFFUSION.snr(t).item() for t in (DIFFUSION.t_max, DIFFUSION.t_min))
    path = BrownianPath(low, high, (len(seeds), 2), seeds=seeds, clock=sde.clock, dtype=torch.float64)
    start = sde.start(path.initial_noise(), low)
    last = solve(sde, start, path.grid(steps), scheme="path_average", path=path, save="last")
    return sde.noisy_data(last, high)


def _rms(difference: Tensor) -> float:
    return difference.square().sum(-1).mean().sqrt().item()

"""`python -m experiments.digits.scaling`: what stops the students. Short trainings that differ in one thing.

Those of the group "pairs" differ in pairs and loss, those of "students" in length, width, what the network is shown,
the numbers of steps and a part of the loss. Writes scaling.json and scaling.md to experiments/digits/results. A quarter
and half an hour of one core, 4 GB of memory.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from sdesig._devices import beside
from sdesig._random import generator_for
from sdesig.digits import load_digits, load_features, load_teacher, path_space
from sdesig.evaluation import (
    Comparison,
    FeatureStatistics,
    Sampler,
    generator_sampler,
    markdown_table,
    paired_ratio,
    replacing,
    root_mean_square,
    write_json,
)
from sdesig.sampling import CanonicalSDE, PathAverage, PathSpace, TeacherOptions, choose_grid
from sdesig.sampling.teacher_paths import (
    TEACHER_SCHEMES,
    coarse_ends,
    draw_local,
    draw_signature,
    join_steps,
    refined_times,
    snr_times,
    teacher_states,
)
from sdesig.sigdeg import MLP, SigDEG, SolverCell, TrainingOptions
from sdesig.sigdeg.cells import CONDITIONS, StudentDenoiser
from sdesig.sigdeg.distillation import local_loss
from sdesig.sigdeg.training import train
from sdesig.sigdeg.training_data import draw_rows
from sdesig.signature.legendre import gauss_legendre, orthonormal_legendre

RESULTS = Path(__file__).parent / "results"
DEPTH, EVALUATIONS, FINE, CELLS = 4, 2048, 64, 32
FEWEST, MOST = 4, 16
STEPS = (4, 5, 8, 16, 64)
BY_STEP = 8
"""Steps of the table of errors by step."""
TRAINING = TrainingOptions(iterations=300, learning_rate=2e-3, warmup=40, ema=0.98)


@dataclass(frozen=True)
class Variant:
    """One short training.

    Attributes:
        pairs: "cells": states from the marginal of data, at times rounded to the cells of rollouts; "exact": at the
            times of a sampler; "path": states of the teacher's own paths; "unrolled": the student's own states along
            them, from the start on.
        loss: of the mean squares of the steps of an iteration. "mean": the logarithm of their mean; "default":
            `local_loss`; "rows": the mean of the logarithms, with the square of the mean root over rows for each;
            "denoised": `local_loss` of D(y), of what the teacher expects at the end; "ends": the mean of both.
        depth: of the student.
        length: of the training, in units of the iterations of all.
        width: of an MLP that learns to correct the teacher, in place of changes of its weights; 0: those.
        steps: fewest and most steps.
        shown: what the network is shown beside y*: the coefficients of the signature; "state": also y_n; "points": in
            their place the path that they give at as many points.
        law: weight of the relative changes of second moments: in every step, of the coordinates in the reference's
            basis, over the rows.
    """

    pairs: str = "exact"
    loss: str = "default"
    depth: int = DEPTH
    length: float = 1.0
    width: int = 0
    steps: tuple[int, int] = (FEWEST, MOST)
    shown: str = "coefficients"
    law: float = 0.0

    @property
    def name(self) -> str:
        """Its name in the tables: what differs from others."""
        named = [f"{self.pairs}, {self.loss}, depth {self.depth}"]
        if self.length != 1:
            named.append(f"{self.length:g} times as long")
        if self.width:
            named.append(f"MLP of width {self.width}")
        if self.steps != (FEWEST, MOST):
            named.append("{} to {} steps".format(*self.steps))
        if self.shown != "coefficients":
            named.append({"state": "shown y_n too", "points": "shown points of the path"}[self.shown])
        if self.law:
            named.append(f"moments, weight {self.law:g}")
        return ", ".join(named)


GROUPS = {
    "pairs": (
        Variant("cells", "mean"),
        Variant("exact", "mean"),
        Variant("exact"),
        Variant("exact", depth=2),
        Variant("path"),
        Variant("unrolled", "mean"),
        Variant("exact", "rows"),
    ),
    "students": (
        Variant(),
        Variant(depth=2),
        Variant(loss="ends"),
        Variant(loss="ends", depth=2),
        Variant(loss="denoised"),
        Variant(length=0.25),
        Variant(length=3),
        Variant(width=224),
        Variant(width=672),
        Variant(steps=(8, 8)),
        Variant(steps=(4, 4)),
        Variant(shown="state"),
        Variant(shown="points"),
        Variant(law=0.3),
        Variant(law=1),
    ),
}
"""Variants, of which the first is what the others of its group are compared with."""


@dataclass(frozen=True)
class Step:
    """What the student is given in one step, and where the teacher ends."""

    start: Tensor
    end: Tensor
    u: Tensor
    memory: Any
    noise: tuple[Tensor, ...]
    target: Tensor


class ShownState(SolverCell):
    """A solver cell that is also shown y_n, scaled to unit variance."""

    def advance(self, sde: Any, start: Tensor, end: Tensor, u: Tensor, memory: Any, noise: Any) -> tuple[Tensor, Any]:
        """As `SolverCell.advance`."""
        tau = start.to(u)
        self._shown = sde.reference.from_reference(u, start) * torch.rsqrt(tau * (1 + self.sigma_data**2 * tau))
        return super().advance(sde, start, end, u, memory, noise)

    def _extra(self, sde: CanonicalSDE, values: Tensor, estimate: Tensor) -> Tensor:
        return torch.cat([super()._extra(sde, values, estimate), self._shown[:, None]], 1)


class ShownPoints(SolverCell):
    """A solver cell that is shown, for the coefficients, the mean path given them at the ends of equal parts."""

    def _extra(self, sde: CanonicalSDE, values: Tensor, estimate: Tensor) -> Tensor:
        nodes, weights = (value.float() for value in gauss_legendre(16, values.device))
        points = torch.stack(
            [
                part * (orthonormal_legendre(part * nodes, self.depth) * weights).sum(1)
                for part in torch.arange(1, self.depth + 1) / self.depth
            ]
        )
        return super()._extra(sde, torch.tensordot(points.to(values), values, 1), estimate)


class Setting:
    """The teacher, the space with a chosen grid, the data, and pairs, which variants share.

    Args:
        iterations: of a training.
    """

    def __init__(self, iterations: int) -> None:
        self.iterations = iterations
        self.teacher, self.data = load_teacher(), load_digits()[0]
        grid = choose_grid(self.teacher, path_space(), progress=False)
        self.space: PathSpace = replace(path_space(), grid=grid)
        self.sde = CanonicalSDE(self.teacher, reference=self.space.reference)
        self.scheme = TEACHER_SCHEMES[TeacherOptions().scheme]()
        self._kept: tuple[str, list[list[Step]]] = "", []

    def student(self, variant: Variant) -> SigDEG:
        """An untrained one."""
        torch.manual_seed(0)
        depth = variant.depth
        if variant.shown != "coefficients":
            kind, more = (ShownState, 2) if variant.shown == "state" else (ShownPoints, 1)
            wide = StudentDenoiser(self.teacher, depth + more)
            return SigDEG(kind(wide, depth, self.teacher.sigma_data), self.space)
        network = None
        if variant.width:
            network = MLP(*self.space.event, width=variant.width, conditions=CONDITIONS, extra=depth + 2)
            network.zero_last()
        return SigDEG.from_teacher(self.teacher, self.space, depth=depth, network=network)

    def pairs(self, kind: str, steps: tuple[int, int], iteration: int) -> list[Step]:
        """The steps of an iteration; those of the usual trainings are kept."""
        if iteration >= self.iterations or steps != (FEWEST, MOST):
            return self._drawn(kind, steps, iteration)
        if self._kept[0] != kind:
            self._kept = "", []  # not both at once
            self._kept = kind, [self._drawn(kind, steps, k) for k in range(self.iterations)]
        return self._kept[1][iteration]

    @torch.no_grad()
    def _drawn(self, kind: str, between: tuple[int, int], iteration: int) -> list[Step]:
        generator, student = generator_for("training", 0, iteration), self.student(Variant())
        share = torch.rand(1, generator=generator).item()
        fewest, most = between
        steps = min(most, int(fewest * ((most + 1) / fewest) ** share))
        if kind == "path":
            return self.along_paths(student, steps, EVALUATIONS // steps, generator, FINE // steps)[0]
        times, found = self.times(kind, steps), []
        fine = TeacherOptions(steps=FINE // steps, cells=FINE // steps)
        for k in torch.randperm(steps, generator=generator)[:8].tolist():
            clean = draw_rows(self.data, EVALUATIONS // min(steps, 8), generator)
            paths = draw_local(self.sde, fine, clean, times[k], times[k + 1], depth=DEPTH, generator=generator)
            found.append(self._step(student, times, k, paths.states, paths.signature, generator))
        return found

    def times(self, kind: str, steps: int) -> Tensor:
        """SNRs of the steps."""
        grid, snr = self.space.grid, self.space.snr
        if kind == "cells":
            return snr_times(snr, grid.whole, CELLS)[coarse_ends(CELLS, steps, grid)]
        return snr_times(snr, grid, steps)

    def along_paths(
        self, student: SigDEG, steps: int, rows: int, generator: torch.Generator, fine_per_step: int
    ) -> tuple[list[Step], Callable[[Tensor, int], Tensor]]:
        """All steps along the teacher's paths, and its way (u, k) from a state after k steps to the end."""
        times = self.times("path", steps)
        fine_times = refined_times(times, fine_per_step)
        noise = torch.randn((rows, *self.space.event), generator=generator)
        fine = draw_signature(self.sde.clock, fine_times, tuple(noise.shape), DEPTH, generator, noise.dtype)

        def solve(u: Tensor, k: int, save: Any) -> Tensor:
            first = k * fine_per_step
            return teacher_states(self.scheme, self.sde, u, fine_times[first:], fine[first:], save=save)

        states = solve(self.sde.start(noise, times[0]), 0, times)
        whole = join_steps(fine, range(0, len(fine_times), fine_per_step)).truncate(DEPTH)
        found = [self._step(student, times, k, states[k : k + 2], whole[k : k + 1], generator) for k in range(steps)]
        return found, lambda u, k: u if k == steps else solve(u, k, "last")

    def _step(
        self, student: SigDEG, times: Tensor, k: int, states: Tensor, signature: Any, generator: torch.Generator
    ) -> Step:
        cell, u = student.cell, states[0].clone()
        memory = (
            cell.start(self.sde, times[0], u)
            if k == 0
            else cell.memory_at(self.sde, times[k - 1], times[k], u, generator)
        )
        (noise,) = cell.noise_by_step("additive", signature)
        return Step(times[k], times[k + 1], u, memory, noise, states[1].clone())

    def moved(self, student: SigDEG, step: Step, before: tuple[Tensor, Any] | None = None) -> tuple[Tensor, Any]:
        """The student's state after a step and its memory, from the step's own state or another one."""
        root, coefficients = step.noise
        u, memory = (step.u, step.memory) if before is None else before
        return student.cell.advance(self.sde, step.start, step.end, u, memory, (root, coefficients[: student.depth]))

    def errors(self, u: Tensor, target: Tensor, end: Tensor) -> Tensor:
        """Mean square of x - x_teacher over coordinates, (rows,)."""
        return ((u - target) / beside(self.sde.reference.clock(end), u)).square().mean(1)

    def denoised_errors(self, u: Tensor, target: Tensor, end: Tensor) -> Tensor:
        """Mean square of D(y) - D(y_teacher) over coordinates, (rows,): of what is expected of the path's end."""
        y, wanted = (self.sde.reference.from_reference(value, end) for value in (u, target))
        return (self.teacher(y, end) - self.teacher(wanted, end)).square().mean(1)


def trained(setting: Setting, variant: Variant) -> SigDEG:
    """The student of a variant."""
    student = setting.student(variant)
    student.cell.set_trainable()
    unrolled = variant.pairs == "unrolled"
    kind = "path" if unrolled else variant.pairs

    def loss(iteration: int, generator: torch.Generator) -> tuple[Tensor, int]:
        found, ends, changes, before = [], [], [], None
        for step in setting.pairs(kind, variant.steps, iteration):
            if unrolled and before is None:
                before = step.u, step.memory
            u, memory = setting.moved(student, step, before)
            before = (u, memory) if unrolled else None
            errors = setting.errors(u, step.target, step.end)
            found.append((errors + 1e-7).sqrt().mean().square() if variant.loss == "rows" else errors.mean())
            if variant.loss in ("denoised", "ends"):
                ends.append(setting.denoised_errors(u, step.target, step.end).mean())
            if variant.law:
                wanted = step.target.square().mean(0)
                changes.append(((u.square().mean(0) - wanted) / (2 * wanted)).square().mean())
        squares = torch.stack(found)
        if variant.loss == "mean":
            value = squares.mean().log()
        elif variant.loss == "rows":
            value = squares.log().mean()
        elif variant.loss == "denoised":
            value = local_loss(torch.stack(ends), student)
        elif variant.loss == "ends":
            value = (local_loss(squares, student) + local_loss(torch.stack(ends), student)) / 2
        else:
            value = local_loss(squares, student)
        return value + variant.law * torch.stack(changes).log().mean() if variant.law else value, EVALUATIONS

    with TemporaryDirectory() as folder:
        iterations = round(variant.length * setting.iterations)
        return train(student, loss, folder, replace(TRAINING, iterations=iterations), progress=False).eval()


@torch.no_grad()
def by_step(setting: Setting, student: SigDEG, rows: int) -> dict[str, Any]:
    """Errors of single steps along the teacher's paths: after the step, and what the teacher makes of them at the end.

    With the share of the latter's mean square that the worst 5 % of the paths carry.
    """
    generator = generator_for("by step", BY_STEP)
    steps, to_end = setting.along_paths(student, BY_STEP, rows, generator, 12)
    after, at_end, worst = [], [], []
    for k, step in enumerate(steps, 1):
        u, _ = setting.moved(student, step)
        after.append(setting.errors(u, step.target, step.end).mean().sqrt().item())
        found, wanted = (to_end(state, k).reshape(u.shape) for state in (u, step.target))
        errors = setting.errors(found, wanted, steps[-1].end)
        at_end.append(errors.mean().sqrt().item())
        worst.append((errors.sort(descending=True)[0][: max(1, rows // 20)].sum() / errors.sum()).item())
    return {
        "snr": [step.start.item() for step in steps],
        "after the step": after,
        "at the end": at_end,
        "worst 5 % of paths": worst,
    }


class Measured:
    """Samplers on held-out seeds: errors of each, and Frechet distances to converged paths of other seeds."""

    def __init__(self, setting: Setting, seeds: int) -> None:
        self._comparison = Comparison(setting.teacher, setting.space)
        self._seeds, self._features = range(10**6, 10**6 + seeds), load_features()
        self._truth = self._run(self._comparison.truth, self._seeds)
        others = self._run(self._comparison.truth, range(2 * 10**6, 2 * 10**6 + seeds))
        self._real = FeatureStatistics.of(self._features(others[self._comparison.truth_steps]))

    def _run(self, sampler: Sampler, seeds: range) -> dict[int, Tensor]:
        size = self._comparison.batch
        pairs = [(sampler, steps) for steps in sampler.steps]
        parts = [self._comparison.follow(pairs, seeds[k : k + size]) for k in range(0, len(seeds), size)]
        return {steps: torch.cat([part[sampler.key, steps] for part in parts]) for steps in sampler.steps}

    def of(self, sampler: Sampler) -> tuple[dict[int, Tensor], dict[int, float]]:
        """Errors, (seeds,), and Frechet distances by the number of steps."""
        truth, samples = self._truth[self._comparison.truth_steps], self._run(sampler, self._seeds)
        return (
            {steps: (x - truth).square().mean(1).sqrt() for steps, x in samples.items()},
            {steps: self._real.distance(FeatureStatistics.of(self._features(x))) for steps, x in samples.items()},
        )


def scaling(name: str, iterations: int, seeds: int, out: Path, variants: Sequence[Variant]) -> None:
    """Train the variants of a group, and write scaling.json, after each of them, and scaling.md."""
    setting, file = Setting(iterations), out / "scaling.json"
    measured = Measured(setting, seeds)
    scheme = Sampler("untrained", "untrained", STEPS, scheme=PathAverage(), referenced=True, grid=setting.space.grid)
    former, distances = measured.of(scheme)
    rows: list[dict[str, Any]] = [_row("untrained", former, distances, None)]
    steps = {"untrained": by_step(setting, setting.student(Variant()), seeds)}
    base = None
    groups = json.loads(file.read_text()) if file.exists() else {}
    for variant in variants:
        student = trained(setting, variant)
        errors, distances = measured.of(generator_sampler(variant.name, student, STEPS))
        base = errors if base is None else base
        rows.append(_row(variant.name, errors, distances, None if errors is base else base))
        steps[variant.name] = by_step(setting, student, seeds)
        print(rows[-1], flush=True)
        groups[name] = {"seeds": seeds, "iterations": iterations, "rows": rows, "steps": steps}
        write_json(file, groups)
    with replacing(out / "scaling.md") as written:
        written.write_text(text(groups))


def _row(
    name: str, errors: dict[int, Tensor], distances: dict[int, float], base: dict[int, Tensor] | None
) -> dict[str, Any]:
    row: dict[str, Any] = {"variant": name}
    for steps, values in errors.items():
        row[f"rmse_{steps}"] = root_mean_square(values)[0]
        if base is not None:
            row[f"ratio_{steps}"] = paired_ratio(values, base[steps])
    return row | {f"frechet_{steps}": distances[steps] for steps in STEPS[:3]}


def text(groups: dict[str, Any]) -> str:
    """scaling.md, from the content of scaling.json."""
    written = "# What stops the students\n\nWritten by `python -m experiments.digits.scaling`, which says what the "
    written += "variants are.\n"
    return written + "".join(_text(name, **groups[name]) for name in GROUPS if name in groups)


def _text(name: str, rows: Sequence[dict[str, Any]], steps: dict[str, Any], iterations: int, seeds: int) -> str:
    shown = []
    for row in rows:
        line = {"variant": row["variant"]}
        for n in STEPS:
            line[f"rmse_{n}"] = f"{row[f'rmse_{n}']:.4f}"
            if f"ratio_{n}" in row:
                _, low, high = row[f"ratio_{n}"]
                line[f"rmse_{n}"] += "" if math.isnan(low) else f" ({low:.3f} - {high:.3f})"
        shown.append(line | {f"frechet_{n}": f"{row[f'frechet_{n}']:.3f}" for n in STEPS[:3]})
    titles = {"variant": "pairs, loss, depth", **{f"rmse_{n}": f"RMSE, {n} steps" for n in STEPS}}
    titles |= {f"frechet_{n}": f"FD, {n}" for n in STEPS[:3]}
    lines = [
        {"variant": variant, "what": what, **{str(k): f"{value:.4f}" for k, value in enumerate(of_steps[what], 1)}}
        for variant, of_steps in steps.items()
        for what in ("after the step", "at the end", "worst 5 % of paths")
    ]
    numbers = {str(k): str(k) for k in range(1, BY_STEP + 1)}
    return (
        f"\n## {name.capitalize()}\n\nTrainings of {iterations} iterations, seeds 10^6 to 10^6 + {seeds - 1}; in "
        "brackets the 95 % interval of the paired ratio to the first student of the table. FD: Frechet distance to "
        f"converged paths of {seeds} other seeds.\n\n{markdown_table(shown, titles)}\nRMSE of each single step of "
        f"{BY_STEP}, started on a path of the teacher; what the teacher makes of this error at the end; and the share "
        "of that mean square which the worst 5 % of the paths carry:\n\n"
        f"{markdown_table(lines, {'variant': 'variant', 'what': 'error', **numbers})}"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """See the module."""
    parser = argparse.ArgumentParser(prog="python -m experiments.digits.scaling", description=__doc__)
    parser.add_argument("--group", choices=tuple(GROUPS), help="default all")
    parser.add_argument("--iterations", type=int, default=TRAINING.iterations)
    parser.add_argument("--seeds", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    for name in GROUPS if options.group is None else [options.group]:
        scaling(name, options.iterations, options.seeds, options.out, GROUPS[name])


if __name__ == "__main__":
    main()

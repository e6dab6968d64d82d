"""`sdesig distill`."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Literal

import tyro

from sdesig import _processes as processes
from sdesig._checks import check_integer
from sdesig._files import check_output, naming_a_full_disk
from sdesig._interrupts import Interrupted
from sdesig._random import seeded
from sdesig.brownian.path import MOST_DEPTH
from sdesig.commands.inputs import load_teacher
from sdesig.commands.options import (
    GRID_CELLS,
    MOST_SAMPLES,
    CutPathFlags,
    DistillFlags,
    MachineFlags,
    SettingFlags,
    announce,
    naming_memory,
)
from sdesig.commands.presets import Given, Preset, with_preset
from sdesig.evaluation import VERDICT_STEPS, affordable, verdict
from sdesig.evaluation.verdict import FIRST_SEED
from sdesig.images.peers import peers
from sdesig.sampling import SNRDenoiser
from sdesig.sigdeg import DistillOptions, SigDEG, distill
from sdesig.sigdeg.cost import network_evaluations, time_distillation
from sdesig.sigdeg.training import CHECKPOINT
from sdesig.sigdeg.training_data import Data


@dataclass(frozen=True)
class Distill:
    """Distil a denoiser into a Sig-DEG generator, with data or, by rollouts, without. A stopped run goes on."""

    FOR_IMAGES: ClassVar[Mapping[str, Any]] = {"evaluations": 256, "learning_rate": 2e-4, "teacher_steps": 128}
    PRESET: ClassVar[frozenset[str]] = frozenset(Preset._fields)
    preset: Literal["quick", "study", "full"] | None = None
    """Size of the run, by the size of the network: quick, study or full set iterations, evaluations, steps and
    teacher_steps, unless these are given, and say how long it will take."""
    setting: SettingFlags = field(default_factory=SettingFlags)
    depth: int = 2
    """Legendre coefficients of the path that a generator sees on each step."""
    cell: Literal["solver", "plain"] = "solver"
    """Form of a step: solver, a scheme whose denoiser learns, or plain, a network from state to state as in the
    paper."""
    rank: int | None = None
    """Rank of the changes of the teacher's weights (LoRA), for large teachers; default all weights are trained."""
    out: Path = Path("runs/distill")
    """Folder of the run; the generator goes to its subfolder student."""
    teacher_cache: Path | None = None
    """Folder of the teacher's paths, reference and grid, as sdesig cache writes it with the same options, which runs
    may share; default OUT, with the paths in OUT/paths."""
    teacher_paths: CutPathFlags = field(default_factory=CutPathFlags)
    distillation: DistillFlags = field(default_factory=DistillFlags)
    verdict_seeds: int | None = None
    """Seeds on which the student is compared at the end; default as many as 2 % of the training's evaluations allow, or
    60000 evaluations if that is more; 0: no verdict."""
    given: tyro.conf.Suppress[tyro.conf.Fixed[Given]] = field(default_factory=Given)
    machine: MachineFlags = field(default_factory=MachineFlags)

    def run(self) -> None:
        """Run the command."""
        check_output("out", self.out, folder=True)
        if self.teacher_cache is not None:
            check_output("teacher_cache", self.teacher_cache, folder=True)
        device, flags = self.machine.use(), self.distillation
        check_integer("depth", self.depth, 1, MOST_DEPTH)
        if self.rank is not None:
            check_integer("rank", self.rank, 1)
        if not self.setting.has_data():
            if flags.pairs == "both":
                raise ValueError("data must be given for pairs 'both'")
            flags = replace(flags, pairs="rollout")
        if self.verdict_seeds:
            check_integer("verdict_seeds", self.verdict_seeds, 2, MOST_SAMPLES)
        teacher_paths, loaded = self.teacher_paths, None
        if self.preset is not None:
            with processes.main_first():
                loaded = load_teacher(self.setting.teacher, device, self.setting.label)
            numbers = sum(parameter.numel() for parameter in loaded.denoiser.parameters())
            flags, teacher_paths = with_preset(self.preset, numbers, self.given.names, flags, teacher_paths)
        options = flags.options(teacher_paths.cut_options(flags.steps[1]))
        folder = self.teacher_cache or self.out
        with naming_memory(evaluations=options.evaluations, depth=self.depth, recompute=options.recompute):
            kept = self.out if (self.out / GRID_CELLS).exists() else folder  # where earlier versions had it
            made = self.setting.load(device, kept, depth=self.depth, teacher=loaded)
            teacher, recorded = made.teacher.denoiser, made.recorded
            if self.rank is not None:
                recorded = {**recorded, "rank": self.rank}
            with seeded(options.training.seed):
                student = SigDEG.from_teacher(teacher, made.space, depth=self.depth, cell=self.cell, rank=self.rank)
            student.to(device)
            shown = {"depth": self.depth, "cell": self.cell, "distillation": options.described()}
            places = {"out": self.out, "teacher_cache": self.teacher_cache, **self.machine.described(device)}
            announce("distill", {**recorded, **shown, **places})
            if self.preset is not None and not (self.out / CHECKPOINT).exists():
                print(_estimate(student, teacher, options, made.data), flush=True)
            with naming_a_full_disk(folder):
                trained = distill(
                    student,
                    teacher,
                    self.out,
                    options,
                    data=made.data,
                    cache=self.teacher_cache,
                    recorded=recorded,
                    cache_recorded=made.of_paths,
                )
            print(f"-> {self.out / 'student'}", flush=True)
            if self.verdict_seeds != 0:
                with naming_a_full_disk(self.out):
                    self._judge(trained, teacher, options, recorded)

    def _judge(
        self, student: SigDEG, teacher: SNRDenoiser, options: DistillOptions, recorded: Mapping[str, Any]
    ) -> None:
        """Write and print the verdict; what was drawn of one that was stopped is in the folder."""
        steps = [n for n in VERDICT_STEPS if options.steps[0] <= n <= options.steps[1]] or [
            *dict.fromkeys(options.steps)
        ]
        others, left_out = [], []
        if find_spec("diffusers"):
            others.append(peers(teacher, student.space, steps)["unipc"])
        else:
            left_out.append("UniPC, as diffusers is not installed")
        n = self.verdict_seeds
        try:
            found = verdict(
                student,
                teacher,
                steps=steps,
                seeds=None if n is None else range(FIRST_SEED, FIRST_SEED + n),
                samplers=others,
                evaluations=affordable(network_evaluations(options)),
                folder=self.out / "verdict",
                left_out=left_out,
                recorded={"teacher": recorded["teacher"]},
                started=lambda seeds, cost: print(
                    f"verdict: {seeds} seeds, {cost} evaluations of the network", flush=True
                ),
            )
        except KeyboardInterrupt as error:
            kept = f"the student is kept in {self.out / 'student'}: the same command goes on with its verdict"
            raise Interrupted(kept, getattr(error, "number", signal.SIGINT)) from None
        file = self.out / "verdict.json"
        processes.on_main(lambda: found.save(file))
        print(f"\n{found.text}\n-> {file}")


def _estimate(student: SigDEG, teacher: SNRDenoiser, options: DistillOptions, data: Data | None) -> str:
    """How long a distillation will take here, and what it took to find out."""
    found = time_distillation(student, teacher, options, data)
    training = found.iteration * options.training.iterations
    cost = network_evaluations(options)
    # a verdict's evaluations are forward alone, as the teacher's are, which are the most of a training's
    words = [f"about {_duration(training)} of training ({found.iteration:.3g} s an iteration)"]
    words += [f"{_duration(found.paths)} before it for the teacher's paths"] if found.paths else []
    judged = (training + found.paths) * affordable(cost) / cost
    words += [f"about {_duration(judged)} of the network's after it for the verdict"]
    return f"here that takes {', '.join(words)}; finding this out took {found.measuring:.1f} s"


def _duration(seconds: float) -> str:
    """In seconds, minutes, hours or days."""
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.3g} {unit}"
    return f"{seconds:.0f} seconds"

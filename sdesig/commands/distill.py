"""`sdesig distill`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from sdesig._checks import check_integer
from sdesig._files import check_output, naming_a_full_disk
from sdesig._random import seeded
from sdesig.brownian.path import MOST_DEPTH
from sdesig.commands.options import (
    GRID_CELLS,
    CutPathFlags,
    DistillFlags,
    MachineFlags,
    SettingFlags,
    announce,
    naming_memory,
)
from sdesig.sigdeg import SigDEG, distill


@dataclass(frozen=True)
class Distill:
    """Distil a denoiser into a Sig-DEG generator, with data or, by rollouts, without. A stopped run goes on."""

    FOR_IMAGES: ClassVar[Mapping[str, Any]] = {"evaluations": 256, "learning_rate": 2e-4, "teacher_steps": 128}
    setting: SettingFlags = field(default_factory=SettingFlags)
    depth: int = 4
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
        options = flags.options(self.teacher_paths.cut_options(flags.steps[1]))
        folder = self.teacher_cache or self.out
        with naming_memory(evaluations=options.evaluations, depth=self.depth, recompute=options.recompute):
            kept = self.out if (self.out / GRID_CELLS).exists() else folder  # where earlier versions had it
            made = self.setting.load(device, kept, depth=self.depth)
            teacher, recorded = made.teacher.denoiser, made.recorded
            if self.rank is not None:
                recorded = {**recorded, "rank": self.rank}
            with seeded(options.training.seed):
                student = SigDEG.from_teacher(teacher, made.space, depth=self.depth, cell=self.cell, rank=self.rank)
            shown = {"depth": self.depth, "cell": self.cell, "distillation": options.described()}
            places = {"out": self.out, "teacher_cache": self.teacher_cache, **self.machine.described(device)}
            announce("distill", {**recorded, **shown, **places})
            with naming_a_full_disk(folder):
                distill(
                    student.to(device),
                    teacher,
                    self.out,
                    options,
                    data=made.data,
                    cache=self.teacher_cache,
                    recorded=recorded,
                    cache_recorded=made.of_paths,
                )
        print(f"-> {self.out / 'student'}")

"""`sdesig images distill`."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import tyro

from sdesig._caching import naming_a_full_disk
from sdesig._files import check_output
from sdesig.commands.images.flags import ImageFlags, SettingFlags, TeacherFlags
from sdesig.commands.images.students import prepare
from sdesig.commands.options import (
    CutPathFlags,
    DistillFlags,
    MachineFlags,
    TrainingFlags,
    announce,
    checked,
    naming_memory,
)
from sdesig.sigdeg import DistillOptions, TrainingOptions, distill


def _flags() -> DistillFlags:
    return DistillFlags(evaluations=256, training=TrainingFlags(learning_rate=2e-4))


@dataclass(frozen=True)
class DistillImages:
    """Distil an image model into a Sig-DEG generator, with images or, by rollouts, without. A stopped run goes on."""

    teacher: tyro.conf.OmitArgPrefixes[TeacherFlags]
    images: tyro.conf.OmitArgPrefixes[ImageFlags] = field(default_factory=ImageFlags)
    setting: tyro.conf.OmitArgPrefixes[SettingFlags] = field(default_factory=SettingFlags)
    depth: int = 4
    """Legendre coefficients of the path that the generator sees on each step."""
    cell: Literal["solver", "plain"] = "solver"
    """solver: a scheme whose denoiser learns. plain: a network from state to state, the form of the paper."""
    rank: int | None = None
    """Of the changes of the teacher's weights (LoRA), for large teachers; default: all weights are trained."""
    out: Path = Path("runs/image-distill")
    """Folder of the run; the generator goes to its subfolder student."""
    teacher_cache: Path | None = None
    """Folder of the teacher's paths, reference and grid, as sdesig images cache writes it with the same options;
    default OUT."""
    teacher_paths: tyro.conf.OmitArgPrefixes[CutPathFlags] = field(
        default_factory=lambda: CutPathFlags(teacher_steps=128)
    )
    distillation: tyro.conf.OmitArgPrefixes[DistillFlags] = field(default_factory=_flags)
    machine: tyro.conf.OmitArgPrefixes[MachineFlags] = field(default_factory=MachineFlags)
    config: Path | None = None
    """JSON file with options by these names; flags override it."""

    def run(self) -> None:
        """Run the command."""
        check_output("out", self.out, folder=True)
        if self.teacher_cache is not None:
            check_output("teacher_cache", self.teacher_cache, folder=True)
        device = self.machine.use()
        flags = self.distillation
        if self.images.data is None:
            if flags.pairs == "both":
                raise ValueError("data must be given for pairs 'both'")
            flags = replace(flags, pairs="rollout")
        training = checked(TrainingOptions, flags.training)
        paths = self.teacher_paths.cut_options(flags.steps[1])
        options = checked(DistillOptions, flags, teacher_options=paths, training=training)
        with naming_memory(evaluations=options.evaluations, depth=self.depth, recompute=options.recompute):
            made = prepare(
                self.teacher,
                self.images,
                self.setting,
                self.teacher_cache or self.out,
                device,
                depth=self.depth,
                cell=self.cell,
                rank=self.rank,
                seed=training.seed,
            )
            announce(
                "images distill",
                {
                    **made.recorded,
                    "depth": self.depth,
                    "cell": self.cell,
                    "distillation": options.described(),
                    "out": self.out,
                    "teacher_cache": self.teacher_cache,
                    "device": device,
                    "threads": self.machine.threads,
                },
            )
            with naming_a_full_disk(self.teacher_cache or self.out):
                distill(
                    made.student,
                    made.teacher,
                    self.out,
                    options,
                    data=made.data,
                    cache=self.teacher_cache,
                    recorded=made.recorded,
                    cache_recorded={"teacher": made.recorded["teacher"]},
                )
        print(f"-> {self.out / 'student'}")

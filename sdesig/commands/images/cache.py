"""`sdesig images cache`."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path

import tyro

from sdesig._caching import naming_a_full_disk
from sdesig._checks import check_integer
from sdesig._files import check_output
from sdesig.commands.images.flags import ImageFlags, SettingFlags, TeacherFlags
from sdesig.commands.images.students import prepare
from sdesig.commands.options import CutPathFlags, MachineFlags, announce, naming_memory
from sdesig.sigdeg.path_cache import PathCache


@dataclass(frozen=True)
class CachePaths:
    """Draw a teacher's paths to disk, for later distillations by rollouts. A run that was stopped goes on."""

    teacher: tyro.conf.OmitArgPrefixes[TeacherFlags]
    images: tyro.conf.OmitArgPrefixes[ImageFlags] = field(default_factory=ImageFlags)
    setting: tyro.conf.OmitArgPrefixes[SettingFlags] = field(default_factory=SettingFlags)
    paths: int = 8192
    """Number of paths."""
    depth: int = 4
    """Of the partial signatures, for generators of this depth or less; at least 4."""
    most_steps: int = 32
    """Most coarse steps of the generators."""
    seed: int = 0
    """Of everything random; that of the distillations."""
    out: Path = Path("runs/image-paths")
    """Folder of the paths: the --teacher-cache of distill."""
    teacher_paths: tyro.conf.OmitArgPrefixes[CutPathFlags] = field(
        default_factory=lambda: CutPathFlags(teacher_steps=128)
    )
    machine: tyro.conf.OmitArgPrefixes[MachineFlags] = field(default_factory=MachineFlags)
    config: Path | None = None
    """JSON file with options by these names; flags override it."""

    def run(self) -> None:
        """Run the command."""
        check_output("out", self.out, folder=True)
        device = self.machine.use()
        check_integer("paths", self.paths, 1)
        check_integer("seed", self.seed, 0)
        options = self.teacher_paths.cut_options(check_integer("most_steps", self.most_steps, 1))
        with naming_memory(depth=self.depth, teacher_steps=options.steps):
            made = prepare(self.teacher, self.images, self.setting, self.out, device, depth=self.depth, seed=self.seed)
            announce(
                "images cache",
                {
                    **made.recorded,
                    "depth": self.depth,
                    "paths": self.paths,
                    "teacher_paths": asdict(options),
                    "seed": self.seed,
                    "out": self.out,
                    "device": device,
                    "threads": self.machine.threads,
                },
            )
            with naming_a_full_disk(self.out):
                PathCache(
                    self.out,
                    made.teacher,
                    made.student.space,
                    options,
                    paths=self.paths,
                    seed=self.seed,
                    recorded={"teacher": made.recorded["teacher"]},
                )
        print(f"-> {self.out}")

"""`sdesig cache`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from sdesig._checks import check_integer
from sdesig._files import check_output, naming_a_full_disk
from sdesig.brownian.path import MOST_DEPTH
from sdesig.commands.options import CutPathFlags, MachineFlags, SettingFlags, announce, naming_memory
from sdesig.sigdeg.path_cache import PathCache


@dataclass(frozen=True)
class Cache:
    """Draw a teacher's paths to disk, for later distillations by rollouts. A stopped run goes on."""

    FOR_IMAGES: ClassVar[Mapping[str, Any]] = {"teacher_steps": 128}
    setting: SettingFlags = field(default_factory=SettingFlags)
    paths: int = 8192
    """Number of the teacher's paths on disk."""
    depth: int = 4
    """Legendre coefficients of the path that a generator sees on each step; paths of at least 4 serve those of less."""
    steps: tuple[int, int] = (4, 32)
    """Fewest and most coarse steps of the generators."""
    seed: int = 0
    """Seed of everything random, that of the distillations."""
    out: Path = Path("runs/paths")
    """Folder of the paths: the --teacher-cache of distill."""
    teacher_paths: CutPathFlags = field(default_factory=CutPathFlags)
    machine: MachineFlags = field(default_factory=MachineFlags)

    def run(self) -> None:
        """Run the command."""
        check_output("out", self.out, folder=True)
        device = self.machine.use()
        check_integer("paths", self.paths, 1)
        check_integer("depth", self.depth, 1, MOST_DEPTH)
        check_integer("seed", self.seed, 0)
        check_integer("steps[0]", self.steps[0], 1)
        options = self.teacher_paths.cut_options(check_integer("steps[1]", self.steps[1], self.steps[0]))
        with naming_memory(depth=self.depth, teacher_steps=options.steps):
            made = self.setting.load(device, self.out, depth=self.depth)
            shown = {"depth": self.depth, "paths": self.paths, "teacher_paths": asdict(options), "seed": self.seed}
            announce("cache", {**made.recorded, **shown, "out": self.out, **self.machine.described(device)})
            with naming_a_full_disk(self.out):
                PathCache(
                    self.out,
                    made.teacher.denoiser,
                    made.space,
                    options,
                    paths=self.paths,
                    seed=self.seed,
                    recorded=made.of_paths,
                )
        print(f"-> {self.out}")

"""`sdesig floor`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from sdesig._checks import check_integer
from sdesig._files import check_output, write_json
from sdesig.brownian.path import MOST_DEPTH
from sdesig.commands.options import MachineFlags, SettingFlags, TeacherPathFlags, announce
from sdesig.sampling import TeacherOptions, information_floor


@dataclass(frozen=True)
class Floor:
    """The least pathwise error of any method that sees partial signatures on coarse steps: the information floor."""

    setting: SettingFlags = field(default_factory=lambda: SettingFlags(grid="even"))
    steps: int = 8
    """Number of coarse steps."""
    depth: tuple[int, ...] = (1, 2, 4)
    """Legendre coefficients of the path that a generator sees on each step."""
    floor_groups: int = 10_000
    """Pairs of paths for the information floor of each depth; errors are heavy-tailed: take many."""
    teacher_paths: TeacherPathFlags = field(default_factory=TeacherPathFlags)
    out: Path | None = None
    """JSON file to write, with the options and the floors."""
    machine: MachineFlags = field(default_factory=MachineFlags)

    def run(self) -> None:
        """Run the command."""
        if self.out is not None and self.out.exists():
            raise FileExistsError(f"{self.out} exists already; give another --out")
        if self.out is not None:
            check_output("out", self.out)
        check_integer("steps", self.steps, 1)
        check_integer("floor_groups", self.floor_groups, 2)
        if not self.depth:
            raise ValueError("depth must be one number or more; got none")
        for depth in self.depth:
            check_integer("depth", depth, 1, MOST_DEPTH)
        paths = TeacherOptions(self.teacher_paths.teacher_scheme, self.teacher_paths.teacher_steps, cells=1)
        made = self.setting.load(self.machine.use())
        options = {**made.recorded, "teacher_scheme": paths.scheme, "teacher_steps": paths.steps}
        announce("floor", {**options, "steps": self.steps, "depth": self.depth, "floor_groups": self.floor_groups})
        floors = []
        print("depth  steps  floor (RMSE per coordinate)  median", flush=True)
        for depth in self.depth:
            floor = information_floor(
                made.teacher.denoiser,
                made.space,
                steps=self.steps,
                depth=depth,
                groups=self.floor_groups,
                teacher_options=paths,
            )
            floors.append(vars(floor))
            value = f"{floor.rmse:.5f} +- {floor.standard_error:.5f}"
            print(f"{depth:5}  {self.steps:5}  {value:27}  {floor.median:.5f}", flush=True)
        if self.out is not None:
            write_json(self.out, {"options": options, "floors": floors})
            print(f"-> {self.out}")

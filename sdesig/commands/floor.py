"""`sdesig floor`."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import tyro

from sdesig._checks import check_integer
from sdesig._files import check_output, write_json
from sdesig.brownian.path import MOST_DEPTH
from sdesig.commands.inputs import fitted_reference, load_problem, snr_range, step_grid
from sdesig.commands.options import Reference, TeacherPathFlags, announce
from sdesig.sampling import PathSpace, information_floor


@dataclass(frozen=True)
class Floor:
    """The least pathwise error of any method that sees partial signatures on coarse steps: the information floor."""

    teacher: str = "digits"
    """digits, or a folder with a denoiser, such as runs/teacher/teacher."""
    data: str = "digits"
    """Of which the Gaussian reference is: digits, or a .npz file as for train-teacher."""
    reference: Reference = "pca"
    """Gaussian reference, in whose clock the signatures are, as for distill."""
    snr: tuple[float, float] | None = None
    """First and last signal-to-noise ratio; default as for distill."""
    steps: int = 8
    """Coarse steps."""
    grid: str = "even"
    """Where they lie: even in log-SNR, chosen, or a JSON file, as for distill."""
    depth: tuple[int, ...] = (1, 2, 4)
    """Depths of the partial signatures."""
    groups: int = 10_000
    """Pairs of paths for each depth; errors are heavy-tailed: take many."""
    teacher_paths: tyro.conf.OmitArgPrefixes[TeacherPathFlags] = field(default_factory=TeacherPathFlags)
    out: Path | None = None
    """JSON file to write, with the options and the floors."""

    def run(self) -> None:
        """Run the command."""
        if self.out is not None and self.out.exists():
            raise FileExistsError(f"{self.out} exists already; give another --out")
        if self.out is not None:
            check_output("out", self.out)
        check_integer("steps", self.steps, 1)
        check_integer("groups", self.groups, 2)
        if not self.depth:
            raise ValueError("depth must be one number or more; got none")
        for depth in self.depth:
            check_integer("depth", depth, 1, MOST_DEPTH)
        teacher, data, identity = load_problem(self.teacher, self.data)
        snr, paths = snr_range(self.snr, self.teacher), self.teacher_paths.teacher_options()
        space = PathSpace(teacher.event, snr, fitted_reference(self.reference, data, self.data))
        space = replace(space, grid=step_grid(self, teacher, space, identity["teacher"]))
        options = {
            **identity,
            "reference": self.reference,
            "snr": snr,
            "grid": space.grid.quantiles,
            "teacher_scheme": paths.scheme,
            "teacher_steps": paths.steps,
        }
        announce("floor", {**options, "steps": self.steps, "depth": self.depth, "groups": self.groups})
        floors = []
        print("depth  steps  floor (RMSE per coordinate)  median", flush=True)
        for depth in self.depth:
            floor = information_floor(
                teacher,
                space,
                steps=self.steps,
                depth=depth,
                groups=self.groups,
                teacher_options=paths,
            )
            floors.append(vars(floor))
            value = f"{floor.rmse:.5f} +- {floor.standard_error:.5f}"
            print(f"{depth:5}  {self.steps:5}  {value:27}  {floor.median:.5f}", flush=True)
        if self.out is not None:
            write_json(self.out, {"options": options, "floors": floors})
            print(f"-> {self.out}")

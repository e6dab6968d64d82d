"""`sdesig distill`."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import tyro

from sdesig._checks import check_integer
from sdesig._files import check_output
from sdesig._random import seeded
from sdesig.brownian.path import MOST_DEPTH
from sdesig.commands.inputs import GRID_CELLS, fitted_reference, load_problem, snr_range, step_grid
from sdesig.commands.options import (
    CutPathFlags,
    DistillFlags,
    MachineFlags,
    Reference,
    announce,
    checked,
    naming_memory,
)
from sdesig.sampling import PathSpace
from sdesig.sigdeg import DistillOptions, SigDEG, TrainingOptions, distill


@dataclass(frozen=True)
class Distill:
    """Distil a pre-trained denoiser into a Sig-DEG generator. A run that was stopped goes on."""

    teacher: str = "digits"
    """digits, or a folder with a denoiser, such as runs/teacher/teacher."""
    data: str = "digits"
    """Of which the Gaussian reference and local pairs are: digits, or a .npz file as for train-teacher."""
    reference: Reference = "pca"
    """Gaussian reference of the data: per principal component (vectors only), one variance, per coordinate, or none."""
    depth: int = 4
    """Legendre coefficients of the path that the generator sees on each step."""
    cell: Literal["solver", "plain"] = "solver"
    """solver: a scheme whose denoiser learns. plain: a network from state to state, the form of the paper."""
    snr: tuple[float, float] | None = None
    """First and last signal-to-noise ratio; default 1/400 and 400 for the digits' teacher, else 1/6400 and 400."""
    grid: str = "chosen"
    """Where the steps lie. chosen: by the error of the path-average scheme, measured first (shipped for the digits).
    even: in log-SNR. Or a JSON file that `StepGrid.save` wrote."""
    out: Path = Path("runs/distill")
    """Folder of the run; the generator goes to its subfolder student."""
    cache: Path | None = None
    """Folder of the teacher's paths, which runs may share; default OUT/paths."""
    teacher_paths: tyro.conf.OmitArgPrefixes[CutPathFlags] = field(default_factory=CutPathFlags)
    distillation: tyro.conf.OmitArgPrefixes[DistillFlags] = field(default_factory=DistillFlags)
    machine: tyro.conf.OmitArgPrefixes[MachineFlags] = field(default_factory=MachineFlags)
    config: Path | None = None
    """JSON file with options by these names; flags override it."""

    def run(self) -> None:
        """Run the command."""
        check_output("out", self.out, folder=True)
        if self.cache is not None:
            check_output("cache", self.cache, folder=True)
        device = self.machine.use()
        check_integer("depth", self.depth, 1, MOST_DEPTH)
        training = checked(TrainingOptions, self.distillation.training)
        paths = self.teacher_paths.cut_options(self.distillation.steps[1])
        options = checked(DistillOptions, self.distillation, teacher_options=paths, training=training)
        teacher, data, identity = load_problem(self.teacher, self.data, device)
        gaussian, snr = fitted_reference(self.reference, data, self.data), snr_range(self.snr, self.teacher)
        space = PathSpace(teacher.event, snr, gaussian.to(device))
        space = replace(space, grid=step_grid(self, teacher, space, identity["teacher"], self.out / GRID_CELLS))
        with seeded(training.seed):
            student = SigDEG.from_teacher(
                teacher,
                space,
                depth=self.depth,
                cell=self.cell,
            )
        recorded = {
            **identity,
            "reference": self.reference,
            "snr": space.snr,
            "grid": space.grid.quantiles,
        }
        announce(
            "distill",
            {
                **recorded,
                "depth": self.depth,
                "cell": self.cell,
                "distillation": options.described(),
                "out": self.out,
                "cache": self.cache,
                "device": device,
                "threads": self.machine.threads,
            },
        )
        samples = data.to(device)
        with naming_memory(evaluations=options.evaluations, depth=self.depth, recompute=options.recompute):
            distill(student.to(device), teacher, self.out, options, data=samples, cache=self.cache, recorded=recorded)
        print(f"-> {self.out / 'student'}")

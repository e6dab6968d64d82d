"""`sdesig evaluate`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor
from tqdm import tqdm

from sdesig._checks import check_integer
from sdesig._files import record_options, replacing, write_json
from sdesig.commands.inputs import fitted_reference, load_models, load_problem, snr_range
from sdesig.commands.options import Reference, announce
from sdesig.distillation import Floor, information_floor
from sdesig.distillation.evaluation import Comparison, Outcome, baselines, generator_sampler
from sdesig.distillation.report import Row, markdown_table, report_rows
from sdesig.generator import NetworkDenoiser, SigDEG, StepGrid
from sdesig.sde import CanonicalSDE

COLUMNS = {
    "method": "method",
    "steps": "steps",
    "pathwise_rmse": "pathwise RMSE",
    "floor": "floor",
    "frechet_distance": "Frechet distance",
    "seconds_per_1000": "seconds per 1000",
}


@dataclass(frozen=True)
class Evaluate:
    """Samplers of one teacher on the same seeds and paths: pathwise errors, Frechet distances and times, as a table."""

    teacher: str = "digits"
    """digits, or a folder with a denoiser, such as runs/teacher/teacher."""
    data: str = "digits"
    """To which Frechet distances of the raw samples are measured: digits, or a .npz file as for train-teacher."""
    models: tuple[Path, ...] = ()
    """Folders with generators of this teacher, such as runs/distill/student, all on the same paths."""
    reference: Reference | None = None
    """Gaussian reference of the paths where no generator sets it; default pca."""
    snr: tuple[float, float] | None = None
    """First and last signal-to-noise ratio where no generator sets it; default as for distill."""
    steps: tuple[int, ...] = (4, 8, 16, 32)
    """Numbers of steps."""
    n: int = 2000
    """Number of samples."""
    first_seed: int = 0
    """The seeds are this one and the next ones."""
    baselines: bool = True
    """Also evaluate the training-free samplers."""
    floor_groups: int = 0
    """Pairs of paths for the information floor of every generator; 0: no floors."""
    out: Path = Path("runs/evaluate")
    """Folder for report.json, report.md and options.json."""
    config: Path | None = None
    """JSON file with options by these names; flags override it."""

    def run(self) -> None:
        """Run the command."""
        check_integer("n", self.n, 2)
        check_integer("first_seed", self.first_seed, 0)
        check_integer("floor_groups", self.floor_groups, 0)
        if not (self.models or self.baselines):
            raise ValueError("models must name a generator with --no-baselines")
        teacher, data, identity = load_problem(self.teacher, self.data)
        models, models_identity = load_models(self.models, teacher.event)
        comparison = self._comparison(teacher, data, models)
        options = {
            **identity,
            "models": models_identity,
            "reference": None if models else self._reference,
            "snr": comparison.snr,
            "steps": self.steps,
            "n": self.n,
            "first_seed": self.first_seed,
            "baselines": self.baselines,
            "floor_groups": self.floor_groups,
        }
        announce("evaluate", {**options, "out": self.out})
        record_options(self.out / "options.json", options)
        chosen = models[0].grid if models and models[0].grid != StepGrid() else None
        samplers = baselines(chosen) if self.baselines else []
        samplers += [generator_sampler(str(name), model) for name, model in zip(self.models, models, strict=True)]
        seeds = range(self.first_seed, self.first_seed + self.n)
        with tqdm(total=self.n, unit="seed") as bar:

            def show(done: int) -> None:
                bar.update(done - bar.n)

            _, outcomes = comparison.run([(sampler, self.steps) for sampler in samplers], seeds, show)
        rows = _rows(outcomes, self._floors(comparison, models), data)
        write_json(self.out / "report.json", rows)
        table = markdown_table(rows, COLUMNS)
        with replacing(self.out / "report.md") as file:
            file.write_text(f"{self.n} seeds from {self.first_seed} on, all methods on the same paths.\n\n{table}")
        print(f"{table}-> {self.out / 'report.json'}")

    @property
    def _reference(self) -> Reference:
        return self.reference or "pca"

    def _comparison(self, teacher: NetworkDenoiser, data: Tensor, models: Sequence[SigDEG]) -> Comparison:
        """On the paths of the generators, or where there are none on those of the flags."""
        if not models:
            gaussian = fitted_reference(self._reference, data, self.data)
            return Comparison(teacher, gaussian, teacher.event, snr_range(self.snr, self.teacher))
        for name, value in (("reference", self.reference), ("snr", self.snr)):
            if value is not None:
                raise ValueError(f"{name} must not be given with models, which set it; got {value}")
        one = models[0]
        truth_steps = min(Comparison.truth_steps, 2**one.levels)
        return Comparison(
            teacher, one.reference, one.event, one.snr, one.levels, depth=one.path_depth, truth_steps=truth_steps
        )

    def _floors(self, comparison: Comparison, models: Sequence[SigDEG]) -> list[Floor]:
        """One for every depth of a generator and every number of steps."""
        if not self.floor_groups:
            return []
        sde = CanonicalSDE(comparison.teacher, reference=comparison.reference)
        return [
            information_floor(
                sde,
                event=comparison.event,
                snr=comparison.snr,
                steps=steps,
                depth=depth,
                groups=self.floor_groups,
                grid=models[0].grid,
            )
            for depth in sorted({model.depth for model in models})
            for steps in self.steps
        ]


def _rows(outcomes: Sequence[Outcome], floors: Sequence[Floor], data: Tensor) -> list[Row]:
    """Rows of the report; no Frechet distance where there are too few samples for a covariance."""
    enough = min(len(data), len(outcomes[0].samples)) > data[0].numel()
    features = {"pixels": lambda samples: samples.flatten(1)} if enough else None
    rows = report_rows(outcomes, floors=floors, features=features, real=data)
    return [{"frechet_distance": None, **row} for row in rows]

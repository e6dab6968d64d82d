"""`sdesig evaluate`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from torch import Tensor

from sdesig._files import check_output, replacing, write_json
from sdesig._records import forget_options, record_options
from sdesig.commands.inputs import fitted_reference, load_models, load_problem, snr_range
from sdesig.commands.options import COUNT, Reference, announce, check_sizes
from sdesig.evaluation import (
    CONVERGED,
    FRECHET,
    INTERVALS,
    Comparison,
    evaluate,
    generator_sampler,
    markdown_table,
    training_free,
)
from sdesig.sampling import PathSpace
from sdesig.sigdeg import SigDEG
from sdesig.sigdeg.network_denoiser import ModelDenoiser

COLUMNS = {
    "method": "method",
    "steps": "steps",
    "pathwise_rmse": "pathwise RMSE",
    "seeds_apart": "seeds apart",
    "floor": "floor",
    "frechet_distance": "Frechet distance",
    "seconds_per_1000": "seconds per 1000",
}
SAID = f"{INTERVALS} {FRECHET}"


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
    n: Annotated[int, COUNT] = 2000
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
        check_output("out", self.out, folder=True)
        check_sizes(self.steps, self.n, self.first_seed, self.floor_groups)
        if not (self.models or self.baselines):
            raise ValueError("models must name a generator with --no-baselines")
        teacher, data, identity = load_problem(self.teacher, self.data)
        models, models_identity = load_models(self.models, teacher.event)
        comparison = self._comparison(teacher, data, models)
        samplers = list(training_free(comparison.space, self.steps).values()) if self.baselines else []
        for folder, model in zip(self.models, models, strict=True):
            samplers.append(generator_sampler(str(folder), model, self.steps))
        comparison.check(samplers)
        options = {
            **identity,
            "models": models_identity,
            "reference": None if models else self._reference,
            "snr": comparison.space.snr,
            "steps": self.steps,
            "n": self.n,
            "first_seed": self.first_seed,
            "baselines": self.baselines,
            "floor_groups": self.floor_groups,
        }
        announce("evaluate", {**options, "out": self.out})
        forget_options(self.out / "options.json", "report.json", key="models")
        record_options(self.out / "options.json", options)
        seeds = range(self.first_seed, self.first_seed + self.n)
        found = evaluate(comparison, samplers, data, seeds=seeds, floor_groups=self.floor_groups)
        rows = [{"frechet_distance": None, **row} for row in found.rows if row["key"] != CONVERGED]
        write_json(self.out / "report.json", rows)
        table = markdown_table(rows, COLUMNS)
        with replacing(self.out / "report.md") as file:
            file.write_text(
                f"{self.n} seeds from {self.first_seed} on, all methods on the same paths. {SAID}\n\n{table}"
            )
        print(f"{table}-> {self.out / 'report.json'}")

    @property
    def _reference(self) -> Reference:
        return self.reference or "pca"

    def _comparison(self, teacher: ModelDenoiser, data: Tensor, models: Sequence[SigDEG]) -> Comparison:
        """On the paths of the generators, or where there are none on those of the flags."""
        if not models:
            gaussian = fitted_reference(self._reference, data, self.data)
            return Comparison(teacher, PathSpace(teacher.event, snr_range(self.snr, self.teacher), gaussian))
        for name, value in (("reference", self.reference), ("snr", self.snr)):
            if value is not None:
                raise ValueError(f"{name} must not be given with models, which set it; got {value}")
        return Comparison(teacher, models[0].space)

"""Groups of flags that commands share, and what they make of them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import tyro
from torch import Tensor

from sdesig import _processes as processes
from sdesig import digits
from sdesig._checks import check_integer
from sdesig._files import file_digest
from sdesig._random import generator_for
from sdesig._records import Record, cached
from sdesig.commands.inputs import (
    DIGITS,
    LoadedTeacher,
    Source,
    identity_of_files,
    load_data,
    load_teacher,
    names_images,
    shows_images,
)
from sdesig.sampling import LAW_FOR_IMAGES, GaussianReference, PathSpace, StepGrid, TeacherOptions, choose_grid
from sdesig.sampling.gaussian_reference import REFERENCES
from sdesig.sampling.teacher_paths import MOST_STEPS, teacher_samples
from sdesig.sigdeg import DistillOptions
from sdesig.sigdeg.network_denoiser import ModelDenoiser
from sdesig.sigdeg.training_data import Data, check_data, take_rows

if TYPE_CHECKING:
    from sdesig.images.latent import Autoencoder

NO_MEMORY = ("out of memory", "not enough memory", "can't allocate memory")
MOST_SAMPLES = 10_000_000
"""Most samples of one command."""
COUNT = tyro.conf.arg(aliases=("--count",))
"""The other name of --n, which torchrun takes for an abbreviation of its own options."""
SNR = (1 / 80**2, 1 / 0.05**2)
"""Range for teachers that are not ours: noise of standard deviation 80 to .05, as usual for data of unit scale."""
SNR_OF_IMAGES = (1 / 80**2, 1 / 0.01**2)
"""Likewise, to .01, which is about a grey level of images in [-1, 1]."""

LEAST_SNR, MOST_SNR, LEAST_RANGE = 1e-15, 1e15, 1e-6
GRID_CELLS = "grid-cells.safetensors"
"""File in the folder of a run: what was measured to choose its grid."""
FITTED = 10_000
"""Most images that a reference is fitted to."""


class Setting(NamedTuple):
    """What a run is about.

    Attributes:
        teacher: on the device of the run.
        source: the data, if there are any.
        data: what a student learns from, on the device: the samples, images, or latents of those.
        space: what a seed means, on the device.
        recorded: all that identifies this, for options.json.
        of_paths: what of it the teacher's paths on disk depend on, beside their space.
    """

    teacher: LoadedTeacher
    source: Source | None
    data: Data | None
    space: PathSpace
    recorded: dict[str, Any]
    of_paths: dict[str, Any]


@dataclass(frozen=True)
class DataFlags:
    """Which data."""

    data: str | None = None
    """Data: digits, floats of a FILE.npz, or images of a folder, .tar, FILE.npz[:ARRAY] or hf:NAME[:SPLIT]; default
    digits, but none with a teacher of images."""
    size: int | None = None
    """Side in pixels to which the centred square of every image is resized."""
    crop: int | None = None
    """Side of that square in the original; default the largest."""
    channels: int | None = None
    """Number of channels, 1 for grey or 3 for RGB; default as the images are."""
    max_corrupt: int = 10
    """Most images that may be broken; they are skipped and named."""
    image_cache: Path | None = None
    """Folder in which decoded images and their statistics are kept for the next time."""

    def source(self, teacher: str = DIGITS) -> Source | None:
        """The data; None if there are none, with a teacher of images.

        Raises:
            FileNotFoundError, ImportError, ValueError: see `load_data` and `load_images`.
        """
        name = self.data or (None if shows_images(teacher, None) else DIGITS)
        if name is None:
            return None
        if not names_images(name):
            for option in ("size", "crop", "channels"):
                if getattr(self, option) is not None:
                    raise ValueError(f"{option} must be left out for data that are not images: {name}")
            return Source(*load_data(name))
        from sdesig.images.image_data import load_images

        images = load_images(
            name,
            size=self.size,
            crop=self.crop,
            channels=self.channels,
            max_corrupt=self.max_corrupt,
            cache=self.image_cache,
        )
        described = {"source": images.source, "sha256": images.digest, "n": len(images), "shape": list(images.event)}
        return Source(images, described)


@dataclass(frozen=True)
class SettingFlags(DataFlags):
    """Which teacher and data, in which variables, over which range, and on which grid."""

    teacher: str = DIGITS
    """Teacher: digits, a folder with a denoiser, or a diffusers model, by its folder or its hub id owner/name."""
    reference: str | None = None
    """Gaussian reference of the data: pca (per principal component, the default for vectors), dct (their power
    spectrum, the default for images), scalar, coordinates, none, or a reference-*.safetensors of an earlier run."""
    snr: tuple[float, float] | None = None
    """First and last signal-to-noise ratio; default 1/400 and 400 for the digits, else 1/6400 and 400, or 10000 for
    images, cut to the teacher's range."""
    grid: str = "chosen"
    """Places of the steps: chosen (by the error of the path-average scheme, measured first), karras or free (Karras' or
    even ones behind a free step that is measured), even (in log-SNR), digits (those shipped), or a JSON file such as
    the grid-*.json of an earlier run."""
    label: int | None = None
    """Class of a class-conditional model."""
    decoder: str | None = None
    """Latent model, by its folder or hub id, whose autoencoder encodes images and decodes samples."""
    reference_samples: int = 1024
    """Number of the teacher's samples to which the reference is fitted where there are no data."""

    def has_data(self) -> bool:
        """Whether there are data, those of --data or the digits."""
        return self.data is not None or not shows_images(self.teacher, None)

    def autoencoder(self, device: torch.device) -> tuple[Autoencoder | None, dict[str, Any]]:
        """The autoencoder of --decoder, if there is one, and which it is, for options.json."""
        if self.decoder is None:
            return None, {}
        from sdesig.images.latent import FOLDERS, load_autoencoder
        from sdesig.images.teachers import find_model

        patterns = [f"{name}/*.{kind}" for name in FOLDERS for kind in ("safetensors", "json")]
        identity = identity_of_files(self.decoder, find_model(self.decoder), patterns)
        return load_autoencoder(self.decoder, device=device), {"decoder": identity}

    @processes.main_first()
    def load(
        self, device: torch.device, folder: Path | None = None, *, depth: int = 4, teacher: LoadedTeacher | None = None
    ) -> Setting:
        """Teacher, unless it is loaded already, and data on a device, and their space; see `around`."""
        teacher = teacher or load_teacher(self.teacher, device, self.label)
        return self.around(teacher, self.source(self.teacher), device, folder, depth=depth)

    def around(
        self,
        teacher: LoadedTeacher,
        source: Source | None,
        device: torch.device,
        folder: Path | None = None,
        *,
        depth: int = 4,
    ) -> Setting:
        """The setting of a teacher and data. What is fitted or chosen is kept in a folder, if one is given: for the
        next time, and for the other processes.

        Args:
            depth: Legendre coefficients that a generator will see: the paths have as many, and 4 at least.

        Raises:
            FileNotFoundError, ImportError, TypeError, ValueError: a teacher or data that cannot be read, or do not fit.
        """
        (autoencoder, decoder), event = self.autoencoder(device), teacher.denoiser.event
        snr, data = self.range(teacher.denoiser, source), self._training_data(source, event, device, autoencoder)
        reference, described = self._reference(teacher, source, data, snr, folder, decoder)
        space = PathSpace(event, snr, reference, depth=max(4, depth)).to(device)
        space = replace(space, grid=self._grid(teacher, source, space, folder))
        recorded = {
            "teacher": teacher.identity,
            "data": None if source is None else source.described,
            "reference": described,
            "snr": space.snr,
            "grid": space.grid.to_json(),
            **decoder,
        }
        of_paths = recorded if _floats(source) else {"teacher": teacher.identity}
        return Setting(teacher, source, data, space, recorded, of_paths)

    def range(self, teacher: ModelDenoiser, source: Source | None) -> tuple[float, float]:
        """First and last SNR.

        Raises:
            ValueError: unless 1e-15 <= first, last <= 1e15 and last >= (1 + 1e-6) first, so that steps between them are
                numbers; beyond the range of the teacher.
        """
        first, last = getattr(teacher, "snr", (0.0, math.inf))
        usual = digits.SNR if self.teacher == DIGITS else SNR if _floats(source) else SNR_OF_IMAGES
        low, high = self.snr or (max(usual[0], first), min(usual[1], last))
        if not 0 < low < high < math.inf:
            raise ValueError(f"snr must be (first, last) with 0 < first < last; got {(low, high)}")
        if low < LEAST_SNR or high > MOST_SNR or high / low < 1 + LEAST_RANGE:
            raise ValueError(
                f"snr must be (first, last) with {LEAST_SNR:g} <= first, (1 + {LEAST_RANGE:g}) first <= last <= "
                f"{MOST_SNR:g}; got {(low, high)}"
            )
        if low < first or high > last:
            raise ValueError(f"snr must lie in the teacher's range, {first:g} to {last:g}; got {(low, high)}")
        return low, high

    def _training_data(
        self, source: Source | None, event: tuple[int, ...], device: torch.device, autoencoder: Autoencoder | None
    ) -> Data | None:
        """On the device: samples, uint8 images, or the latents that the autoencoder draws of them.

        Raises:
            ValueError: data or latents of another shape than the teacher's.
        """
        if source is None:
            return None
        values = source.values
        if isinstance(values, Tensor):
            if (found := tuple(values.shape[1:])) != event:
                name = self.data or DIGITS
                raise ValueError(f"data must have the shape of the teacher's, {event}; {name} has {found}")
        elif autoencoder is None:
            values.check_event(event, f"the teacher {self.teacher}")
        else:
            generator = generator_for("latents", device=device)
            parts = torch.arange(len(values)).split(64)
            latents = torch.cat([autoencoder.encode(values.floats(rows, device=device), generator) for rows in parts])
            check_data(latents, event)
            return latents
        return values.to(device)

    def _reference(
        self,
        teacher: LoadedTeacher,
        source: Source | None,
        data: Data | None,
        snr: tuple[float, float],
        folder: Path | None,
        decoder: dict[str, Any],
    ) -> tuple[GaussianReference, str | dict[str, Any]]:
        """The reference, on the CPU, and what it is, for options.json."""
        event = teacher.denoiser.event
        kind = self.reference or ("pca" if len(event) == 1 else "dct")
        if kind not in REFERENCES:
            file = digits.FOLDER / digits.REFERENCE if kind == DIGITS else Path(kind)
            if not file.is_file():
                raise FileNotFoundError(f"reference must be one of {', '.join(REFERENCES)}, or a file; got {kind!r}")
            return GaussianReference.load(file, event), {"file": kind, "sha256": file_digest(file)}
        if source is not None and source.described.get("name") == DIGITS:
            return digits.reference(kind), kind
        if data is None:
            n, of = check_integer("reference_samples", self.reference_samples, 2), "the teacher"
        else:
            n, of = len(data) if _floats(source) else min(FITTED, len(data)), "data"
        described = {"kind": kind, "n": n, "of": of}

        def make() -> GaussianReference:
            if data is None:
                device = next(teacher.denoiser.parameters()).device
                known = PathSpace(event, snr, GaussianReference(torch.zeros((), device=device), 0.0))
                return GaussianReference.fit(teacher_samples(teacher.denoiser, known, n), kind)
            if isinstance(data, Tensor) and _floats(source):
                return GaussianReference.fit(data.cpu(), kind)
            rows = torch.randperm(len(data), generator=generator_for("samples of a reference"))[:n].sort().values
            return GaussianReference.fit(take_rows(data, rows, "cpu"), kind)

        def write(stem: Path, reference: GaussianReference) -> Record:
            reference.save(stem.with_suffix(".safetensors"))
            return {"sha256": file_digest(stem.with_suffix(".safetensors"))}

        def read(stem: Path, record: Record) -> GaussianReference:
            if file_digest(stem.with_suffix(".safetensors")) != record["sha256"]:
                raise ValueError("it does not have the sha256 that it was written with")
            return GaussianReference.load(stem.with_suffix(".safetensors"), event)

        key = {**described, "teacher": teacher.identity, "data": source and source.described, "snr": snr, **decoder}
        reference = cached(folder, "reference", key, make=make, write=write, read=read)
        return reference, kind if _floats(source) else described

    def _grid(self, teacher: LoadedTeacher, source: Source | None, space: PathSpace, folder: Path | None) -> StepGrid:
        """The grid of --grid."""
        if self.grid == "even":
            return StepGrid()
        shipped = self.teacher == (self.data or DIGITS) == DIGITS and self.reference in (None, "pca", DIGITS)
        if self.grid == DIGITS or (self.grid == "chosen" and shipped and self.snr is None):
            return digits.load_grid()
        behind_free = {"karras": StepGrid.karras(space.snr), "free": StepGrid()}
        if self.grid not in ("chosen", *behind_free):
            if not Path(self.grid).is_file():
                raise FileNotFoundError(
                    f"grid must be 'chosen', 'karras', 'free', 'even' or a JSON file; {self.grid} does not exist"
                )
            return StepGrid.load(self.grid)
        how: dict[str, Any]
        described: dict[str, Any]
        if self.grid in behind_free:
            how, described = {"steps": behind_free[self.grid]}, {"steps": self.grid}
        else:
            how = described = {"law": 0.0 if _floats(source) else LAW_FOR_IMAGES}
        recorded = {"teacher": teacher.identity}
        kept = None if folder is None else folder / GRID_CELLS
        return cached(
            folder,
            "grid",
            {**recorded, "reference": space.reference.digest, "snr": space.snr, **described},
            make=lambda: choose_grid(teacher.denoiser, space, kept=kept, recorded=recorded, **how),
            write=lambda stem, grid: grid.numbers,
            read=lambda stem, record: StepGrid.load(stem.with_suffix(".json")),
        )


def _floats(source: Source | None) -> bool:
    """Whether there are data that are no images of 256 levels."""
    return source is not None and isinstance(source.values, Tensor)


@dataclass(frozen=True)
class DistillFlags(DistillOptions):
    """What to distil from, and how."""

    # `TeacherPathFlags` are in the place of `teacher_options`, which other options are checked against

    teacher_options: tyro.conf.Suppress[tyro.conf.Fixed[TeacherOptions]] = field(default_factory=TeacherOptions)

    def __post_init__(self) -> None:
        """Check nothing."""

    def options(self, teacher_options: TeacherOptions) -> DistillOptions:
        """The options with those of a teacher's paths; raise TypeError or ValueError for bad values."""
        return DistillOptions(**{**vars(self), "teacher_options": teacher_options})


@dataclass(frozen=True)
class TeacherPathFlags:
    """How the teacher's paths are made."""

    teacher_scheme: str = TeacherOptions.scheme
    """Scheme of the teacher's paths: path_average, euler (SDE-DPM-Solver++(1), the discretization of the paper's
    teacher) or dpm_solver_2m."""
    teacher_steps: int = TeacherOptions.steps
    """Fine steps of the teacher over the whole range of SNR."""


@dataclass(frozen=True)
class CutPathFlags(TeacherPathFlags):
    """How the teacher's paths are made and cut."""

    teacher_cells: int | None = None
    """Parts of a path, of which coarse steps are made; they divide its steps; default the divisor next to 64."""

    def cut_options(self, most_steps: int) -> TeacherOptions:
        """The options of paths that are cut into no fewer cells than the most coarse steps there are.

        Raises:
            ValueError: fewer fine steps than coarse ones, cells that do not divide them, an unknown scheme.
        """
        cells = self.teacher_cells
        if cells is None:
            count = check_integer("teacher_steps", self.teacher_steps, 1, MOST_STEPS)
            divisors = [k for k in range(max(1, most_steps), count + 1) if count % k == 0]
            if not divisors:
                raise ValueError(f"teacher_steps must be at least {most_steps}, the most coarse steps; got {count}")
            cells = min(divisors, key=lambda k: abs(k - TeacherOptions.cells))
        return TeacherOptions(self.teacher_scheme, self.teacher_steps, cells)


@dataclass(frozen=True)
class MachineFlags:
    """What to compute on, and with which file of options."""

    device: str = "cpu"
    """Device to compute on: cpu, cuda, or another one of torch."""
    threads: int | None = None
    """Threads of torch on the CPU; default torch's own choice. Results depend on them in the last digits."""
    config: Path | None = None
    """JSON file with options by these names and rarer ones; flags override it."""

    def described(self, device: torch.device | str) -> dict[str, Any]:
        """Device and threads, for the options that commands show and write."""
        return {"device": str(device), "threads": self.threads}

    def use(self) -> torch.device:
        """Set the number of threads, join the processes that torchrun started, and return the device.

        Raises:
            ValueError: a device that torch does not have here, threads < 1.
        """
        if self.threads is not None:
            torch.set_num_threads(check_integer("threads", self.threads, 1))
        return processes.join(self.device)


@contextmanager
def naming_memory(**settings: object) -> Iterator[None]:
    """Turn torch's errors of too little memory into a MemoryError that names the settings which need it."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        reason = str(error).strip().partition("\n")[0]
        known = isinstance(error, torch.cuda.OutOfMemoryError | MemoryError)
        if not (known or any(text in reason for text in NO_MEMORY)):
            raise
        named = ", ".join(f"{name.replace('_', '-')} {value}" for name, value in settings.items())
        raise MemoryError(f"out of memory with {named}: choose less ({reason})") from None


def announce(command: str, options: Mapping[str, object]) -> None:
    """Print a command's options, one per line."""
    print(f"sdesig {command}")
    for name, value in options.items():
        print(f"  {name}: {value if isinstance(value, str) else json.dumps(value, default=str)}", flush=True)

"""What commands are given: data, a teacher, generators, and with them the space of the seeds."""

from __future__ import annotations

import hashlib
import math
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from reprlib import Repr
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sdesig import _processes as processes
from sdesig import digits
from sdesig._checks import check_integer
from sdesig._files import file_digest, open_arrays, read_json, take_array
from sdesig._modules import CONFIG, WEIGHTS
from sdesig._random import generator_for
from sdesig._records import Record, cached
from sdesig.evaluation.pixels import ImageSet
from sdesig.sampling import LEAST_FOR_IMAGES, GaussianReference, PathSpace, StepGrid, choose_grid
from sdesig.sampling.gaussian_reference import REFERENCES
from sdesig.sampling.teacher_paths import teacher_samples
from sdesig.sigdeg import SigDEG
from sdesig.sigdeg.network_denoiser import ModelDenoiser
from sdesig.sigdeg.training_data import Data, check_data, take_rows

if TYPE_CHECKING:
    from sdesig.images.latent import Autoencoder

DIGITS = "digits"
ARRAYS = ("data", "images")
DIFFUSERS = ("model_index.json", "unet", "scheduler_config.json")
"""What a folder with a diffusers model has, one at least, and one of ours has not."""
WEIGHTS_OF_DIFFUSERS = ("*.safetensors", "*.json", "unet/*.safetensors", "unet/*.json", "scheduler/*.json")
SNR = (1 / 80**2, 1 / 0.05**2)
"""Range for teachers that are not ours: noise of standard deviation 80 to .05, as usual for data of unit scale."""
SNR_OF_IMAGES = (1 / 80**2, 1 / 0.01**2)
"""Likewise, to .01, which is about a grey level of images in [-1, 1]."""

LEAST_SNR, MOST_SNR, LEAST_RANGE = 1e-15, 1e15, 1e-6
LARGEST, LEAST_STD = 1e9, 1e-9
"""Bounds of the data: their squares are numbers in float32 with room to spare."""

GRID_CELLS = "grid-cells.safetensors"
"""File in the folder of a run: what was measured to choose its grid."""
FITTED = 10_000
"""Most images that a reference is fitted to."""
GRID_PATHS = 256
GRID_NUMBERS = 2**19
Identity = dict[str, str]
"""Name and sha256 of a file: what a run with another one must not go on from."""


class Source(NamedTuple):
    """Data, float32 (n, *event) or images of 256 levels, and which they are, for options.json."""

    values: Tensor | ImageSet
    described: dict[str, Any]


class LoadedTeacher(NamedTuple):
    """A denoiser, which it is, and whether it is a moving average (None: unknown)."""

    denoiser: ModelDenoiser
    identity: Identity
    ema: bool | None


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
        if not _is_of_images(name):
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
    """Places of the steps: chosen (by the error of the path-average scheme, measured first), even (in log-SNR), digits
    (those shipped), or a JSON file such as the grid-*.json of an earlier run."""
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
        identity = _identity_of_files(self.decoder, find_model(self.decoder), patterns)
        return load_autoencoder(self.decoder, device=device), {"decoder": identity}

    @processes.main_first()
    def load(self, device: torch.device, folder: Path | None = None, *, depth: int = 4) -> Setting:
        """Teacher and data on a device, and their space; see `around`."""
        return self.around(
            load_teacher(self.teacher, device, self.label), self.source(self.teacher), device, folder, depth=depth
        )

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
            "grid": space.grid.quantiles,
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
        if self.grid != "chosen":
            if not Path(self.grid).is_file():
                raise FileNotFoundError(f"grid must be 'chosen', 'even' or a JSON file; {self.grid} does not exist")
            return StepGrid.load(self.grid)
        paths = max(16, min(GRID_PATHS, GRID_NUMBERS // math.prod(space.event)))
        how: dict[str, Any] = {} if _floats(source) else {"paths": paths, "least": LEAST_FOR_IMAGES}
        recorded = {"teacher": teacher.identity}
        kept = None if folder is None else folder / GRID_CELLS
        return cached(
            folder,
            "grid",
            {**recorded, "reference": space.reference.digest, "snr": space.snr, **how},
            make=lambda: choose_grid(teacher.denoiser, space, kept=kept, recorded=recorded, **how),
            write=lambda stem, grid: {"quantiles": list(grid.quantiles)},
            read=lambda stem, record: StepGrid(tuple(record["quantiles"])),
        )


def _floats(source: Source | None) -> bool:
    """Whether there are data that are no images of 256 levels."""
    return source is not None and isinstance(source.values, Tensor)


# --- data ------------------------------------------------------------------------------------------------------------


def shows_images(teacher: str, data: str | None) -> bool:
    """Whether data, or without any a teacher, are of images, as far as names and the heads of files tell."""
    if data is not None:
        return _is_of_images(data)
    config = Path(teacher) / CONFIG
    if teacher == DIGITS or not config.is_file():
        return teacher != DIGITS
    network = read_json(config).get("network")
    return not isinstance(network, dict) or network.get("kind") != "mlp"


def _is_of_images(data: str) -> bool:
    """Whether a name of data is for `load_images`: an archive, or a .npz file that has no floats for `load_data`."""
    path = Path(data)
    if data == DIGITS or not (path.exists() or ".npz:" in data or data.startswith("hf:")):
        return False
    if path.suffix.lower() != ".npz" or not path.is_file():
        return path.suffix.lower() != ".npy"
    with open_arrays(path) as arrays:
        heads = {name.removesuffix(".npy"): _head(arrays.zip, name) for name in arrays.zip.namelist()}
    known = next((heads[name] for name in ARRAYS if name in heads), None)
    if known is not None and known[1] != np.uint8:
        return False
    return any(dtype == np.uint8 and len(shape) in (3, 4) for shape, dtype in heads.values())


def _head(archive: zipfile.ZipFile, name: str) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and dtype of an array in an archive, of which no more is read."""
    with archive.open(name) as file:
        first = np.lib.format.read_magic(file) == (1, 0)
        read = np.lib.format.read_array_header_1_0 if first else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
        return shape, dtype


def load_data(data: str) -> tuple[Tensor, Identity]:
    """The shipped digits, or the samples in a .npz file: float32, (n, *event), and which they are.

    Args:
        data: "digits", or the path of a file with a floating-point array `data` or `images` of shape (n >= 2, dim) or
            (n >= 2, channels, size, size). It is used as it is: nothing is rescaled.

    Raises:
        FileNotFoundError, ValueError: no such file, not a .npz file, no such array, another dtype or shape, values that
            are not finite.
    """
    if data == DIGITS:
        return digits.load_digits()[0], _identity(DIGITS, digits.FOLDER / "digits.npz")
    path = Path(data)
    if not path.is_file():
        raise FileNotFoundError(
            f"data must be {DIGITS!r} or a .npz file, or images: a folder, a .tar, FILE.npz:ARRAY or hf:NAME[:SPLIT]; "
            f"{path} does not exist"
        )
    with open_arrays(path) as arrays:
        name = next((name for name in ARRAYS if name in arrays), None)
        if name is None:
            raise ValueError(f"it has no array {' or '.join(ARRAYS)}, but {', '.join(arrays) or 'none'}")
        values = take_array(arrays, name)
    shape, image = values.shape, values.ndim == 4 and values.shape[2] == values.shape[3]
    if not np.issubdtype(values.dtype, np.floating):
        raise ValueError(f"{path}: {name} must be floating point; it is {values.dtype}")
    if not (values.ndim == 2 or image) or len(values) < 2 or not values[0].size:
        raise ValueError(f"{path}: {name} must have shape (n >= 2, dim) or (n >= 2, channels, size, size); got {shape}")
    tensor = torch.from_numpy(values.astype(np.float32))
    if not bool(tensor.isfinite().all()):
        raise ValueError(f"{path}: {name} must be finite in float32 everywhere")
    largest, deviation = tensor.abs().max().item(), tensor.double().std().item()
    if largest > LARGEST or deviation < LEAST_STD:
        raise ValueError(
            f"{path}: {name} must have no value beyond {LARGEST:g} and a standard deviation of {LEAST_STD:g} at least; "
            f"they are {largest:g} and {deviation:g}: rescale it"
        )
    return tensor, _identity(data, path)


# --- teachers and generators -----------------------------------------------------------------------------------------


def load_teacher(teacher: str, device: torch.device | str = "cpu", label: int | None = None) -> LoadedTeacher:
    """A denoiser by its name.

    Args:
        teacher: "digits" for the shipped one; a folder that `ModelDenoiser.save` wrote; or a folder or hub id of a
            diffusers model, see `sdesig.images.teachers.load_teacher`.
        device: of the weights.
        label: of a class-conditional diffusers model.

    Raises:
        FileNotFoundError, ImportError, TypeError, ValueError: see there and `ModelDenoiser.load`; a label of ours.
    """
    from sdesig.images import teachers  # also makes the networks of image models known

    folder = digits.FOLDER / "teacher" if teacher == DIGITS else Path(teacher)
    if not folder.is_dir():
        try:
            folder = teachers.find_model(teacher)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"teacher must be {DIGITS!r} or a folder with a denoiser; {error}") from None
    if not any((folder / name).exists() for name in DIFFUSERS):
        if label is not None:
            raise ValueError(f"label must be None for a denoiser without classes; got {label}")
        return LoadedTeacher(ModelDenoiser.load(folder, device), _identity(teacher, folder / WEIGHTS), True)
    identity = _identity_of_files(teacher, folder, WEIGHTS_OF_DIFFUSERS)
    identity |= {} if label is None else {"label": str(label)}
    return LoadedTeacher(teachers.load_teacher(folder, label=label, device=device), identity, None)


def load_model(name: str, device: torch.device | str = "cpu") -> SigDEG:
    """A generator by the name of its folder, or of a shipped one, such as digits/depth-2; see `SigDEG.load`."""
    return SigDEG.load(_model_folder(name), device=device)


def _model_folder(name: str) -> Path:
    shipped = {f"{DIGITS}/{folder.name}": folder for folder in sorted((digits.FOLDER / "students").iterdir())}
    folder = shipped.get(name, Path(name))
    if not folder.is_dir():
        raise FileNotFoundError(f"model must be a folder with a generator or one of {', '.join(shipped)}; got {name!r}")
    return folder


def load_models(
    names: Sequence[str], event: tuple[int, ...], device: torch.device | str = "cpu"
) -> tuple[list[SigDEG], list[Identity]]:
    """Generators of samples of the shape `event`, all on the same Brownian paths, and which they are.

    Raises:
        FileNotFoundError, ValueError: see `load_model`; one folder twice; samples of another shape; generators with
            different grids of steps, ranges, clocks, path depths or references.
    """
    folders = [_model_folder(name) for name in names]
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise ValueError(f"models must be different folders; got {', '.join(names)}")
    models = [load_model(name, device) for name in names]
    for name, model in zip(names, models, strict=True):
        if model.space.event != event:
            raise ValueError(
                f"models must make samples of shape {event}, as the teacher does; {name}: {model.space.event}"
            )
        if model.space.grid != models[0].space.grid:
            raise ValueError(f"models must have one grid of steps to be compared; {name} and {names[0]} have two")
        check_same_paths(name, model.space.paths(1).identity, names[0], models[0].space.paths(1).identity)
        if model.space != models[0].space:
            raise ValueError(f"{name} and {names[0]} must have one Gaussian reference; mean or basis differ")
    return models, [_identity(name, folder / WEIGHTS) for name, folder in zip(names, folders, strict=True)]


def check_same_paths(name: str, identity: Mapping[str, Any], other_name: str, other: Mapping[str, Any]) -> None:
    """Raise ValueError, naming a difference, unless two `BrownianPath.identity` agree in all but the seeds."""
    short = Repr()
    for key in sorted({*identity, *other} - {"seeds"}):
        if identity.get(key) != other.get(key):
            one, two = short.repr(identity.get(key)), short.repr(other.get(key))
            raise ValueError(f"{name} and {other_name} must have the same paths; {key} differs: {one} and {two}")


def _identity(name: str, file: Path) -> Identity:
    return {"name": name, "sha256": file_digest(file)}


def _identity_of_files(name: str, folder: Path, patterns: Sequence[str]) -> Identity:
    """A name and a hash of some files in a folder."""
    files = [file for pattern in patterns for file in sorted(folder.glob(pattern))]
    return {"name": name, "sha256": hashlib.sha256("".join(map(file_digest, files)).encode()).hexdigest()}

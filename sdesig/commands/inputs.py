"""What commands are given by name: data, teachers and generators."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from reprlib import Repr
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sdesig import digits
from sdesig._files import file_digest, open_arrays, read_json, take_array
from sdesig._modules import CONFIG, WEIGHTS
from sdesig.evaluation.pixels import ImageSet
from sdesig.sigdeg import SigDEG
from sdesig.sigdeg.network_denoiser import ModelDenoiser

DIGITS = "digits"
ARRAYS = ("data", "images")
DIFFUSERS = ("model_index.json", "unet", "scheduler_config.json")
"""What a folder with a diffusers model has, one at least, and one of ours has not."""
WEIGHTS_OF_DIFFUSERS = ("*.safetensors", "*.json", "unet/*.safetensors", "unet/*.json", "scheduler/*.json")
LARGEST, LEAST_STD = 1e9, 1e-9
"""Bounds of the data: their squares are numbers in float32 with room to spare."""
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


# --- data ------------------------------------------------------------------------------------------------------------


def shows_images(teacher: str, data: str | None) -> bool:
    """Whether data, or without any a teacher, are of images, as far as names and the heads of files tell."""
    if data is not None:
        return names_images(data)
    config = Path(teacher) / CONFIG
    if teacher == DIGITS or not config.is_file():
        return teacher != DIGITS
    network = read_json(config).get("network")
    return not isinstance(network, dict) or network.get("kind") != "mlp"


def names_images(data: str) -> bool:
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
    identity = identity_of_files(teacher, folder, WEIGHTS_OF_DIFFUSERS)
    identity |= {} if label is None else {"label": str(label)}
    return LoadedTeacher(teachers.load_teacher(folder, label=label, device=device), identity, None)


def load_model(name: str, device: torch.device | str = "cpu") -> SigDEG:
    """A generator by the name of its folder, or of a shipped one, such as digits/depth-2; see `SigDEG.load`."""
    return SigDEG.load(_model_folder(name), device=device)


def _model_folder(name: str) -> Path:
    shipped = {f"{DIGITS}/{student}": student for student in digits.STUDENTS}
    if name in shipped:
        return digits.student_folder(shipped[name])
    folder = Path(name)
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


def identity_of_files(name: str, folder: Path, patterns: Sequence[str]) -> Identity:
    """A name and a hash of some files in a folder."""
    files = [file for pattern in patterns for file in sorted(folder.glob(pattern))]
    return {"name": name, "sha256": hashlib.sha256("".join(map(file_digest, files)).encode()).hexdigest()}

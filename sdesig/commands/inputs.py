"""What commands are given: data, teachers, generators, and the range and reference that go with them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from reprlib import Repr
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from sdesig import digits
from sdesig._files import file_digest, open_arrays, take_array
from sdesig._modules import WEIGHTS
from sdesig.commands.options import Reference
from sdesig.sampling import GaussianReference, PathSpace, StepGrid, choose_grid
from sdesig.sigdeg import SigDEG
from sdesig.sigdeg.network_denoiser import ModelDenoiser

DIGITS = "digits"
ARRAYS = ("data", "images")
DIFFUSERS = ("model_index.json", "unet", "scheduler_config.json")
"""What a folder with a diffusers model has, one at least, and one of ours has not."""
WEIGHTS_OF_DIFFUSERS = ("*.safetensors", "*.json", "unet/*.safetensors", "unet/*.json", "scheduler/*.json")
SNR = (1 / 80**2, 1 / 0.05**2)
"""Range for teachers that are not ours: noise of standard deviation 80 to .05, as usual for data of unit scale."""

LEAST_SNR, MOST_SNR, LEAST_RANGE = 1e-15, 1e15, 1e-6
LARGEST, LEAST_STD = 1e9, 1e-9
"""Of data: their squares are numbers in float32 with room to spare."""

GRID_CELLS = "grid-cells.safetensors"
"""In the folder of a run: what was measured to choose its grid."""
Identity = dict[str, str]
"""Name and sha256 of a file: what a run with another one must not go on from."""


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
    name, values = _read_array(path)
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


def _read_array(path: Path) -> tuple[str, np.ndarray]:
    """Name and values of the one array that is asked for; pickles are not loaded."""
    if not path.is_file():
        raise FileNotFoundError(f"data must be {DIGITS!r} or a .npz file; {path} does not exist")
    with open_arrays(path) as arrays:
        for name in ARRAYS:
            if name in arrays:
                return name, take_array(arrays, name)
        raise ValueError(f"it has no array {' or '.join(ARRAYS)}, but {', '.join(arrays) or 'none'}")


class Teacher(NamedTuple):
    """A denoiser, which it is, and whether it is a moving average (None: unknown)."""

    denoiser: ModelDenoiser
    identity: Identity
    ema: bool | None


def load_teacher(teacher: str, device: torch.device | str = "cpu", label: int | None = None) -> Teacher:
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
        return Teacher(ModelDenoiser.load(folder, device), _identity(teacher, folder / WEIGHTS), True)
    identity = identity_of_files(teacher, folder, WEIGHTS_OF_DIFFUSERS)
    identity |= {} if label is None else {"label": str(label)}
    return Teacher(teachers.load_teacher(folder, label=label, device=device), identity, None)


def identity_of_files(name: str, folder: Path, patterns: Sequence[str]) -> Identity:
    """A name and a hash of some files in a folder."""
    files = [file for pattern in patterns for file in sorted(folder.glob(pattern))]
    return {"name": name, "sha256": hashlib.sha256("".join(map(file_digest, files)).encode()).hexdigest()}


def fitted_reference(kind: str, data: Tensor, name: str) -> GaussianReference:
    """The Gaussian reference of a kind of data: the shipped one for the digits."""
    return digits.reference(kind) if name == DIGITS else GaussianReference.fit(data, kind)


class Setting(Protocol):
    """The flags from which a grid of steps follows, of the digits and other vectors."""

    @property
    def teacher(self) -> str: ...
    @property
    def data(self) -> str: ...
    @property
    def reference(self) -> Reference: ...
    @property
    def snr(self) -> tuple[float, float] | None: ...
    @property
    def grid(self) -> str: ...


def step_grid(
    flags: Setting,
    teacher: ModelDenoiser,
    space: PathSpace,
    identity: Identity,
    kept: Path | None = None,
) -> StepGrid:
    """The grid of --grid; "chosen" is the shipped one if this is its setting, else measured: see `choose_grid`."""
    if (flags.grid, flags.teacher, flags.data, flags.reference, flags.snr) == ("chosen", DIGITS, DIGITS, "pca", None):
        return digits.load_grid()
    choose = partial(choose_grid, teacher, space, kept=kept, recorded={"teacher": identity})
    return named_grid(flags.grid, choose)


def named_grid(name: str, choose: Callable[[], StepGrid]) -> StepGrid:
    """The grid "even", "chosen" (by a function), or that of a file.

    Raises:
        FileNotFoundError, ValueError: see `StepGrid.load`.
    """
    if name == "even":
        return StepGrid()
    if name == "chosen":
        return choose()
    if not Path(name).is_file():
        raise FileNotFoundError(f"grid must be 'chosen', 'even' or a JSON file; {name} does not exist")
    return StepGrid.load(name)


def load_models(
    folders: Sequence[Path], event: tuple[int, ...], device: torch.device | str = "cpu"
) -> tuple[list[SigDEG], list[Identity]]:
    """Generators of samples of the shape `event`, all on the same Brownian paths, and which they are.

    Raises:
        FileNotFoundError, ValueError: see `SigDEG.load`; one folder twice; samples of another shape; generators with a
            different grids of steps, ranges, clocks, path depths or references.
    """
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise ValueError(f"models must be different folders; got {', '.join(map(str, folders))}")
    models = [SigDEG.load(folder, device=device) for folder in folders]
    for folder, model in zip(folders, models, strict=True):
        if model.space.event != event:
            raise ValueError(
                f"models must make samples of shape {event}, as the teacher does; {folder}: {model.space.event}"
            )
        if model.space.grid != models[0].space.grid:
            raise ValueError(f"models must have one grid of steps to be compared; {folder} and {folders[0]} have two")
        check_same_paths(str(folder), model.space.paths(1).identity, str(folders[0]), models[0].space.paths(1).identity)
        one, other = model.space.reference, models[0].space.reference
        if not all(map(torch.equal, (one.mean, *one.basis), (other.mean, *other.basis))):
            raise ValueError(f"{folder} and {folders[0]} must have one Gaussian reference; mean or basis differ")
    return models, [_identity(str(folder), folder / WEIGHTS) for folder in folders]


class Problem(NamedTuple):
    """A teacher and data of its shape.

    Attributes:
        teacher: the denoiser.
        data: float32 on the CPU, (n, *teacher.event).
        identity: of both, for options.json.
    """

    teacher: ModelDenoiser
    data: Tensor
    identity: dict[str, Identity]


def load_problem(teacher: str, data: str, device: torch.device | str = "cpu") -> Problem:
    """Both, after a check that they fit.

    Raises:
        FileNotFoundError, TypeError, ValueError: see `load_teacher` and `load_data`; data of another shape.
    """
    denoiser, teacher_identity, _ = load_teacher(teacher, device)
    values, data_identity = load_data(data)
    event = tuple(values.shape[1:])
    if event != denoiser.event:
        raise ValueError(f"data must have the shape of the teacher's, {denoiser.event}; {data} has {event}")
    return Problem(denoiser, values, {"teacher": teacher_identity, "data": data_identity})


def snr_range(snr: tuple[float, float] | None, teacher: str) -> tuple[float, float]:
    """First and last SNR: those given, or the default for the teacher; raise ValueError unless first < last."""
    return check_snr(*(snr or (digits.SNR if teacher == DIGITS else SNR)))


def check_snr(low: float, high: float) -> tuple[float, float]:
    """First and last SNR.

    Raises:
        ValueError: unless 1e-15 <= first, last <= 1e15 and last >= (1 + 1e-6) first: steps between them are numbers.
    """
    if not 0 < low < high < math.inf:
        raise ValueError(f"snr must be (first, last) with 0 < first < last; got {(low, high)}")
    if low < LEAST_SNR or high > MOST_SNR or high / low < 1 + LEAST_RANGE:
        raise ValueError(
            f"snr must be (first, last) with {LEAST_SNR:g} <= first, (1 + {LEAST_RANGE:g}) first <= last <= "
            f"{MOST_SNR:g}; got {(low, high)}"
        )
    return low, high


def check_same_paths(name: str, identity: Mapping[str, Any], other_name: str, other: Mapping[str, Any]) -> None:
    """Raise ValueError, naming a difference, unless two `BrownianPath.identity` agree in all but the seeds."""
    short = Repr()
    for key in sorted({*identity, *other} - {"seeds"}):
        if identity.get(key) != other.get(key):
            one, two = short.repr(identity.get(key)), short.repr(other.get(key))
            raise ValueError(f"{name} and {other_name} must have the same paths; {key} differs: {one} and {two}")


def _identity(name: str, file: Path) -> Identity:
    return {"name": name, "sha256": file_digest(file)}

"""Handwritten digits, 8x8: the data, a small teacher and classifier that were trained on them, and students.

There is a small pipeline of diffusers, too, to try things out on.

`README.md` beside this file has the source, the licence, and the commands that trained the networks.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdesig._files import file_digest
from sdesig._install import REPOSITORY
from sdesig._modules import WEIGHTS
from sdesig.digits.classifier import DigitClassifier
from sdesig.evaluation import FeatureExtractor
from sdesig.sampling import GaussianReference, PathSpace, StepGrid
from sdesig.sigdeg import NetworkDenoiser, SigDEG

__all__ = [
    "EVENT",
    "FOLDER",
    "PIPELINE",
    "REFERENCE",
    "SNR",
    "STUDENTS",
    "DigitClassifier",
    "load_classifier",
    "load_digits",
    "load_features",
    "load_grid",
    "load_pipeline",
    "load_student",
    "load_teacher",
    "path_space",
    "reference",
    "student_folder",
]

FOLDER = Path(__file__).parent
"""Folder of the shipped files."""
EVENT = (64,)
"""Shape of a sample."""
PIPELINE = FOLDER / "pipeline"
"""Folder of the pipeline of `load_pipeline`: a teacher for `sdesig distill --teacher`, too."""
REFERENCE = "reference.safetensors"
"""File of the reference per principal component, in `FOLDER`."""
STUDENTS = ("depth-1", "depth-2", "plain")
"""Generators that were distilled from the teacher. A wheel has none of them, for they are four times its size."""
SNR = (1 / 20**2, 1 / 0.05**2)
"""Noise of standard deviation 20 at the start; .05 is left at the end, less than half a grey level of the data."""


def load_digits() -> tuple[Tensor, Tensor]:
    """1797 images, float32 (1797, 64) in [-1, 1] (17 grey levels), and their labels, int64 (1797,)."""
    with np.load(FOLDER / "digits.npz", allow_pickle=False) as arrays:
        images = torch.from_numpy(arrays["images"].astype(np.float32)).reshape(-1, 64) / 8 - 1
        return images, torch.from_numpy(arrays["labels"].astype(np.int64))


def load_teacher() -> NetworkDenoiser:
    """The pre-trained denoiser, an MLP of 0.4 million parameters."""
    return NetworkDenoiser.load(FOLDER / "teacher")


def load_grid() -> StepGrid:
    """The grid of the steps, chosen by the error of the path-average scheme with the teacher (`choose_grid`)."""
    return StepGrid.load(FOLDER / "grid.json")


def reference(kind: str = "pca") -> GaussianReference:
    """Mean and variance of the data, by default per principal component.

    The principal components are shipped: computed elsewhere they may differ, and with them the paths of a seed.
    """
    if kind != "pca":
        return GaussianReference.fit(load_digits()[0], kind)
    return GaussianReference.load(FOLDER / REFERENCE)


def path_space(kind: str = "pca") -> PathSpace:
    """The space of the paths of the digits: in the clock of a reference, with the shipped grid.

    Of depth 4, so that generators of all depths up to it can be compared on the same paths.
    """
    return PathSpace(EVENT, SNR, reference(kind), depth=4, grid=load_grid())


def load_classifier() -> DigitClassifier:
    """The shipped classifier: 97 % right on held-out digits."""
    return DigitClassifier.load(FOLDER / "classifier")


def load_features() -> FeatureExtractor:
    """The classifier's 32 features, which Frechet distances are of."""
    digest = file_digest(FOLDER / "classifier" / WEIGHTS)
    return FeatureExtractor("classifier", digest, load_classifier().features, floats=True)


def load_pipeline() -> Any:
    """A `diffusers.DDPMPipeline` of digits, (1, 8, 8): a UNet of 0.1 million parameters that predicts the noise.

    Raises:
        ImportError: diffusers is missing.
    """
    from sdesig.images.diffusers_unet import import_diffusers

    return import_diffusers().DDPMPipeline.from_pretrained(PIPELINE)


def load_student(name: str) -> SigDEG:
    """One of `STUDENTS`; raises like `student_folder`."""
    return SigDEG.load(student_folder(name))


def student_folder(name: str) -> Path:
    """The folder of one of `STUDENTS`.

    Raises:
        ValueError: another name.
        FileNotFoundError: the package was installed from a wheel.
    """
    if name not in STUDENTS:
        raise ValueError(f"name must be one of {', '.join(STUDENTS)}; got {name!r}")
    folder = FOLDER / "students" / name
    if not folder.is_dir():
        raise FileNotFoundError(
            f"digits/{name} is not in a wheel: pip install -e a checkout of {REPOSITORY}, or make a generator by "
            "`sdesig distill`"
        )
    return folder

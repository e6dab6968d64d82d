"""Labels of class-conditional networks: one that is fixed, or one per sample in the place of conditions."""

from __future__ import annotations

import torch
from torch import Tensor

from sdesig._checks import check_integer


def check_label(label: int | None, classes: int, *, student: bool) -> int | None:
    """The label; raise TypeError or ValueError unless it is one of the classes, or None where it may be.

    A student has one label for all samples: its conditions are the numbers of a step.
    """
    if label is None:
        if classes and student:
            raise ValueError("label must be given for a student of a class-conditional model, which has one for all")
        return None
    if not classes:
        raise ValueError(f"label must be None for a model without classes; got {label!r}")
    return check_integer("label", label, 0, classes - 1)


def labels_of(x: Tensor, given: Tensor | None, label: int | None, classes: int) -> Tensor:
    """Labels, int64 (batch,): the fixed one for all, or those given; raise ValueError unless they fit."""
    if label is not None:
        return torch.full((len(x),), label, device=x.device)
    if given is None or given.dtype != torch.int64 or given.shape != x.shape[:1]:
        got = None if given is None else f"{given.dtype} of shape {tuple(given.shape)}"
        raise ValueError(f"labels must be given, int64 of shape ({len(x)},), or one label to all; got {got}")
    if bool(((given < 0) | (given >= classes)).any()):
        raise ValueError(f"labels must be in [0, {classes - 1}]; got {given.min()} to {given.max()}")
    return given

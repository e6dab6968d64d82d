"""Sizes of a distillation, `--preset`, by the size of the network."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import NamedTuple

from sdesig.commands.options import CutPathFlags, DistillFlags


class Preset(NamedTuple):
    """Options that a preset sets."""

    iterations: int
    evaluations: int
    steps: tuple[int, int]
    teacher_steps: int


SIZES = {"small": 1_000_000, "medium": 20_000_000}
"""Most parameters of a network of a size; "large" has no bound."""
PRESETS = {
    "quick": {
        "small": Preset(400, 2048, (4, 16), 64),
        "medium": Preset(200, 256, (4, 16), 64),
        "large": Preset(100, 64, (4, 16), 64),
    },
    "study": {
        "small": Preset(4000, 2048, (4, 16), 64),
        "medium": Preset(2000, 512, (4, 20), 64),
        "large": Preset(1000, 256, (4, 20), 64),
    },
    "full": {
        "small": Preset(10_000, 2048, (4, 32), 512),
        "medium": Preset(20_000, 1024, (4, 32), 128),
        "large": Preset(20_000, 1024, (4, 32), 128),
    },
}
"""quick shows whether a student gains at all; study is about as long as the committed studies trained; full is the
defaults for small networks, and for others what a GPU does in a day or more."""


@dataclass(frozen=True)
class Given:
    """Which options a user has given, of those that a preset sets."""

    names: frozenset[str] = frozenset()


def size_of(parameters: int) -> str:
    """The size of a network with a number of parameters."""
    return next((name for name, most in SIZES.items() if parameters <= most), "large")


def with_preset(
    name: str, parameters: int, given: Collection[str], flags: DistillFlags, teacher_paths: CutPathFlags
) -> tuple[DistillFlags, CutPathFlags]:
    """The flags with the options of a preset for a network of so many parameters, but for those that were given."""
    values = {key: value for key, value in PRESETS[name][size_of(parameters)]._asdict().items() if key not in given}
    iterations = values.pop("iterations", flags.training.iterations)
    teacher_steps = values.pop("teacher_steps", teacher_paths.teacher_steps)
    training = replace(flags.training, iterations=iterations)
    return replace(flags, training=training, **values), replace(teacher_paths, teacher_steps=teacher_steps)

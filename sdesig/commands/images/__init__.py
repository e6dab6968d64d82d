"""The commands of `sdesig images`, one file each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Union

import tyro

from sdesig.commands.images.cache import CachePaths
from sdesig.commands.images.distill import DistillImages
from sdesig.commands.images.evaluate import EvaluateImages
from sdesig.commands.images.sample import SampleImages
from sdesig.commands.images.train_teacher import TrainImageTeacher

COMMANDS: Mapping[str, Any] = {
    "train-teacher": TrainImageTeacher,
    "cache": CachePaths,
    "distill": DistillImages,
    "sample": SampleImages,
    "evaluate": EvaluateImages,
}
if TYPE_CHECKING:
    Command = Any
else:
    Command = Union[tuple(Annotated[kind, tyro.conf.subcommand(name)] for name, kind in COMMANDS.items())]  # noqa: UP007


@dataclass(frozen=True)
class Images:
    """Image models: train a teacher, distil it or one of diffusers, sample, and measure (extra `images`)."""

    command: tyro.conf.OmitArgPrefixes[tyro.conf.OmitSubcommandPrefixes[Command]]
    """What to do."""

    def run(self) -> None:
        """Run the command."""
        self.command.run()

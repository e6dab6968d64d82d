"""The command line, `sdesig` or `python -m sdesig`."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import tyro

from sdesig.commands.config_file import with_config
from sdesig.commands.demo import Demo
from sdesig.commands.distill import Distill
from sdesig.commands.evaluate import Evaluate
from sdesig.commands.floor import Floor
from sdesig.commands.sample import Sample
from sdesig.commands.tour import Tour
from sdesig.commands.train_teacher import TrainTeacher
from sdesig.commands.validate import Validate

COMMANDS: Mapping[str, Any] = {
    "demo": Demo,
    "tour": Tour,
    "train-teacher": TrainTeacher,
    "distill": Distill,
    "sample": Sample,
    "evaluate": Evaluate,
    "floor": Floor,
    "validate": Validate,
}
INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: what a user can get wrong is one line on standard error and exit status 2; 130 if interrupted."""
    failure = _run(sys.argv[1:] if arguments is None else list(arguments))
    if failure is not None:
        status, message = failure
        print(f"sdesig: {message}", file=sys.stderr)
        sys.exit(status)


def _run(arguments: list[str]) -> tuple[int, str] | None:
    """Run a command; on failure return exit status and message. Progress bars end when the exception is let go here."""
    try:
        if arguments and hasattr(COMMANDS.get(arguments[0]), "config"):
            arguments = [arguments[0], *with_config(COMMANDS[arguments[0]], arguments[1:])]
        tyro.extras.subcommand_cli_from_dict(dict(COMMANDS), prog="sdesig", description=__doc__, args=arguments).run()
    except (ValueError, TypeError, OSError, FloatingPointError) as error:
        return 2, " ".join(str(error).splitlines())
    except KeyboardInterrupt:
        return INTERRUPTED, (
            "interrupted; train-teacher and distill go on from their last checkpoint if the same command is given again"
        )
    return None

"""The command line, `sdesig` or `python -m sdesig`."""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, redirect_stdout
from typing import Any

import tyro

from sdesig.commands.config_file import with_config
from sdesig.commands.demo import Demo
from sdesig.commands.distill import Distill
from sdesig.commands.evaluate import Evaluate
from sdesig.commands.floor import Floor
from sdesig.commands.images import COMMANDS as IMAGE_COMMANDS
from sdesig.commands.images import Images
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
    "images": Images,
    "validate": Validate,
}
IMAGE_PACKAGES = ("PIL", "diffusers", "torchmetrics", "accelerate")


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: what a user can get wrong is one line on standard error and exit status 2.

    Interrupted, it says what is kept, if anything is: exit status 130, or 143 by SIGTERM.
    """
    others = os.environ.get("RANK", "0") != "0"  # of several processes the first one speaks
    with redirect_stdout(io.StringIO()) if others else nullcontext():
        failure = _run(sys.argv[1:] if arguments is None else list(arguments))
    if failure is not None:
        status, message = failure
        print(f"sdesig: {message}", file=sys.stderr)
        sys.exit(status)


def _run(arguments: list[str]) -> tuple[int, str] | None:
    """Run a command; on failure return exit status and message. Progress bars end when the exception is let go here."""
    try:
        words, command = _command(arguments)
        if hasattr(command, "config"):
            arguments = [*arguments[:words], *with_config(command, arguments[words:])]
        tyro.extras.subcommand_cli_from_dict(dict(COMMANDS), prog="sdesig", description=__doc__, args=arguments).run()
    except (ValueError, TypeError, OSError, FloatingPointError, MemoryError) as error:
        return 2, " ".join(str(error).splitlines())
    except ImportError as error:
        if error.name is not None and error.name.partition(".")[0] not in IMAGE_PACKAGES:
            raise
        missing = str(error) if error.name is None else f"{error.name} is not installed: pip install 'sdesig[images]'"
        return 2, " ".join(missing.splitlines())
    except KeyboardInterrupt as error:
        return 128 + getattr(error, "number", signal.SIGINT), f"interrupted; {error}" if str(error) else "interrupted"
    return None


def _command(arguments: list[str]) -> tuple[int, Any]:
    """How many of the arguments name the command, and its dataclass."""
    names = arguments[: 2 if arguments[:1] == ["images"] else 1]
    commands = IMAGE_COMMANDS if len(names) == 2 else COMMANDS
    return len(names), commands.get(names[-1]) if names else None

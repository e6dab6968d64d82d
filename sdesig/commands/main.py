"""The command line, `sdesig` or `python -m sdesig`. SDESIG_TRACEBACK=1 shows where an error comes from."""

from __future__ import annotations

import io
import os
import signal
import sys
import traceback
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, redirect_stdout
from typing import Any

import tyro

from sdesig._files import reason
from sdesig.commands.config_file import unguarded, with_config
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
TRACEBACK = "SDESIG_TRACEBACK"
"""Environment variable: if it is neither empty nor 0, tracebacks are shown."""
EXPECTED = (ValueError, TypeError, OSError, FloatingPointError, MemoryError, ImportError)
"""What bad input raises; of other exceptions the kind is named too."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: an error is one line on standard error and exit status 2.

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
        given = tyro.extras.subcommand_cli_from_dict(dict(COMMANDS), prog="sdesig", description=__doc__, args=arguments)
        unguarded(given).run()
    except Exception as error:
        if os.environ.get(TRACEBACK, "0") not in ("", "0"):
            traceback.print_exc()
        return 2, _message(error)
    except KeyboardInterrupt as error:
        return 128 + getattr(error, "number", signal.SIGINT), f"interrupted; {error}" if str(error) else "interrupted"
    return None


def _message(error: Exception) -> str:
    """One line."""
    if isinstance(error, ImportError) and error.name is not None:
        if error.name.partition(".")[0] in IMAGE_PACKAGES:
            return f"{error.name} is not installed: pip install 'sdesig[images]'"
        return f"{reason(error)}; {TRACEBACK}=1 shows where"
    if isinstance(error, EXPECTED):
        return reason(error)
    return f"{type(error).__name__}: {reason(error)}; {TRACEBACK}=1 shows where"


def _command(arguments: list[str]) -> tuple[int, Any]:
    """How many of the arguments name the command, and its dataclass."""
    names = arguments[: 2 if arguments[:1] == ["images"] else 1]
    commands = IMAGE_COMMANDS if len(names) == 2 else COMMANDS
    return len(names), commands.get(names[-1]) if names else None

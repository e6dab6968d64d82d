"""The command line, `sdesig` or `python -m sdesig`.

An error is one line; SDESIG_TRACEBACK=1 shows where it comes from. `--version` prints the version,
`--tyro-print-completion {bash,zsh,tcsh}` a script for your shell that completes commands and options.
"""

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

from sdesig import __version__
from sdesig._files import reason
from sdesig.commands.cache import Cache
from sdesig.commands.command_line import flags_of, parse
from sdesig.commands.demo import Demo
from sdesig.commands.distill import Distill
from sdesig.commands.evaluate import Evaluate
from sdesig.commands.floor import Floor
from sdesig.commands.sample import Sample
from sdesig.commands.teacher import Teacher
from sdesig.commands.tour import Tour

COMMANDS: Mapping[str, Any] = {
    "teacher": Teacher,
    "distill": Distill,
    "sample": Sample,
    "evaluate": Evaluate,
    "floor": Floor,
    "cache": Cache,
    "demo": Demo,
    "tour": Tour,
}
FORMER = {
    "train-teacher": "sdesig teacher",
    "images": "sdesig teacher, distill, sample, evaluate and cache, for images too",
    "validate": "python -m validation, in a source checkout",
}
"""Earlier commands, and what they are now."""
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
        name = arguments[0] if arguments else ""
        if name == "--version":
            print(f"sdesig {__version__}")
        elif name in COMMANDS:
            parse(COMMANDS[name], arguments[1:], f"sdesig {name}").run()
        elif name in FORMER:
            raise ValueError(f"{name} is now {FORMER[name]}")
        else:  # help, a completion script, or a mistake
            flags: dict[str, Any] = {name: flags_of(kind) for name, kind in COMMANDS.items()}
            tyro.extras.subcommand_cli_from_dict(flags, prog="sdesig", description=__doc__, args=arguments)
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

"""The command line, `sdesig` or `python -m sdesig`.

An error is one line; SDESIG_TRACEBACK=1 shows where it comes from. `--version` prints the version,
`--tyro-print-completion {bash,zsh,tcsh}` a script for your shell that completes commands and options.
"""

# A command is a frozen dataclass with a `run`. Its fields, and those of the groups of fields in it, are its options:
# flags in two groups, the usual and the rare ones, or entries of a file, --config. Their docstrings are the help texts.
# Its `FOR_IMAGES` are the defaults that are others where data or teacher are images; its `PRESET` are the options that
# presets set, of which its field `given` has those that a user has given.

from __future__ import annotations

import argparse
import ast
import inspect
import io
import logging
import os
import signal
import sys
import textwrap
import traceback
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, make_dataclass, replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import tyro

from sdesig import __version__
from sdesig._files import FileError, read_json, reason
from sdesig._install import install_command
from sdesig.commands.cache import Cache
from sdesig.commands.demo import Demo
from sdesig.commands.distill import Distill
from sdesig.commands.evaluate import Evaluate
from sdesig.commands.floor import Floor
from sdesig.commands.inputs import shows_images
from sdesig.commands.presets import Given
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
RARE = frozenset(
    (
        *("size", "channels", "image_cache", "decoder", "network", "flip", "precision", "parts", "batch", "perceptual"),
        *("teacher_scheme", "teacher_steps", "teacher_cache", "paths", "window", "recompute", "only_coefficients"),
        *("rank", "cell", "floor_groups", "first_seed", "verdict_seeds"),
    )
)
"""Options in the second group of a command's flags."""
FILE_ONLY = frozenset(
    (
        *("label", "crop", "max_corrupt", "reference_samples", "teacher_cells", "local_share", "log_sigma", "compile"),
        *("width", "blocks", "patch", "attention", "layers", "weight_decay", "warmup", "ema", "clip"),
        *("checkpoint_every", "threads"),
    )
)
"""Options that are rarer still: a file has them, and no flag."""
RENAMED = {
    "baselines": "samplers, a list of keys, empty for none",
    "cache": "teacher_cache, of a teacher's paths, or image_cache, of decoded images",
    "groups": "floor_groups",
    "most_steps": "steps, the fewest and the most",
    "reference_file": "reference, a kind or a file",
}
"""Earlier names of options, and what they are now."""
GUARD = "\u2060"
"""Before a value of a file that begins with a dash: so it is no option. It has no width, where a message shows it."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: an error is one line on standard error and exit status 2.

    Interrupted, it says what is kept, if anything is: exit status 130, or 143 by SIGTERM.
    """
    others = os.environ.get("RANK", "0") != "0"  # of several processes the first one speaks
    with redirect_stdout(io.StringIO()) if others else _shown_log():
        failure = _run(sys.argv[1:] if arguments is None else list(arguments))
    if failure is not None:
        status, message = failure
        print(f"sdesig: {message}", file=sys.stderr)
        sys.exit(status)


@contextmanager
def _shown_log() -> Iterator[None]:
    """Within the block, show on standard error what the package logs."""
    log, handler = logging.getLogger("sdesig"), logging.StreamHandler()
    before = log.level
    log.setLevel(logging.INFO)
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(before)


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
            return f"{error.name} is not installed: {install_command('images')}"
        return f"{reason(error)}; {TRACEBACK}=1 shows where"
    if isinstance(error, EXPECTED):
        return reason(error)
    return f"{type(error).__name__}: {reason(error)}; {TRACEBACK}=1 shows where"


@dataclass(frozen=True)
class Option:
    """An option of a command.

    Attributes:
        name: of the field.
        kind: its type; `hint` has tyro's markers too.
        default: MISSING if it must be given; `of_images` is that for images.
        text: what it is.
        preset: whether presets set it.
    """

    name: str
    kind: Any
    hint: Any
    default: Any
    of_images: Any
    text: str
    preset: bool = False

    @property
    def late(self) -> bool:
        """Whether its default is known only when all flags are."""
        return self.preset or self.of_images != self.default

    @property
    def positional(self) -> bool:
        """Whether it is given without its name."""
        return tyro.conf.Positional in getattr(self.hint, "__metadata__", ())

    def flag(self, given: Mapping[str, Any]) -> tuple[str, Any] | tuple[str, Any, Any]:
        """The field of a dataclass for tyro; its default is what a file gives, if it does."""
        hint, default = self.hint, given.get(self.name, self.default)
        shown: dict[str, Any] = {"help": self.text}
        if self.name not in given and self.late:
            of_images = f", of images {_words(self.of_images)}" if self.of_images != self.default else ""
            shown["help_behavior_hint"] = f"(default: {_words(self.default)}{of_images})"
            hint, default = hint | None, None
        elif default in (None, ()):
            shown["help_behavior_hint"] = ""
        if self.positional or default is None:
            shown["metavar"] = _metavar(self.kind, self.name.removesuffix("s").upper() if self.positional else "")
        annotated: Any = Annotated[hint, tyro.conf.arg(**shown)]
        return (self.name, annotated) if default is MISSING else (self.name, annotated, field(default=default))


def options_of(
    kind: type, given: Any = None, of_images: Mapping[str, Any] | None = None, preset: Collection[str] = ()
) -> Iterator[Option]:
    """The options of a command, or of a group of which one is given."""
    markers, kinds, texts = get_type_hints(kind, include_extras=True), get_type_hints(kind), _documented(kind)
    others, preset = getattr(kind, "FOR_IMAGES", of_images or {}), getattr(kind, "PRESET", preset)
    for part in fields(kind):
        default = part.default if part.default_factory is MISSING else part.default_factory()
        default = default if given is None else getattr(given, part.name)
        if not is_dataclass(kinds[part.name]):
            name, hint = part.name, markers[part.name]
            yield Option(name, kinds[name], hint, default, others.get(name, default), texts[name], name in preset)
        elif not _fixed(markers[part.name]):
            yield from options_of(kinds[part.name], default, others, preset)


def parse(kind: type, arguments: Sequence[str], prog: str = "sdesig") -> Any:
    """The command of a kind that arguments, without its name, and the file that --config names make; flags win.

    Raises:
        FileNotFoundError, FileError: no such file, not a JSON object, names that are no options of the command, values
            that no option has.
        ValueError: an option that only a file has, an empty value.
        SystemExit: arguments that tyro refuses, or a question for help.
    """
    options = {option.name: option for option in options_of(kind)}
    for before, argument in pairwise(("", *arguments)):
        name = argument.partition("=")[0]
        if argument == "" or (name.startswith("--") and argument == f"{name}="):
            raise ValueError(f"{(name or before or 'an argument').lstrip('-')} must not be empty")
    for name in FILE_ONLY & options.keys():
        flag = f"--{name.replace('_', '-')}"
        if any(argument.partition("=")[0] == flag for argument in arguments):
            raise ValueError(f"{name} has no flag; give it in a JSON file, --config FILE")
    given = _read(options, arguments, prog)
    parsed: Any = tyro.cli(flags_of(kind, given), args=list(arguments), prog=prog)
    found = {**given, **vars(parsed), **(vars(parsed.rare) if hasattr(parsed, "rare") else {})}
    unset = [name for name, option in options.items() if option.late and found.get(name) is None]
    others = any(options[name].of_images != options[name].default for name in unset)
    images = others and shows_images(found.get("teacher", "digits"), found["data"])
    defaults = {name: option.of_images if images else option.default for name, option in options.items()}
    made = _made(kind, {**defaults, **{name: value for name, value in found.items() if name not in unset}})
    if not hasattr(kind, "PRESET"):
        return made
    return replace(made, given=Given(frozenset(kind.PRESET) - {*unset}))


def flags_of(kind: type, given: Mapping[str, Any] | None = None) -> type:
    """A dataclass of a command's flags for tyro, with the rare ones in a group; `given` are other defaults."""
    options = list(options_of(kind))
    flags = {option.name: option.flag(given or {}) for option in options if option.name not in FILE_ONLY}
    parts: list[Any] = [flag for name, flag in flags.items() if name not in RARE]
    if rare := [flag for name, flag in flags.items() if name in RARE]:
        more = ", ".join(option.name for option in options if option.name in FILE_ONLY)
        text = f"A --config file may have all these, and {more}."
        group: Any = make_dataclass("Rare", rare, namespace={"__doc__": text}, frozen=True)
        flat: Any = tyro.conf.OmitArgPrefixes
        parts.append(("rare", flat[group], field(default_factory=group)))
    parts.sort(key=len)  # what must be given comes first
    return make_dataclass(kind.__name__, parts, namespace={"__doc__": kind.__doc__}, frozen=True)


def _read(options: Mapping[str, Option], arguments: Sequence[str], prog: str) -> dict[str, Any]:
    """Values of the file that --config names, by the names of the options."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", nargs="?")
    file = parser.parse_known_args(arguments)[0].config if "config" in options else None
    if file is None:
        return {}
    known, found, words = sorted(options.keys() - {"config"}), {}, []
    for key, value in read_json(Path(file)).items():
        name = key.replace("-", "_")
        if name not in known:
            now = f"now it is {RENAMED[name]}" if name in RENAMED else f"the options are {', '.join(known)}"
            raise FileError(f"{file}: {key!r} is not an option; {now}")
        values = value if isinstance(value, list) else [value]
        if "" in values:  # a path of no name would be the folder one is in
            raise FileError(f"{file}: {key} must not be empty")
        if not all(isinstance(part, str | int | float | None) for part in values):
            raise FileError(f"{file}: {key} must be a string, a number, true, false, null or a list of these")
        if (options[name].kind is bool) != isinstance(value, bool):
            raise FileError(f"{file}: {key} must {'' if options[name].kind is bool else 'not '}be true or false")
        if isinstance(value, bool):
            found[name] = value
        else:
            words += [f"--{name.replace('_', '-')}", *map(_guarded, values)]
    named = [name for name in options if f"--{name.replace('_', '-')}" in words]
    kind: Any = make_dataclass("File", [(name, options[name].kind) for name in named], frozen=True)
    return found | {name: _unguarded(value) for name, value in vars(tyro.cli(kind, args=words, prog=prog)).items()}


def _made(kind: type, values: Mapping[str, Any]) -> Any:
    """A command or a group with the values of its options."""
    markers, kinds = get_type_hints(kind, include_extras=True), get_type_hints(kind)
    made = {}
    for part in fields(kind):
        if not is_dataclass(kinds[part.name]):
            made[part.name] = values[part.name]
        elif not _fixed(markers[part.name]):
            made[part.name] = _made(kinds[part.name], values)
    return kind(**made)


def _fixed(hint: Any) -> bool:
    """Whether a group is no options."""
    return tyro.conf.Fixed in getattr(hint, "__metadata__", ())


@cache
def _documented(kind: type) -> dict[str, str]:
    """The docstrings below the fields of a dataclass and its bases, each in one line."""
    found = {}
    for base in reversed(kind.__mro__):
        if "__dataclass_fields__" in vars(base):
            (tree,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
            for part, text in pairwise(ast.iter_child_nodes(tree)):
                match part, text:
                    case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(words))):
                        found[name] = " ".join(words.split())
    return found


def _metavar(kind: Any, name: str = "") -> str:
    """What stands for a value of a type in the help, by default the name of the type; never None."""
    parts = [part for part in get_args(kind) if part not in (type(None), ...)]
    if get_origin(kind) is Literal:
        return f"{{{','.join(parts)}}}"
    words = " ".join(_metavar(part, name) for part in parts)
    if parts:
        return f"[{words} ...]" if ... in get_args(kind) else words
    return name or ("PATH" if kind is Path else kind.__name__.upper())


def _words(value: object) -> str:
    """A value as it is given on the command line."""
    return " ".join(map(str, value)) or "none" if isinstance(value, tuple) else str(value)


def _guarded(value: object) -> str:
    """As an argument of the command line."""
    text = str(value)
    return GUARD + text if isinstance(value, str) and text.startswith("-") and not _is_number(text) else text


def _unguarded(value: Any) -> Any:
    """As it was in the file."""
    if isinstance(value, tuple):
        return tuple(map(_unguarded, value))
    return type(value)(str(value).removeprefix(GUARD)) if isinstance(value, str | Path) else value


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True

"""Files that are either whole or not there: written under a temporary name, then renamed. Weights and settings."""

from __future__ import annotations

import glob
import hashlib
import json
import math
import os
import platform
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from reprlib import Repr
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

CONFIG, WEIGHTS = "config.json", "weights.safetensors"
_NAMES = ("name", "source", "file")
_PREFIX = ".sdesig-"
"""Of the names of temporary files; then host, process and a random number, then the name that they will have."""
_HOST = hashlib.sha256(platform.node().encode()).hexdigest()[:8]
_A_DAY = 24 * 3600
_writing: set[str] = set()
"""Temporary files of this process, of all its threads."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary name in the folder of `path` (made if missing); on success the file is renamed to `path`.

    It is on the disk before it has the name. Temporary files of this name that killed processes left are removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for other in path.parent.glob(f"{_PREFIX}*-{glob.escape(path.name)}"):
        if _is_left(other):
            other.unlink(missing_ok=True)
    temporary = _temporary(path)
    _writing.add(temporary.name)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)
        _writing.discard(temporary.name)


def _temporary(path: Path) -> Path:
    """A name that no other process or thread, here or on another host, gives."""
    return path.with_name(f"{_PREFIX}{_HOST}-{os.getpid()}-{secrets.token_hex(4)}-{path.name}")


def _is_left(temporary: Path) -> bool:
    """Whether nobody writes a temporary file any more: its process is dead, or on another host it has not for a day."""
    host, process, *_ = temporary.name.removeprefix(_PREFIX).split("-")
    if host == _HOST and os.name == "posix" and process.isdecimal():
        if int(process) == os.getpid():  # of an earlier process, if not of a thread of this one
            return temporary.name not in _writing
        try:
            os.kill(int(process), 0)
        except ProcessLookupError:
            return True
        except (OSError, OverflowError):
            pass
    try:
        return time.time() - temporary.stat().st_mtime > _A_DAY
    except OSError:  # renamed or removed by now
        return False


def _sync_folder(folder: Path) -> None:
    """Put the names in a folder on the disk, where the operating system allows it."""
    try:
        opened = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(opened)
    except OSError:
        pass
    finally:
        os.close(opened)


def write_json(path: Path, value: object) -> None:
    """Write a JSON file, whole."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; raise ValueError where there is none."""
    try:
        value = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} must hold a JSON object")
    return value


def file_digest(path: Path) -> str:
    """sha256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file, whole. Tensors that share memory, as tied weights do, are each written in full."""
    plain, seen = {}, set()
    for name, value in tensors.items():
        plain[name] = value.detach().cpu().contiguous()
        memory = plain[name].untyped_storage().data_ptr()
        if memory in seen:
            plain[name] = plain[name].clone()
        seen.add(memory)
    with replacing(path) as temporary:
        temporary.write_bytes(save(plain))


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file; raise ValueError for anything else, such as a pickle, which is never loaded."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is not a complete safetensors file ({error}); pickles are not loaded") from None


def save_module(folder: Path, config: Mapping[str, object], module: nn.Module) -> None:
    """Write config.json and weights.safetensors to a folder."""
    write_tensors(folder / WEIGHTS, module.state_dict())
    write_json(folder / CONFIG, config)


def load_state(folder: Path, module: nn.Module) -> None:
    """Load the weights of `save_module` into a module.

    Raises:
        FileNotFoundError, ValueError: no such file, not safetensors, unknown or missing names, wrong shapes or dtypes,
            values that are not finite.
    """
    path = folder / WEIGHTS
    tensors, wanted = read_tensors(path), module.state_dict()
    for what, names in (("unknown", tensors.keys() - wanted.keys()), ("missing", wanted.keys() - tensors.keys())):
        if names:
            raise ValueError(f"{path} does not fit its config.json; {what}: {', '.join(sorted(names))}")
    for name, value in tensors.items():
        if value.shape != wanted[name].shape or value.dtype != wanted[name].dtype:
            raise ValueError(
                f"{path}: {name} must be {wanted[name].dtype} of shape {tuple(wanted[name].shape)}; it is "
                f"{value.dtype} of shape {tuple(value.shape)}"
            )
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise ValueError(f"{path}: {name} is not finite")
    module.load_state_dict(tensors)


def load_config(folder: Path, kind: str) -> dict[str, Any]:
    """The config.json of a folder; raise unless it is of the kind that is asked for.

    Raises:
        FileNotFoundError, ValueError: no such folder or file, not JSON, another kind.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder")
    if not (folder / CONFIG).is_file():
        raise FileNotFoundError(f"{folder} has no {CONFIG}")
    config = read_json(folder / CONFIG)
    if config.get("type") != kind:
        raise ValueError(f"{folder} must hold a {kind}; its {CONFIG} says {config.get('type')!r}")
    return config


def record_options(path: Path, options: Mapping[str, object], *, may_grow: Sequence[str] = ()) -> None:
    """Write a run's options as JSON; where some are there already, raise ValueError unless they are the same.

    Names do not count of what has a sha256: see `without_names`.

    Args:
        path: of the file.
        options: JSON-serializable.
        may_grow: numbers, named as in "training.iterations", that may be larger than before; then they are written.
    """
    resolved = json.loads(json.dumps(options))
    if not path.exists():
        write_json(path, resolved)
        return
    before, now = (_flat(without_names(value)) for value in (read_json(path), resolved))
    differing = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
    grown = [name for name in differing if name in may_grow and before.get(name, math.inf) < now.get(name, 0)]
    if len(grown) < len(differing):
        shown = Repr()
        shown.maxstring = 60
        told = [f"{name}: {shown.repr(before.get(name))}, now {shown.repr(now.get(name))}" for name in differing]
        raise ValueError(f"{path.parent} has a run with other options ({'; '.join(told)}); give another folder")
    if grown:
        write_json(path, resolved)


def without_names(value: Any) -> Any:
    """A JSON value without the names of what has a sha256, by which it is known: a file has several paths."""
    if isinstance(value, Mapping):
        unnamed = value.keys() - (_NAMES if value.get("sha256") else ())
        return {key: without_names(part) for key, part in value.items() if key in unnamed}
    return [without_names(part) for part in value] if isinstance(value, list | tuple) else value


def _flat(value: Mapping[str, Any]) -> dict[str, Any]:
    """A nested dictionary as one, with the keys "outer.inner"."""
    flat: dict[str, Any] = {}
    for key, part in value.items():
        inner = _flat(part) if isinstance(part, dict) and part else {}
        flat |= {f"{key}.{name}": of_it for name, of_it in inner.items()} or {key: part}
    return flat

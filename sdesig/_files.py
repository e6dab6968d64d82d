"""Files that are complete or absent, first written under a temporary name; readers whose errors name the file."""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import os
import platform
import secrets
import tempfile
import time
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

_PREFIX = ".sdesig-"
"""Beginning of the names of temporary files; host, process, a random number and the final name follow."""
_HOST = hashlib.sha256(platform.node().encode()).hexdigest()[:8]
_A_DAY = 24 * 3600
_writing: set[str] = set()
"""Names of the temporary files that this process writes now, in all its threads."""
_SHOWN = 400
"""Largest number of characters of a reason in a message."""


class FileError(ValueError):
    """An error of a file: one line that begins with the file's name."""


def reason(error: BaseException) -> str:
    """The message of an exception in one line, never empty."""
    text = " ".join(str(error).partition("Exception raised from")[0].split())  # there torch's C++ frames begin
    if isinstance(error, KeyError) and len(error.args) == 1:
        text = f"it has no {error.args[0]!r}"
    elif isinstance(error, RecursionError):
        text = "it is nested too deeply"
    elif isinstance(error, MemoryError):
        text = text or "there is not enough memory for it"
    elif not text:
        text = type(error).__name__
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]} ..."


@contextmanager
def reading(path: str | Path, what: str = "cannot be used") -> Iterator[None]:
    """Turn everything that reading a file can raise into one line that begins with its name.

    Formats and those who check what was in a file raise almost anything for damaged ones. A `FileError` inside, errors
    of the operating system that name a file, and what is missing on this machine (ImportError) pass as they are.

    Args:
        path: the file.
        what: words that follow the file's name, before the reason.

    Raises:
        FileError: for every other Exception.
    """
    try:
        yield
    except (FileError, ImportError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.filename is not None:
            raise
        raise FileError(f"{path} {what}: {reason(error)}") from error


def check_output(name: str, path: Path, *, folder: bool = False) -> None:
    """Find out before any work whether a file, or files in a folder, can be written; nothing is left behind.

    Args:
        name: name of the argument.
        path: the file or folder. It need not exist, nor the folders above it.
        folder: whether it is a folder.

    Raises:
        OSError: it cannot be written, and why.
    """
    if path.exists() and path.is_dir() != folder:
        kind = "folder" if folder else "file"
        raise (NotADirectoryError if folder else IsADirectoryError)(f"{name} must be a {kind}; {path} is none")
    there = path if folder else path.parent
    while not there.exists():
        there = there.parent
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise type(error)(f"{name} cannot be written: {path} ({error.strerror})") from error


@contextmanager
def naming_a_full_disk(folder: Path) -> Iterator[None]:
    """Turn the error of a full disk into one that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        message = "disk full; complete files stay valid, nothing else is left: free space or name another folder than"
        raise OSError(error.errno, message, str(folder)) from None


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
    except OSError as error:
        if error.filename == str(temporary):
            error.filename, error.filename2 = str(path), None
        raise
    finally:
        temporary.unlink(missing_ok=True)
        _writing.discard(temporary.name)


def _temporary(path: Path) -> Path:
    """A name that no other process or thread, here or on another host, gives."""
    return path.with_name(f"{_PREFIX}{_HOST}-{os.getpid()}-{secrets.token_hex(4)}-{path.name}")


def _is_left(temporary: Path) -> bool:
    """Whether a temporary file is abandoned: its process is dead or, on another host, has not written for a day."""
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
    with suppress(OSError):
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


def write_json(path: Path, value: object) -> None:
    """Write a JSON file: afterwards it is complete or as it was."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; raise FileError where there is none."""
    with reading(path, "is not JSON"):
        value = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(value, dict):
        raise FileError(f"{path} must hold a JSON object")
    return value


def file_digest(path: Path) -> str:
    """The sha256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()


def tensor_digest(tensors: Iterable[Tensor]) -> str:
    """The sha256 of the values of tensors, one after the other."""
    digest = hashlib.sha256()
    for value in tensors:
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file, complete or not at all. Tensors that share memory, as tied weights do, are each written
    in full."""
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
    """Read a safetensors file; raise FileError for anything else, such as a pickle, which is never loaded."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    with reading(path):
        try:
            return load_file(path)
        except SafetensorError as error:
            raise FileError(f"{path} is not a complete safetensors file ({error}); pickles are not loaded") from error


@contextmanager
def open_arrays(path: Path, what: str = "cannot be used") -> Iterator[Any]:
    """The arrays of a .npz file, as `np.load` gives them; pickles are not loaded. Reading them belongs in the block.

    Args:
        path, what: the file, and the words before a reason, see `reading`.

    Raises:
        FileNotFoundError, FileError: no such file; not a complete .npz file; whatever else is raised in the block.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    with reading(path, what), path.open("rb") as stream:
        if not zipfile.is_zipfile(stream):
            raise ValueError("it is not a complete .npz file")
        stream.seek(0)
        with np.load(stream, allow_pickle=False) as arrays:
            yield arrays


def take_array(arrays: Any, name: str) -> np.ndarray:
    """One array of `open_arrays`.

    Raises:
        ValueError: a member of the archive that is no array.
    """
    value = arrays[name]
    if not isinstance(value, np.ndarray):
        raise ValueError(f"{name} is not an array in numpy's format")
    return value

"""Caches of data: a file, and beside it a JSON file with the key of its content, which is written last."""

from __future__ import annotations

import errno
import hashlib
import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from sdesig._files import read_json, write_json
from sdesig._records import without_names

T = TypeVar("T")
Record = dict[str, Any]


def cached(
    folder: str | Path | None,
    name: str,
    key: Mapping[str, object],
    *,
    make: Callable[[], T],
    write: Callable[[Path, T], Record],
    read: Callable[[Path, Record], T],
) -> T:
    """The value in the cache for `key`, or the value of `make`, which is then kept.

    Args:
        folder: folder of the cache; None for no cache.
        name: name of this kind of value, with which its files begin.
        key: all that the value depends on; JSON-serializable. Names of objects that have a sha256 do not count.
        make: makes the value.
        write: writes the value to files whose names start with a path, completely or not at all, and returns what
            `read` needs.
        read: reads and checks the value, and raises ValueError if it does not fit. A value that it refuses is made
            again, with a warning.

    Raises:
        OSError: a full disk; whatever was complete in the cache stays valid.
    """
    if folder is None:
        return make()
    text = json.dumps(without_names(key), sort_keys=True)
    stem = Path(folder) / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    file = stem.with_suffix(".json")
    if file.exists():
        try:
            record = read_json(file)
            if record.pop("key", None) != json.loads(text):
                raise ValueError("it is of something else")
            return read(stem, record)
        except (OSError, ValueError, LookupError, TypeError, EOFError) as error:
            warnings.warn(f"{file} is damaged and made again: {error}", stacklevel=3)
    made = make()
    with naming_a_full_disk(stem.parent):
        record = write(stem, made)
        write_json(file, {"key": json.loads(text), **record})
    return read(stem, record)


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

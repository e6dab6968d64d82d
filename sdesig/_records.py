"""Options beside results: a run that goes on must share them, and what was made of data before is found by them.

A cache is a file, and beside it a JSON file with the key of its content, which is written last.
"""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from reprlib import Repr
from typing import Any, TypeVar

from sdesig._files import naming_a_full_disk, read_json, write_json

_NAMES = ("name", "source", "file")
T = TypeVar("T")
Record = dict[str, Any]


def forget_options(path: Path, results: str, *, key: str) -> None:
    """Remove the options of a run that has no results in its folder yet: they bind no other run of its kind.

    Args:
        path: file of the options.
        results: pattern of the names of results.
        key: a key of the options of this kind of run. Options of another kind, with other results, stay.
    """
    if path.exists() and key in read_json(path) and not any(path.parent.glob(results)):
        path.unlink()


def record_options(path: Path, options: Mapping[str, object], *, may_grow: Sequence[str] = ()) -> None:
    """Write a run's options as JSON; where some are there already, raise ValueError unless they are the same.

    Names of objects that have a sha256 do not count: see `without_names`.

    Args:
        path: the file.
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


def without_names(value: Any) -> Any:
    """A JSON value without the names of objects that have a sha256, which identifies them: a file has several paths."""
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

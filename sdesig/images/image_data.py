"""Images as data, from a folder, an archive, a file of arrays, or a data set of a hub: decoded once, checked, brought
to one shape, and kept in a file that later runs map into memory. Nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
import importlib
import re
import tarfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps

from sdesig._checks import check_choice, check_integer
from sdesig._files import open_arrays, reading, replacing, take_array
from sdesig._records import Record, cached
from sdesig.evaluation.pixels import ImageSet, pixel_digest

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
TARS = (".tar", ".tar.xz", ".tar.gz", ".tgz", ".txz")
_FORMATS = ("PNG", "JPEG", "BMP", "WEBP")
_PNG_DEPTH = 24
"""Where a PNG file says how many bits a channel has."""
_ARRAY = re.compile(r"(?P<path>.+\.npz):(?P<name>[^:/\\]+)")
_HUB = re.compile(r"hf:(?P<name>[^:]+)(?::(?P<split>.+))?")
_GREY = ("1", "L", "LA", "La")
_NAMED = 5
"""Most names of images in a message."""
_RULES = 2
"""Version of how pixels are made from a source: a cache of another version is not used."""

Entry = tuple[str, Callable[[], Image.Image]]
"""The name of an image, and a function that decodes it, or raises if it is broken."""


class Source(NamedTuple):
    """Images that are not read yet.

    Attributes:
        identity: what changes when they do, as far as can be told without reading them: for a cache. A data set of a
            hub counts as unchanged.
        entries: opens the source and goes through its images, in an order of its own.
    """

    identity: dict[str, object]
    entries: Callable[[], Iterator[Entry]]


def load_images(
    source: str | Path,
    *,
    size: int | None = None,
    crop: int | None = None,
    channels: int | None = None,
    cache: str | Path | None = None,
    max_corrupt: int = 10,
) -> ImageSet:
    """Images of a source, sorted by name.

    Files and folders whose names begin with a dot are left out. An image is turned as its EXIF orientation says. The
    first image of an animation is taken. Images of more than 8 bits a channel are not cut to 8: they count as images
    that cannot be read.

    Args:
        source: a folder, with the folders in it, or a .tar, .tar.xz or .tar.gz, of png, jpg, bmp and webp files; a .npz
            file with one array of uint8 images, (n, h, w), (n, h, w, 1 or 3) or (n, 1 or 3, h, w), or FILE.npz:ARRAY
            for one of several; or "hf:NAME" or "hf:NAME:SPLIT" (train), a data set of the Hugging Face hub.
        size: side to which the centred square of each image is resized (Lanczos, antialiased).
        crop: side of that square in the original, by default the largest; without `size` it is not resized.
        channels: 1 for grey or 3 for RGB, by default what each image has. Transparency is dropped, CMYK becomes RGB by
            PIL's formula, without a colour profile.
        cache: a folder in which the decoded images are kept for the next time. What is there for a source that has
            changed since, or for other options, is not used; what is damaged is made again, with a warning.
        max_corrupt: most images that may be skipped because they cannot be read; a warning names them.

    Raises:
        FileNotFoundError, ModuleNotFoundError, TypeError, ValueError: no such source, a broken archive, no images, more
            than `max_corrupt` that cannot be read, images of different shapes, or smaller than `crop`.
        OSError: the disk of the cache is full; what was complete in it stays valid.
    """
    for name, value in (("size", size), ("crop", crop)):
        if value is not None:
            check_integer(name, value, 1)
    check_choice("channels", channels, (None, 1, 3))
    check_integer("max_corrupt", max_corrupt, 0)
    opened = open_source(source)
    make = partial(_decode, str(source), opened, partial(_fit, size=size, crop=crop, channels=channels), max_corrupt)
    key = {**opened.identity, "rules": _RULES, "size": size, "crop": crop, "channels": channels}
    images = cached(cache, "images", key, make=make, write=_write, read=partial(_read, str(source)))
    _check_skipped(str(source), images.skipped, max_corrupt)
    if images.skipped:
        warnings.warn(f"skipped {_listed(images.skipped)} of {source}, which cannot be read", stacklevel=2)
    return images


def _decode(name: str, source: Source, fit: Callable[[str, Image.Image], np.ndarray], max_corrupt: int) -> ImageSet:
    found: list[tuple[str, np.ndarray]] = []
    skipped: list[str] = []
    for entry, decode in source.entries():
        try:
            image = decode()
            if image.mode.startswith(("I", "F")):
                raise ValueError(f"mode {image.mode}: more than 8 bits")
        except Exception as error:  # decoders raise almost anything on broken files
            skipped.append(f"{entry} ({error})")
            _check_skipped(name, skipped, max_corrupt)
            continue
        pixels = fit(entry, image)
        if found and pixels.shape != found[0][1].shape:
            first, shape = found[0][0], found[0][1].shape
            raise ValueError(
                f"images must have one shape; in {name} {first} has {shape}, {entry} {pixels.shape}: choose size and "
                "channels"
            )
        found.append((entry, pixels))
    if not found:
        reasons = f": skipped {_listed(skipped)}" if skipped else ""
        raise ValueError(f"{name} has no images that can be read ({', '.join(SUFFIXES)}){reasons}")
    found.sort(key=lambda pair: pair[0])
    stacked = torch.from_numpy(np.stack([pixels for _, pixels in found]))
    return ImageSet(stacked, pixel_digest(stacked), name, tuple(sorted(skipped)))


def _fit(name: str, image: Image.Image, *, size: int | None, crop: int | None, channels: int | None) -> np.ndarray:
    """(channels, height, width), uint8."""
    image = image.convert("L" if (channels or (1 if image.mode in _GREY else 3)) == 1 else "RGB")
    if size is not None or crop is not None:
        side = crop or min(image.size)
        if side > min(image.size):
            raise ValueError(f"crop must fit into every image; {name} is {image.width} x {image.height}, crop {side}")
        left, top = (image.width - side) // 2, (image.height - side) // 2
        image = image.crop((left, top, left + side, top + side))
        if size not in (None, side):
            image = image.resize((size, size), Image.Resampling.LANCZOS)
    pixels = np.asarray(image)
    return pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _check_skipped(source: str, skipped: Sequence[str], max_corrupt: int) -> None:
    if len(skipped) > max_corrupt:
        raise ValueError(
            f"{source} must have at most max_corrupt={max_corrupt} broken images; found {_listed(skipped)}"
        )


def _listed(names: Sequence[str]) -> str:
    more = ", ..." if len(names) > _NAMED else ""
    return f"{len(names)} image{'s' if len(names) > 1 else ''}, {', '.join(names[:_NAMED])}{more}"


def _write(stem: Path, images: ImageSet) -> Record:
    with replacing(stem.with_suffix(".npy")) as temporary, temporary.open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": tuple(images.pixels.shape)}
        np.lib.format.write_array_header_1_0(file, header)
        for rows in images.pixels.split(4096):
            file.write(rows.numpy())  # np.save would hide which error it was, a memory map dies of a full disk
    return {"source": images.source, "digest": images.digest, "skipped": list(images.skipped)}


def _read(name: str, stem: Path, record: Record) -> ImageSet:
    # "c": the memory is ours and may be written to, the file is not touched
    pixels = torch.from_numpy(np.load(stem.with_suffix(".npy"), mmap_mode="c", allow_pickle=False))
    if pixels.dtype != torch.uint8 or pixels.ndim != 4 or pixel_digest(pixels) != record["digest"]:
        raise ValueError(f"{stem.with_suffix('.npy').name} does not have the digest that it was written with")
    return ImageSet(pixels, record["digest"], name, tuple(record["skipped"]))


# --- sources ---------------------------------------------------------------------------------------------------------


def open_source(source: str | Path) -> Source:
    """The source that a text or path names; see `sdesig.images.load_images`.

    Raises:
        FileNotFoundError, ValueError: no such file or folder, none of the kinds that are known. What is wrong inside
            shows when the entries are read.
    """
    text, path = str(source), Path(source)
    if hub := _HUB.fullmatch(text):
        name, split = hub["name"], hub["split"] or "train"
        return Source({"hub": name, "split": split}, partial(_hub_entries, name, split))
    if not path.exists() and (array := _ARRAY.fullmatch(text)):
        return _file(Path(array["path"]), {"array": array["name"]}, partial(_array_entries, array=array["name"]))
    if path.is_dir():
        return _folder(path)
    if path.name.lower().endswith(TARS):
        return _file(path, {}, _tar_entries)
    if path.suffix.lower() == ".npz":
        return _file(path, {}, partial(_array_entries, array=None))
    if not path.exists():
        raise FileNotFoundError(f"images must be a folder, a file, or hf:NAME[:SPLIT]; {path} does not exist")
    raise ValueError(f"images must be a folder, {', '.join(TARS)}, .npz[:ARRAY] or hf:NAME[:SPLIT]; got {path}")


def _file(path: Path, more: dict[str, object], entries: Callable[[Path], Iterator[Entry]]) -> Source:
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    status = path.stat()
    identity = {"path": str(path.resolve()), "bytes": status.st_size, "modified_ns": status.st_mtime_ns}
    return Source({**identity, **more}, partial(entries, path))


def _folder(folder: Path) -> Source:
    files = sorted(
        path for path in folder.rglob("*") if _is_image(path.relative_to(folder).as_posix()) and path.is_file()
    )
    digest = hashlib.sha256()
    for path in files:
        status = path.stat()
        digest.update(repr((path.relative_to(folder).as_posix(), status.st_size, status.st_mtime_ns)).encode())

    def entries() -> Iterator[Entry]:
        for path in files:
            yield path.relative_to(folder).as_posix(), partial(_image_of, path.read_bytes())

    return Source({"path": str(folder.resolve()), "files": digest.hexdigest()}, entries)


def _is_image(name: str) -> bool:
    """Whether a name with its folders has an image's suffix, and no part that is hidden (macOS adds such files)."""
    hidden = any(part.startswith(".") and part not in (".", "..") for part in name.split("/"))
    return name.lower().endswith(SUFFIXES) and not hidden


def _image_of(data: bytes) -> Image.Image:
    """The image, the first one of an animation, turned as its EXIF orientation says.

    Raises:
        ValueError: more than 8 bits a channel, which PIL cuts to 8 for colours.
    """
    with Image.open(BytesIO(data), formats=_FORMATS) as image:
        if image.format == "PNG" and data[_PNG_DEPTH] > 8:
            raise ValueError(f"{data[_PNG_DEPTH]} bits a channel: more than 8 bits")
        image.load()
        return ImageOps.exif_transpose(image)


def _tar_entries(path: Path) -> Iterator[Entry]:
    """Files of an archive in its order, each read in memory: no path in it is ever written to.

    Raises:
        ValueError: an archive that is broken or ends too early.
    """
    with reading(path, "is not a complete archive"), tarfile.open(path, "r:*") as archive:
        for member in archive:
            name = member.name.removeprefix("./")
            if member.isfile() and _is_image(name):
                file = archive.extractfile(member)
                assert file is not None  # it is a regular file
                yield name, partial(_image_of, file.read())
        # after the block of zeros that ended the loop comes another one, unless the archive was cut between files
        rest = archive.fileobj
        if rest is None or rest.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise ValueError("it ends too early")
        while rest.read(2**20):  # to the checksum of the compression
            pass


def _array_entries(path: Path, array: str | None) -> Iterator[Entry]:
    """Images of an array in a .npz file.

    Raises:
        ValueError: not a complete .npz file, no such array, several to choose from, another dtype or shape.
    """
    with open_arrays(path) as arrays:
        name = array or _only_images(arrays)
        if name not in arrays:
            raise ValueError(f"it has no array {name!r}, but {', '.join(arrays) or 'none'}")
        values = _pixels_last(name, take_array(arrays, name))
    for k, image in enumerate(values):
        yield f"{name}[{k:08d}]", partial(Image.fromarray, image)


def _only_images(arrays: np.lib.npyio.NpzFile) -> str:
    """Name of the only array that can be images."""
    shapes = {name: take_array(arrays, name) for name in arrays}
    found = [name for name, value in shapes.items() if value.dtype == np.uint8 and value.ndim in (3, 4)]
    if len(found) != 1:
        raise ValueError(
            f"it must have one array of uint8 images, or say which, as in FILE.npz:{found[0] if found else 'ARRAY'}; "
            f"it has {', '.join(found) if found else 'none among ' + ', '.join(arrays)}"
        )
    return found[0]


def _pixels_last(name: str, values: np.ndarray) -> np.ndarray:
    """(n, height, width) or (n, height, width, 3), from those or with channels first."""
    shape = values.shape
    if values.dtype != np.uint8:
        raise ValueError(f"{name} must be uint8; it is {values.dtype}")
    if values.ndim == 4 and shape[1] in (1, 3):
        values = values.transpose(0, 2, 3, 1)
    if values.ndim == 4 and values.shape[3] == 1:
        values = values[..., 0]
    if not (values.ndim == 3 or (values.ndim == 4 and values.shape[3] == 3)) or not values.size:
        raise ValueError(
            f"{name} must have shape (n, height, width[, 1 or 3]) or (n, 1 or 3, height, width); got {shape}"
        )
    return np.ascontiguousarray(values)


def _hub_entries(name: str, split: str) -> Iterator[Entry]:
    """Images of the first column of images of a Hugging Face data set; downloads it unless it is there.

    Raises:
        ModuleNotFoundError, ValueError: `datasets` is not installed, no such column.
    """
    try:
        datasets = importlib.import_module("datasets")
    except ModuleNotFoundError:
        raise ModuleNotFoundError(f"hf:{name} needs the package datasets: pip install datasets") from None
    data = datasets.load_dataset(name, split=split)
    columns = [column for column, feature in data.features.items() if isinstance(feature, datasets.Image)]
    if not columns:
        raise ValueError(f"hf:{name}:{split} has no column of images, but {', '.join(data.features)}")

    def read(k: int) -> Image.Image:
        return ImageOps.exif_transpose(data[k][columns[0]])

    for k in range(len(data)):
        yield f"{split}[{k:08d}]", partial(read, k)

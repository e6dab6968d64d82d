"""Images as data: decoded once, checked, brought to one shape, and kept in a file that later runs map into memory."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from sdesig._checks import check_choice, check_integer
from sdesig._files import replacing
from sdesig._records import Record, cached
from sdesig.evaluation.pixels import ImageSet, pixel_digest
from sdesig.images.sources import SUFFIXES, Source, open_source

_GREY = ("1", "L", "LA", "La")
_NAMED = 5
"""Most names of images in a message."""
_RULES = 2
"""Version of how pixels are made from a source: a cache of another version is not used."""


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

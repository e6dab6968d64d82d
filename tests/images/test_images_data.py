"""Images from folders, archives, arrays and hubs against PIL and numpy; broken files; the cache; 256 levels."""

import io
import json
import os
import struct
import subprocess
import sys
import tarfile
import types
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from images_tiny import flip_last_bit
from PIL import Image

from sdesig.evaluation.pixels import pixel_digest, to_floats, to_uint8
from sdesig.images import image_data as data
from sdesig.images.image_data import load_images


def random_image(k, size=(8, 6), mode="RGB"):
    """Noise, of a width and height."""
    values = np.random.default_rng(k).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(values).convert(mode)


def encoded(image, name):
    buffer = io.BytesIO()
    image.save(buffer, {"jpg": "JPEG", "tif": "TIFF"}.get(name.rpartition(".")[2].lower(), name.rpartition(".")[2]))
    return buffer.getvalue()


NAMES = ("b/2.png", "b/10.bmp", "a.jpg", "c.JPEG", "d.webp", "b/1.png")
FILES = {name: encoded(random_image(k), name) for k, name in enumerate(NAMES)}


def write_folder(folder, files):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def write_tar(file, files, mode="w"):
    with tarfile.open(file, mode) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return file


def write_archive(folder, files):
    folder.mkdir(exist_ok=True)
    return write_tar(folder / "x.tar", files)


every_container = pytest.mark.parametrize("make", [write_folder, write_archive], ids=["folder", "archive"])


def by_pil(files, mode="RGB"):
    arrays = [np.asarray(Image.open(io.BytesIO(files[name])).convert(mode)) for name in sorted(files)]
    stacked = np.stack(arrays)
    return stacked.transpose(0, 3, 1, 2) if mode == "RGB" else stacked[:, None]


# --- sources ---------------------------------------------------------------------------------------------------------


def test_a_folder_with_folders(tmp_path):
    """Sorted by name, whatever else lies there."""
    others = {"notes.txt": b"no image", "b/._1.png": b"of macOS", ".hidden.png": b"", "labels.npz": b""}
    images = load_images(write_folder(tmp_path, {**FILES, **others}))
    np.testing.assert_array_equal(images.pixels, by_pil(FILES))
    assert (images.event, len(images), images.skipped) == ((3, 6, 8), 6, ())
    assert repr(images) == f"ImageSet(6 images of shape (3, 6, 8), from {images.source})"
    assert images.digest == pixel_digest(torch.from_numpy(by_pil(FILES)))


@pytest.mark.parametrize("suffix", ["tar", "tar.gz", "tar.xz", "tgz"])
def test_an_archive_in_any_order(tmp_path, suffix):
    """The same images as the folder's; links, folders and other files in it are none."""
    mode = {"tar": "w", "tar.xz": "w:xz"}.get(suffix, "w:gz")
    files = {name: FILES[name] for name in reversed(FILES)}
    images = load_images(write_tar(tmp_path / f"images.{suffix}", {"notes.txt": b"", "._x.png": b"", **files}, mode))
    np.testing.assert_array_equal(images.pixels, by_pil(FILES))


def test_names_in_an_archive_are_no_paths(tmp_path):
    """Nothing is written anywhere, whatever they are."""
    inside = tmp_path / "inside"
    inside.mkdir()
    names = ("../outside.png", str(tmp_path / "absolute.png"), "./a.png")
    archive = write_tar(inside / "x.tar", {name: FILES["b/1.png"] for name in names})
    with tarfile.open(archive, "a") as appended:
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        appended.addfile(link)
    assert len(load_images(archive)) == 3
    assert [path.name for path in tmp_path.rglob("*")] == ["inside", "x.tar"]


GREY = np.random.default_rng(0).integers(0, 256, (5, 4, 6), dtype=np.uint8)
COLOUR = np.random.default_rng(1).integers(0, 256, (5, 4, 6, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    "array, expected",
    [
        (GREY, GREY[:, None]),
        (GREY[:, None], GREY[:, None]),
        (GREY[..., None], GREY[:, None]),
        (COLOUR, COLOUR.transpose(0, 3, 1, 2)),
        (COLOUR.transpose(0, 3, 1, 2), COLOUR.transpose(0, 3, 1, 2)),
    ],
)
def test_arrays(tmp_path, array, expected):
    np.savez(tmp_path / "a.npz", labels=np.arange(5, dtype=np.uint8), images=array)
    for source in (tmp_path / "a.npz", f"{tmp_path}/a.npz:images"):
        images = load_images(source)
        np.testing.assert_array_equal(images.pixels, expected)
        assert images.pixels.dtype == torch.uint8


def test_one_of_several_arrays(tmp_path):
    np.savez(tmp_path / "a.npz", x_test=GREY[:2], x_train=GREY[2:])
    np.testing.assert_array_equal(load_images(f"{tmp_path}/a.npz:x_train").pixels[:, 0], GREY[2:])
    with pytest.raises(ValueError, match=r"as in FILE\.npz:x_test; it has x_test, x_train"):
        load_images(tmp_path / "a.npz")


def fake_hub(monkeypatch, rows):
    """A module `datasets` with one data set; a row that is an error raises it."""

    class ImageFeature:
        pass

    class Dataset:
        def __init__(self):
            self.features = {"label": object(), "img": ImageFeature()}

        def __len__(self):
            return len(rows)

        def __getitem__(self, k):
            if isinstance(rows[k], Exception):
                raise rows[k]
            return {"label": k, "img": rows[k]}

    asked = []
    module = types.ModuleType("datasets")
    module.Image = ImageFeature
    module.load_dataset = lambda name, split: asked.append((name, split)) or Dataset()
    monkeypatch.setitem(sys.modules, "datasets", module)
    return asked


def test_a_data_set_of_a_hub(tmp_path, monkeypatch):
    rows = [random_image(k) for k in range(12)]
    asked = fake_hub(monkeypatch, rows)
    images = load_images("hf:someone/images", cache=tmp_path)
    np.testing.assert_array_equal(images.pixels, np.stack([np.asarray(row).transpose(2, 0, 1) for row in rows]))
    load_images("hf:someone/images", cache=tmp_path)
    assert asked == [("someone/images", "train")]  # the second time it is not even opened
    load_images("hf:someone/images:test[:10%]")
    assert asked[1:] == [("someone/images", "test[:10%]")]


def test_broken_images_of_a_hub_are_skipped_like_files(monkeypatch):
    fake_hub(monkeypatch, [random_image(0), OSError("cannot identify"), random_image(2)])
    with pytest.warns(UserWarning, match=r"skipped 1 image, train\[00000001\] \(cannot identify\) of hf:x"):
        images = load_images("hf:x")
    assert len(images) == 2


def test_a_hub_without_its_package_or_without_images(monkeypatch):
    fake_hub(monkeypatch, [random_image(0)])
    monkeypatch.setattr(sys.modules["datasets"], "Image", type("Another", (), {}))
    with pytest.raises(ValueError, match="hf:x:train has no column of images, but label, img"):
        load_images("hf:x")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ModuleNotFoundError, match="hf:someone/x needs the package datasets: pip install datasets"):
        load_images("hf:someone/x")


@every_container
def test_hidden_files_and_what_lies_in_hidden_folders(tmp_path, make):
    """Wherever the dot is in the name; the source itself may lie in a hidden folder."""
    hidden = (".ipynb_checkpoints/0-checkpoint.png", "b/.thumbs/deep/1.png", "b/._1.png", ".0.png")
    source = make(tmp_path / ".mine", {**FILES, **dict.fromkeys(hidden, encoded(random_image(9), "x.png"))})
    np.testing.assert_array_equal(load_images(source).pixels, by_pil(FILES))


# --- shapes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
def test_modes_become_grey_or_colour(tmp_path, mode):
    image = random_image(0).convert(mode)
    name = "a.jpg" if mode == "CMYK" else "a.png"
    write_folder(tmp_path, {name: encoded(image, name)})
    stored = Image.open(tmp_path / name)
    assert stored.mode == mode
    own = 1 if mode in ("1", "L", "LA") else 3
    for channels in (None, 1, 3):
        expected = np.asarray(stored.convert("L" if (channels or own) == 1 else "RGB"))
        expected = expected[None] if expected.ndim == 2 else expected.transpose(2, 0, 1)
        np.testing.assert_array_equal(load_images(tmp_path, channels=channels).pixels[0], expected)


TURNS = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
    8: lambda a: np.rot90(a),
}
"""Rows and columns as the EXIF standard has them: how the stored image is to be shown."""


@every_container
@pytest.mark.parametrize("tag", TURNS)
def test_images_are_turned_as_their_orientation_says(tmp_path, make, tag):
    stored = random_image(tag, size=(16, 24))
    exif = Image.Exif()
    exif[0x112] = tag
    files = {}
    for kind, options in (("JPEG", {}), ("PNG", {}), ("WEBP", {"lossless": True})):
        buffer = io.BytesIO()
        stored.save(buffer, kind, exif=exif, **options)
        name = f"{kind}.{kind.lower()}"
        files[name] = buffer.getvalue()
        if kind == "JPEG":
            lossy = np.asarray(Image.open(io.BytesIO(buffer.getvalue())))
    found = load_images(make(tmp_path / "x", files)).pixels.permute(0, 2, 3, 1).numpy()
    assert found.shape[1:3] == ((24, 16) if tag < 5 else (16, 24))
    for pixels, values in zip(found, (lossy, *[np.asarray(stored)] * 2), strict=True):
        np.testing.assert_array_equal(pixels, TURNS[tag](values))


def test_images_of_a_hub_are_turned_too(monkeypatch):
    image = random_image(0, size=(16, 24))
    image.getexif()[0x112] = 6
    fake_hub(monkeypatch, [image])
    pixels = load_images("hf:x").pixels[0].permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(pixels, np.rot90(np.asarray(image), -1))


@every_container
@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_the_first_image_of_an_animation(tmp_path, make, kind):
    buffer, frames = io.BytesIO(), [random_image(k) for k in range(3)]
    options = {"lossless": True} if kind == "WEBP" else {}
    frames[0].save(buffer, kind, save_all=True, append_images=frames[1:], duration=50, **options)
    assert Image.open(buffer).n_frames == 3
    found = load_images(make(tmp_path / "x", {f"a.{kind.lower()}": buffer.getvalue()}))
    np.testing.assert_array_equal(found.pixels[0].permute(1, 2, 0), np.asarray(frames[0]))


def test_cmyk_becomes_rgb_by_the_plain_formula(tmp_path):
    """(255 - C)(255 - K)/255, without a colour profile."""
    write_folder(tmp_path, {"a.jpg": encoded(Image.new("CMYK", (8, 8), (10, 200, 30, 50)), "a.jpg")})
    stored = np.asarray(Image.open(tmp_path / "a.jpg"))[0, 0].astype(float)
    expected = (255 - stored[:3]) * (255 - stored[3]) / 255
    assert np.abs(load_images(tmp_path).pixels[0, :, 0, 0].numpy() - expected).max() <= 1


@pytest.mark.parametrize(
    "box, side, options",
    [
        ((1, 0, 7, 6), 4, {"size": 4}),  # the largest centred square of 8 x 6
        ((1, 0, 7, 6), 12, {"size": 12}),
        ((2, 1, 6, 5), 3, {"size": 3, "crop": 4}),
        ((2, 1, 6, 5), 4, {"crop": 4}),
        ((1, 0, 6, 5), 5, {"crop": 5}),
    ],
)
def test_resizing_and_cropping_as_pil(tmp_path, box, side, options):
    images = load_images(write_folder(tmp_path, FILES), **options)
    for pixels, name in zip(images.pixels, sorted(FILES), strict=True):
        left, top, right, bottom = box
        cut = np.asarray(Image.open(io.BytesIO(FILES[name])).convert("RGB"))[top:bottom, left:right]
        expected = Image.fromarray(cut).resize((side, side), Image.Resampling.LANCZOS)
        np.testing.assert_array_equal(pixels.permute(1, 2, 0), np.asarray(expected))


def test_small_images_are_antialiased(tmp_path):
    """A board of black and white squares becomes grey, not black."""
    board = Image.fromarray(np.indices((64, 64)).sum(0).astype(np.uint8) % 2 * 255)
    write_folder(tmp_path, {"a.png": encoded(board, "a.png")})
    assert (load_images(tmp_path, size=8).pixels.float() - 127.5).abs().max() < 10


def test_images_of_several_shapes(tmp_path):
    mixed = {"a.png": encoded(random_image(0), "a.png"), "b.png": encoded(random_image(1, (5, 9)), "b.png")}
    write_folder(tmp_path, mixed)
    with pytest.raises(ValueError, match=r"a\.png has \(3, 6, 8\), b\.png \(3, 9, 5\): choose size and channels"):
        load_images(tmp_path)
    assert load_images(tmp_path, size=4).event == (3, 4, 4)
    assert load_images(tmp_path, crop=5).event == (3, 5, 5)
    with pytest.raises(ValueError, match=r"crop must fit into every image; b\.png is 5 x 9, crop 6"):
        load_images(tmp_path, crop=6)
    write_folder(tmp_path, {"b.png": encoded(random_image(1, mode="L"), "b.png")})
    with pytest.raises(ValueError, match=r"a\.png has \(3, 6, 8\), b\.png \(1, 6, 8\): choose size and channels"):
        load_images(tmp_path)
    assert load_images(tmp_path, channels=1).event == (1, 6, 8)


# --- broken files ----------------------------------------------------------------------------------------------------


def broken(files, names):
    return {name: content[: len(content) // 2] if name in names else content for name, content in files.items()}


@every_container
def test_broken_images_are_named_and_skipped(tmp_path, make):
    source = make(tmp_path, {**broken(FILES, ["b/1.png", "c.JPEG"]), "z.png": b"", "y.jpg": b"GIF89a no image"})
    with pytest.warns(UserWarning, match=r"skipped 4 images, b/1\.png \(.+\), c\.JPEG \(.+\), y\.jpg \(.+\), z\.png"):
        images = load_images(source)
    good = {name: FILES[name] for name in FILES if name not in ("b/1.png", "c.JPEG")}
    np.testing.assert_array_equal(images.pixels, by_pil(good))
    assert [name.partition(" ")[0] for name in images.skipped] == ["b/1.png", "c.JPEG", "y.jpg", "z.png"]


def test_more_broken_images_than_allowed(tmp_path):
    write_folder(tmp_path, broken(FILES, NAMES[:3]))
    with pytest.warns(UserWarning, match="skipped 3 images"):
        assert len(load_images(tmp_path, max_corrupt=3)) == 3
    with pytest.raises(ValueError, match=r"at most max_corrupt=2 broken images; found 3 images, a\.jpg .*, b/10\.bmp "):
        load_images(tmp_path, max_corrupt=2)
    with pytest.raises(ValueError, match=r"at most max_corrupt=0 broken images; found 1 image, a\.jpg "):
        load_images(tmp_path, max_corrupt=0)


def deep_png(kind, channels):
    """A PNG file of 16 bits a channel; PIL writes none with colours."""
    values = np.random.default_rng(0).integers(0, 2**16, (6, 8, channels)).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in values)

    def chunk(name, content):
        body = name + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", 8, 6, 16, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@every_container
@pytest.mark.parametrize("kind, channels", [(0, 1), (2, 3), (4, 2), (6, 4)], ids=["grey", "RGB", "LA", "RGBA"])
def test_images_of_sixteen_bits_are_not_cut_to_eight(tmp_path, make, kind, channels):
    source = make(tmp_path / "all", {**FILES, "deep.png": deep_png(kind, channels)})
    with pytest.warns(UserWarning, match=r"deep\.png \(16 bits a channel: more than 8 bits\)"):
        assert len(load_images(source)) == 6
    alone = make(tmp_path / "alone", {"deep.png": deep_png(kind, channels)})
    with pytest.raises(ValueError, match=r"no images that can be read .*: skipped 1 image, deep\.png \(16 bits a chan"):
        load_images(alone)


def test_deep_images_of_a_hub(monkeypatch):
    fake_hub(monkeypatch, [Image.fromarray(np.zeros((6, 8), dtype=np.uint16)), random_image(1)])
    with pytest.warns(UserWarning, match=r"train\[00000000\] \(mode I;16: more than 8 bits\)"):
        assert len(load_images("hf:x")) == 1


def test_only_formats_that_are_named_are_decoded(tmp_path):
    """A file may call itself as it likes."""
    write_folder(tmp_path, {**FILES, "e.png": encoded(random_image(9), "e.tif")})
    with pytest.warns(UserWarning, match=r"skipped 1 image, e\.png \(cannot identify image file"):
        load_images(tmp_path)


@pytest.mark.parametrize("suffix, mode", [("tar", "w"), ("tar.gz", "w:gz"), ("tar.xz", "w:xz")])
def test_an_archive_that_ends_too_early(tmp_path, suffix, mode):
    """Wherever it is cut: in a file, in a header, or between two."""
    whole = write_tar(tmp_path / f"whole.{suffix}", FILES, mode).read_bytes()
    used = len(whole)
    if suffix == "tar":  # the blocks that are not zero, and the two that end it; it may lack what pads it
        used = (len(whole.rstrip(b"\0")) // 512 + 3) * 512
    for end in (used, len(whole)):
        (tmp_path / f"whole.{suffix}").write_bytes(whole[:end])
        assert len(load_images(tmp_path / f"whole.{suffix}")) == len(FILES)
    cut = tmp_path / f"cut.{suffix}"
    for end in sorted({0, 1, 511, 512, 700, 1024, *range(100, used, max(256, used // 50)), used - 1}):
        cut.write_bytes(whole[:end])
        with pytest.raises(ValueError, match=rf"cut\.{suffix} is not a complete archive"):
            load_images(cut)


def test_nothing_is_unpickled(tmp_path):
    """An array of objects would run code when loaded."""

    class Evil:
        def __reduce__(self):
            return Path.touch, (tmp_path / "ran",)

    np.savez(tmp_path / "a.npz", images=np.array([Evil()], dtype=object))
    for source in ("a.npz", "a.npz:images"):
        with pytest.raises(ValueError, match=r"a\.npz cannot be used: Object arrays cannot be loaded"):
            load_images(f"{tmp_path}/{source}")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "arrays, name, match",
    [
        ({"x": GREY.astype(np.float32)}, "", "it must have one array of uint8 images, .* it has none among x"),
        ({"x": GREY.astype(np.float32)}, ":x", "x must be uint8; it is float32"),
        ({"x": COLOUR[..., :2]}, ":x", r"x must have shape \(n, height, width\[, 1 or 3\]\) or .* got \(5, 4, 6, 2\)"),
        ({"x": GREY[0]}, ":x", r"x must have shape .* got \(4, 6\)"),
        ({"x": GREY[:0]}, ":x", r"x must have shape .* got \(0, 4, 6\)"),
        ({"x": GREY}, ":y", "it has no array 'y', but x"),
    ],
)
def test_arrays_that_are_no_images(tmp_path, arrays, name, match):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ValueError, match=match):
        load_images(f"{tmp_path}/a.npz{name}")


def test_sources_that_cannot_be_used(tmp_path):
    np.savez(tmp_path / "a.npz", x=GREY)
    (tmp_path / "half.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:200])
    (tmp_path / "weights.pkl").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    write_tar(tmp_path / "texts.tar", {"a.txt": b"text"})
    for name, error, match in (
        ("nowhere", FileNotFoundError, r"images must be a folder, a file, or hf:NAME\[:SPLIT\]; .* does not exist"),
        ("nowhere.npz:x", FileNotFoundError, r"nowhere\.npz does not exist"),
        ("nowhere.tar.xz", FileNotFoundError, r"nowhere\.tar\.xz does not exist"),
        ("half.npz", ValueError, "is not a complete .npz file"),
        ("weights.pkl", ValueError, r"images must be a folder, \.tar, .* got .*weights\.pkl"),
        ("empty", ValueError, r"empty has no images that can be read \(\.png, \.jpg, \.jpeg, \.bmp, \.webp\)"),
        ("texts.tar", ValueError, r"texts\.tar has no images that can be read"),
    ):
        with pytest.raises(error, match=match):
            load_images(tmp_path / name)


@pytest.mark.parametrize(
    "options, error, match",
    [
        ({"size": 0}, ValueError, "size must be >= 1; got 0"),
        ({"crop": 2.5}, TypeError, "crop must be an integer; got 2.5"),
        ({"channels": 2}, ValueError, "channels must be one of None, 1, 3; got 2"),
        ({"max_corrupt": -1}, ValueError, "max_corrupt must be >= 0; got -1"),
    ],
)
def test_options_that_cannot_be(options, error, match):
    with pytest.raises(error, match=match):
        load_images("nowhere", **options)


# --- cache -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "images", FILES)


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def decoded(monkeypatch):
    """How often images were decoded."""
    calls, real = [], data._decode
    monkeypatch.setattr(data, "_decode", lambda *args: calls.append(1) or real(*args))
    return calls


def test_a_cache_of_other_rules_is_not_used(folder, cache, decoded, monkeypatch):
    load_images(folder, cache=cache)
    monkeypatch.setattr(data, "_RULES", data._RULES + 1)
    load_images(folder, cache=cache)
    assert len(decoded) == 2


def test_images_are_decoded_once(folder, cache, decoded):
    one, two = (load_images(folder, size=4, cache=cache) for _ in range(2))
    assert len(decoded) == 1
    for images in (one, two):
        np.testing.assert_array_equal(images.pixels, load_images(folder, size=4).pixels)
        assert images.digest == pixel_digest(images.pixels)
    two.pixels[0] = 0  # the memory is ours, the file stays as it was
    np.testing.assert_array_equal(load_images(folder, size=4, cache=cache).pixels, load_images(folder, size=4).pixels)
    array = np.load(next(cache.glob("*.npy")), mmap_mode="r")
    np.testing.assert_array_equal(array, load_images(folder, size=4).pixels)


def test_other_options_and_changed_sources_are_decoded_again(folder, cache, decoded):
    for k, options in enumerate(({}, {"size": 4}, {"size": 4, "crop": 5}, {"channels": 1})):
        load_images(folder, cache=cache, **options)
        assert len(decoded) == k + 1
    assert len({*cache.iterdir()}) == 8
    write_folder(folder, {"b/1.png": FILES["b/2.png"]})
    os.utime(folder / "b/1.png", ns=(1, 1))
    changed = load_images(folder, cache=cache)
    assert len(decoded) == 5
    np.testing.assert_array_equal(changed.pixels, by_pil({**FILES, "b/1.png": FILES["b/2.png"]}))
    (folder / "b/1.png").unlink()
    assert len(load_images(folder, cache=cache)) == 5
    archive = write_tar(cache.parent / "x.tar", FILES)
    load_images(archive, cache=cache)
    archive.write_bytes(write_tar(cache.parent / "y.tar", {"a.png": FILES["b/1.png"]}).read_bytes())
    assert len(load_images(archive, cache=cache)) == 1


@pytest.mark.parametrize(
    "pattern, damage",
    [
        ("*.npy", flip_last_bit),
        ("*.npy", lambda file: file.write_bytes(file.read_bytes()[:-1])),
        ("*.npy", lambda file: file.write_bytes(b"")),
        ("*.npy", Path.unlink),
        ("*.json", lambda file: file.write_text(file.read_text()[:-9])),
        ("*.json", lambda file: file.write_bytes(b"\xff\xfe")),
        ("*.json", lambda file: file.write_text("{}")),
        ("*.json", lambda file: file.write_text(json.dumps({**json.loads(file.read_text()), "key": {"path": "x"}}))),
    ],
)
def test_a_damaged_cache_is_made_again(folder, cache, decoded, pattern, damage):
    load_images(folder, cache=cache)
    damage(next(cache.glob(pattern)))
    with pytest.warns(UserWarning, match=r"images-[0-9a-f]{16}\.json is damaged and made again: "):
        images = load_images(folder, cache=cache)
    np.testing.assert_array_equal(images.pixels, by_pil(FILES))
    load_images(folder, cache=cache)
    assert len(decoded) == 2


@pytest.mark.parametrize("when", ["np.lib.format.write_array_header_1_0", "records.write_json"])
def test_a_process_that_is_killed_while_writing(folder, cache, decoded, when):
    """Before the images are whole, or between them and the JSON file: the next one starts afresh."""
    program = f"""
import os, sys
import numpy as np
from sdesig import _records as records
from sdesig.images import image_data as data
{when} = lambda *args: os._exit(9)
data.load_images(sys.argv[1], cache=sys.argv[2])
"""
    command = [sys.executable, "-c", program, str(folder), str(cache)]
    assert subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}).returncode == 9
    assert [*cache.iterdir()]
    assert not [*cache.glob("*.json")]
    np.testing.assert_array_equal(load_images(folder, cache=cache).pixels, by_pil(FILES))
    load_images(folder, cache=cache)
    assert len(decoded) == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("suffix", ["npy", "json"])
def test_a_full_disk(folder, cache, suffix, monkeypatch):
    """The temporary file is a device without space: one error, no half files, and what was there stays valid."""
    other = load_images(folder, size=4, cache=cache)
    before = {*cache.iterdir()}
    load_images(folder, cache=cache)
    written = {*cache.iterdir()} - before
    for file in written:
        file.unlink()

    def temporary(path):
        name = path.with_name(f".temporary-{path.name}")
        if path.suffix == f".{suffix}":
            name.symlink_to("/dev/full")
        return name

    with monkeypatch.context() as patch:
        patch.setattr("sdesig._files._temporary", temporary)
        with pytest.raises(OSError, match="disk full; complete files stay valid, nothing else is left: free space or"):
            load_images(folder, cache=cache)
    assert not [file for file in cache.iterdir() if file.suffix == ".json" and file not in before]
    assert not [*cache.glob(".*")]
    np.testing.assert_array_equal(load_images(folder, size=4, cache=cache).pixels, other.pixels)
    np.testing.assert_array_equal(load_images(folder, cache=cache).pixels, by_pil(FILES))


def test_what_was_skipped_is_remembered(tmp_path, cache):
    folder = write_folder(tmp_path / "images", broken(FILES, ["a.jpg"]))
    for _ in range(2):
        with pytest.warns(UserWarning, match=r"skipped 1 image, a\.jpg"):
            assert len(load_images(folder, cache=cache).skipped) == 1
    with pytest.raises(ValueError, match="at most max_corrupt=0 broken images; found 1 image"):
        load_images(folder, cache=cache, max_corrupt=0)


# --- levels and sets -------------------------------------------------------------------------------------------------


def test_all_levels_come_back():
    levels = torch.arange(256, dtype=torch.uint8)
    floats = to_floats(levels)
    assert floats.dtype == torch.float32
    np.testing.assert_allclose(floats, np.arange(256) / 127.5 - 1, atol=1e-7)
    assert torch.equal(to_uint8(floats), levels)
    assert torch.equal(to_uint8(floats.double()), levels)
    np.testing.assert_array_equal(to_uint8(floats[::2].half()).numpy().astype(int), np.arange(0, 256, 2))


def test_samples_are_rounded_and_clamped():
    """To the nearest level: -1 is 0, 1 is 255, and steps are 2/255."""
    step = 2 / 255
    samples = torch.tensor([-1.7, -1.0, -1 + 0.49 * step, -1 + 0.51 * step, 1 - 0.51 * step, 1 - 0.49 * step, 1.0, 9.0])
    assert to_uint8(samples).tolist() == [0, 0, 0, 1, 254, 255, 255, 255]
    for bad in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="samples must be finite to be images"):
            to_uint8(torch.tensor([0.0, bad]))
    with pytest.raises(TypeError, match=r"samples must have a real floating-point dtype; got torch\.uint8"):
        to_uint8(torch.zeros(2, dtype=torch.uint8))


def test_sets_of_images(folder):
    images = load_images(folder)
    np.testing.assert_allclose(images.floats(), by_pil(FILES) / 127.5 - 1, atol=1e-6)
    np.testing.assert_allclose(images.floats(torch.tensor([4, 1])), by_pil(FILES)[[4, 1]] / 127.5 - 1, atol=1e-6)
    np.testing.assert_allclose(images.floats(slice(2)), by_pil(FILES)[:2] / 127.5 - 1, atol=1e-6)
    assert images.to("cpu").digest == images.digest


def test_subsets_of_images(folder):
    images = load_images(folder)
    subsets = [images.subset(3, seed) for seed in range(20)]
    for subset in subsets:
        rows = [next(k for k in range(6) if torch.equal(images.pixels[k], pixels)) for pixels in subset.pixels]
        assert len(rows) == 3
        assert rows == sorted({*rows})
        assert subset.digest == pixel_digest(subset.pixels)
    assert len({subset.digest for subset in subsets}) > 10  # of 20 possible ones
    assert images.subset(3, 1).digest == subsets[1].digest
    assert images.subset(6).digest == images.digest
    with pytest.raises(ValueError, match=r"n must be in \[1, 6\]; got 7"):
        images.subset(7)


def test_images_that_do_not_fit_a_teacher(folder):
    images = load_images(folder)
    images.check_event((3, 6, 8), "the teacher")
    with pytest.raises(
        ValueError, match=r"images must have shape \(1, 28, 28\), as the teacher has; .*images has \(3, 6"
    ):
        images.check_event((1, 28, 28), "the teacher")


def test_the_digest_sees_shape_and_values():
    pixels = torch.arange(24, dtype=torch.uint8).reshape(2, 1, 3, 4)
    digests = [pixel_digest(p) for p in (pixels, pixels.reshape(2, 1, 4, 3), pixels.flip(0), pixels + 1)]
    assert len({*digests}) == 4
    assert pixel_digest(pixels.mT.contiguous().mT) == digests[0]

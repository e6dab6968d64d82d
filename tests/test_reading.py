"""Damaged files: whatever a reader meets is one line that begins with the file's name and says what is wrong in it."""

import copy
import io
import json
import lzma
import struct
import tarfile
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from sdesig._files import FileError, check_output, read_json, read_tensors, reading, write_json
from sdesig.commands.inputs import load_data
from sdesig.digits.classifier import DigitClassifier
from sdesig.sampling import GaussianReference, PathSpace, StepGrid
from sdesig.sigdeg import MLP, NetworkDenoiser, Samples, SigDEG, TrainingOptions, UNet
from sdesig.sigdeg.training import train

HUGE = 10**30
DAMAGED = ("x", None, -1, 0, 1.5, HUGE, 1e300, float("nan"), True, [], [None], ["x"], [-1], [HUGE], {}, {"x": 1})
SOME = ("x", None, -1, HUGE)
"""What the fields of configurations are replaced by."""


def refused(call, *names):
    """That a call raises one line, a FileError, which begins with a file's name and has the other names in it."""
    with pytest.raises(FileError) as refusal:
        call()
    text = str(refusal.value)
    assert len(text.splitlines()) == 1
    assert len(text) < 1000
    file, *fields = map(str, names)
    assert text.startswith(file)
    for field in fields:
        assert field in text, text
    return text


# --- the mechanism ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error, message",
    [
        (KeyError("mean"), "a.npz cannot be used: it has no 'mean'"),
        (RecursionError("maximum recursion depth exceeded"), "a.npz cannot be used: it is nested too deeply"),
        (MemoryError(), "a.npz cannot be used: there is not enough memory for it"),
        (NotImplementedError(), "a.npz cannot be used: NotImplementedError"),
        (RuntimeError("two\n  lines"), "a.npz cannot be used: two lines"),
        (OSError(5, "Input/output error"), "a.npz cannot be used: [Errno 5] Input/output error"),
        (ZeroDivisionError("x" * 1000), f"a.npz cannot be used: {'x' * 400} ..."),
        (FileError("b.npz is empty"), "b.npz is empty"),
    ],
)
def test_every_exception_becomes_one_line(error, message):
    with pytest.raises(FileError) as refusal, reading("a.npz"):
        raise error
    assert str(refusal.value) == message


@pytest.mark.parametrize("error", [FileNotFoundError(2, "no", "b"), ModuleNotFoundError("PIL"), KeyboardInterrupt()])
def test_what_is_not_of_the_file_passes(error):
    with pytest.raises(type(error)) as passed, reading("a.npz"):
        raise error
    assert passed.value is error


# --- formats ---------------------------------------------------------------------------------------------------------


def npz(file, **members):
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in members.items():
            archive.writestr(f"{name}.npy", data)


def npy(shape, descr="<f8", data=b""):
    """The bytes of an array, its header as it is told."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": descr, "fortran_order": False, "shape": shape})
    return stream.getvalue() + data


def change_bytes(file, change):
    file.write_bytes(change(file.read_bytes()))


def encrypted(file):
    """A flag of every member says so."""
    npz(file, data=npy((2, 2), data=bytes(32)))
    change_bytes(file, lambda data: _in_headers(data, 6, 8, 1))


def unknown_compression(file):
    npz(file, data=npy((2, 2), data=bytes(32)))
    change_bytes(file, lambda data: _in_headers(data, 8, 10, 97))


def _in_headers(data, local, central, value):
    for start, at in ((b"PK\x03\x04", local), (b"PK\x01\x02", central)):
        place = data.index(start) + at
        data = data[:place] + struct.pack("<H", value) + data[place + 2 :]
    return data


ARCHIVES = {
    "no npy": lambda file: npz(file, data=b"text"),
    "encrypted": encrypted,
    "unknown compression": unknown_compression,
    "beyond 2^63": lambda file: npz(file, data=npy((2**40, 2**40))),
    "huge": lambda file: npz(file, data=npy((2**50, 2))),
    "negative": lambda file: npz(file, data=npy((-3, 2))),
    "cut off": lambda file: npz(file, data=npy((9, 2), data=bytes(16))),
    "objects": lambda file: npz(file, data=npy((2, 2), descr="|O", data=bytes(32))),
    "no dtype": lambda file: npz(file, data=npy((2, 2), descr="<q9")),
    "header of something else": lambda file: npz(file, data=b"\x93NUMPY\x01\x00\x05\x00hello"),
    "another array": lambda file: npz(file, other=npy((2, 2), data=bytes(32))),
    "checksum": lambda file: (
        npz(file, data=npy((2, 2), data=bytes(32))),
        change_bytes(file, lambda data: data.replace(bytes(32), bytes(31) + b"\x01")),
    ),
    "nothing": lambda file: file.write_bytes(b""),
    "text": lambda file: file.write_text("hello"),
}


@pytest.mark.parametrize("damage", ARCHIVES)
def test_archives_of_arrays(damage, tmp_path):
    file = tmp_path / "data.npz"
    ARCHIVES[damage](file)
    refused(lambda: load_data(str(file)), file)
    refused(lambda: Samples.load(file), file, "is not a file of samples")
    data = pytest.importorskip("sdesig.images.image_data")
    refused(lambda: list(data.open_source(file).entries()), file)


def samples_with(file, **changes):
    found = {"values": np.zeros((2, 3)), "steps": np.int64(4), "identity": np.array('{"seeds": [0, 1]}'), **changes}
    np.savez(file, **{name: value for name, value in found.items() if value is not None})


@pytest.mark.parametrize(
    "changes, field",
    [
        ({"values": None}, "values"),
        ({"values": np.zeros((3, 3))}, "3 values of 2 seeds"),
        ({"values": np.zeros((2, 3), int)}, "values"),
        ({"values": np.array("x")}, "values"),
        ({"steps": np.array([1, 2])}, "steps"),
        ({"steps": np.float64("nan")}, "steps"),
        ({"steps": np.int64(-4)}, "steps"),
        ({"identity": np.array("{")}, "property name"),
        ({"identity": np.array("[" * 100_000)}, "nested too deeply"),
        ({"identity": np.array("[]")}, "identity"),
        ({"identity": np.array('{"seeds": 3}')}, "seeds"),
        ({"identity": np.array('{"seeds": [0, null]}')}, "seeds[1]"),
        ({"identity": np.array('{"seeds": [0, -1]}')}, "seeds[1]"),
    ],
)
def test_samples(changes, field, tmp_path):
    samples_with(tmp_path / "samples.npz", **changes)
    refused(lambda: Samples.load(tmp_path / "samples.npz"), tmp_path / "samples.npz", field)


JSON = {
    "nested": ("[" * 100_000, "nested too deeply"),
    "nested objects": ('{"a":' * 100_000, "nested too deeply"),
    "bytes": (b"\xff\xfe{}", "utf-8"),
    "cut off": ('{"a": ', "is not JSON"),
    "nothing": ("", "is not JSON"),
    "list": ("[1]", "must hold a JSON object"),
    "digits": (f'{{"a": {"9" * 5000}}}', "is not JSON"),
}


@pytest.mark.parametrize("damage", JSON)
def test_json(damage, tmp_path):
    content, message = JSON[damage]
    file = tmp_path / "config.json"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    for call in (
        lambda: read_json(file),
        lambda: StepGrid.load(file),
        lambda: SigDEG.load(tmp_path),
        lambda: NetworkDenoiser.load(tmp_path),
        lambda: DigitClassifier.load(tmp_path),
    ):
        refused(call, file, message)


@pytest.mark.parametrize(
    "content",
    [b"", b"hello", struct.pack("<Q", 2**63) + b"{}", struct.pack("<Q", 8) + b"notjson!", struct.pack("<Q", 2) + b"[]"],
)
def test_tensors(content, tmp_path):
    (tmp_path / "a.safetensors").write_bytes(content)
    refused(lambda: read_tensors(tmp_path / "a.safetensors"), tmp_path / "a.safetensors", "pickles are not loaded")


@pytest.mark.parametrize(
    "tensors, message",
    [
        ({"mean": torch.zeros(2)}, "mean, variance, basis_0"),
        ({"mean": torch.zeros(2), "variance": -torch.ones(2)}, "variance"),
        ({"mean": torch.zeros(2), "variance": torch.ones(2, dtype=torch.int64)}, "variance"),
        ({"mean": torch.zeros(2), "variance": torch.ones(2), "basis_0": torch.ones(2, 2)}, "basis[0]"),
        ({"mean": torch.zeros(2), "variance": torch.ones(2), "basis_0": torch.ones(3)}, "basis[0]"),
        ({"mean": torch.zeros(3), "variance": torch.ones(2)}, "event"),
    ],
)
def test_references(tensors, message, tmp_path):
    save_file(tensors, tmp_path / "reference.safetensors")
    file = tmp_path / "reference.safetensors"
    refused(lambda: GaussianReference.load(file, (2,)), file, message)


@pytest.mark.parametrize("quantiles", [None, 3, "01", [], [0, None, 1], [0, "x", 1], [0, float("nan"), 1], [0, [1], 1]])
def test_grids(quantiles, tmp_path):
    write_json(tmp_path / "grid.json", {"quantiles": quantiles})
    refused(lambda: StepGrid.load(tmp_path / "grid.json"), tmp_path / "grid.json", "quantiles")


def tar_of(file, name="a.png", data=b"\x89PNG"):
    with tarfile.open(file, "w") as archive:
        member = tarfile.TarInfo(name)
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))


@pytest.mark.parametrize("damage", ["flipped", "cut off", "header", "text", "nothing"])
def test_compressed_archives(damage, tmp_path):
    data = pytest.importorskip("sdesig.images.image_data")
    rows = np.random.default_rng(0).bytes(50_000)
    tar_of(tmp_path / "plain.tar", data=rows)
    whole = lzma.compress((tmp_path / "plain.tar").read_bytes())
    file = tmp_path / "images.tar.xz"
    file.write_bytes(
        {
            "flipped": whole[:20_000] + bytes([whole[20_000] ^ 255]) + whole[20_001:],
            "cut off": whole[:30_000],
            "header": whole[:8] + b"\x99\x99" + whole[10:],
            "text": b"hello",
            "nothing": b"",
        }[damage]
    )
    refused(lambda: [decode for _, decode in data.open_source(file).entries()], file, "complete archive")


# --- configurations --------------------------------------------------------------------------------------------------


def places(config, at=()):
    """Where its fields are, of the objects in it too."""
    for key, value in config.items():
        yield (*at, key)
        if isinstance(value, dict):
            yield from places(value, (*at, key))


def with_field(config, place, value):
    changed = copy.deepcopy(config)
    inner = changed
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    return changed


def damaged_everywhere(file, load, values=DAMAGED):
    """Every field of a configuration, damaged in every way, is either harmless or refused in one line."""
    config = json.loads(file.read_text())
    refusals = 0
    for place in places(config):
        for value in values:
            if place == ("type",) and value is None:
                continue
            file.write_text(json.dumps(with_field(config, place, value)))
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    load()
            except FileError as error:
                text, refusals = str(error), refusals + 1
                assert len(text.splitlines()) == 1
                assert text.startswith(str(file.parent)), text
                named = any(str(key) in text for key in place) or "weights" in text or "must hold a " in text
                named = named or (place == ("grid",) and "quantiles" in text)
                assert named, f"{place} = {value!r}: {text}"
    file.write_text(json.dumps(config))
    load()
    return refusals


def generator(network, event, kind="solver", rank=None):
    torch.manual_seed(0)
    reference = GaussianReference(torch.zeros(event), torch.ones(event), torch.eye(event[-1]))
    teacher = NetworkDenoiser(network, 1.0)
    space = PathSpace(event, (0.1, 10.0), reference, cells=2**6, depth=4)
    return SigDEG.from_teacher(teacher, space, depth=2, cell=kind, rank=rank)


@pytest.mark.parametrize("kind", ["solver", "plain", "low rank", "images"])
def test_generators(kind, tmp_path):
    if kind == "images":
        made = generator(UNet(1, 4, widths=(8,)), (1, 4, 4))
    else:
        cell, rank = {"solver": ("solver", None), "plain": ("plain", None), "low rank": ("solver", 2)}[kind]
        made = generator(MLP(2, width=8, blocks=1), (2,), cell, rank)
    made.save(tmp_path)
    values = DAMAGED if kind == "solver" else SOME
    refusals = damaged_everywhere(tmp_path / "config.json", lambda: SigDEG.load(tmp_path), values)
    assert refusals > 14 * len(values)


def test_denoisers(tmp_path):
    NetworkDenoiser(MLP(2, width=8, blocks=1), 1.0).save(tmp_path)
    assert damaged_everywhere(tmp_path / "config.json", lambda: NetworkDenoiser.load(tmp_path)) > 80


def test_classifiers(tmp_path):
    DigitClassifier().save(tmp_path)
    assert damaged_everywhere(tmp_path / "config.json", lambda: DigitClassifier.load(tmp_path)) > 10


def test_sizes_of_a_damaged_configuration_take_no_memory(tmp_path, monkeypatch):
    """No module is initialized but on the device "meta"."""
    NetworkDenoiser(MLP(2, width=8, blocks=1), 1.0).save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["network"].update(width=2**20, blocks=2)
    write_json(tmp_path / "config.json", config)
    devices = []
    initialize = torch.nn.Linear.reset_parameters
    monkeypatch.setattr(
        torch.nn.Linear,
        "reset_parameters",
        lambda layer: (devices.append(layer.weight.device.type), initialize(layer))[1],
    )
    refused(lambda: NetworkDenoiser.load(tmp_path), tmp_path / "config.json", "numbers")
    assert {*devices} == {"meta"}


# --- runs ------------------------------------------------------------------------------------------------------------


def trained(folder, iterations=4):
    torch.manual_seed(0)
    module = torch.nn.Linear(2, 1)

    def loss(iteration, generator):
        return module(torch.randn(4, 2, generator=generator)).square().mean(), 4

    options = TrainingOptions(iterations=iterations, checkpoint_every=2)
    return train(module, loss, folder, options, recorded={}, progress=False)


@pytest.mark.parametrize(
    "change, field",
    [
        (lambda t: t.pop("iteration"), "iteration"),
        (lambda t: t.update(iteration=torch.tensor(-5)), "iteration"),
        (lambda t: t.update(iteration=torch.tensor(2.5)), "iteration"),
        (lambda t: t.update(iteration=torch.zeros(3)), ""),
        (lambda t: t.pop("module.bias"), "bias"),
        (lambda t: t.update({"average.weight": torch.zeros(3, 2)}), "weight"),
        (lambda t: t.update({"optimizer.0.exp_avg": torch.zeros(7)}), "optimizer.0"),
        (lambda t: t.pop("optimizer.1.exp_avg_sq"), "optimizer.1"),
        (lambda t: t.clear() or t.update(a=torch.zeros(1)), ""),
    ],
)
def test_checkpoints(change, field, tmp_path):
    trained(tmp_path)
    file = tmp_path / "checkpoint.safetensors"
    tensors = {name: value.clone() for name, value in load_file(file).items()}
    change(tensors)
    save_file(tensors, file)
    refused(lambda: trained(tmp_path), file, field)


@pytest.mark.parametrize("line", ["null", "[]", "{}", '{"iteration": null}', '{"iteration": "x"}', "{", "[" * 100_000])
def test_lines_of_statistics_that_are_none_are_dropped(line, tmp_path):
    trained(tmp_path)
    file = tmp_path / "stats.jsonl"
    good = file.read_text()
    file.write_text(f"{good}{line}\n")
    trained(tmp_path)
    assert file.read_text() == good


# --- outputs ---------------------------------------------------------------------------------------------------------


def test_outputs_that_cannot_be_written_are_found_and_nothing_is_left(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    for path, folder in (("file/x", False), ("file/x/y", True), ("file", True), ("folder", False)):
        with pytest.raises(OSError, match=r"^out (cannot be written|must be a (file|folder)).*" + path):
            check_output("out", tmp_path / path, folder=folder)
    for path, folder in (("new/x.npz", False), ("new/x", True), ("file", False), ("folder", True)):
        check_output("out", tmp_path / path, folder=folder)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "folder"]


def test_an_output_that_fails_later_is_named_not_its_temporary_file(tmp_path, monkeypatch):
    def full(path, *arguments, **options):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError) as failure:
        write_json(tmp_path / "report.json", {})
    assert failure.value.filename == str(tmp_path / "report.json")


def test_references_are_read_as_they_were_written(tmp_path):
    GaussianReference(torch.zeros(2), torch.ones(2), torch.eye(2)).save(tmp_path / "r.safetensors")
    assert torch.equal(GaussianReference.load(tmp_path / "r.safetensors", (2,)).variance, torch.ones(2))

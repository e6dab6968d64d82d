"""`make gpu` in small, on the CPU: what it writes, that it goes on, and that no part stops the others."""

import contextlib
import json
import time

import numpy as np
import pytest
import torch
from virtual_device import unavailable, virtual_device

from experiments.gpu import parts, running
from experiments.gpu.__main__ import main
from experiments.gpu.running import line

NAMES = ["same_image", "costs", "scheduler", "speed", "training", "tests", "cifar10"]


def arguments(folder, *more):
    return ["--device", "cpu", "--tiny", "--runs", str(folder), *more]


def written(folder, name):
    return json.loads((folder / "results" / f"{name}.json").read_text())


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A file of images."""
    file = tmp_path_factory.mktemp("images") / "images.npz"
    np.savez(file, images=np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), dtype=np.uint8))
    return str(file)


@pytest.fixture(scope="module")
def run(diffusers, images, tmp_path_factory):
    """Folder of a whole run."""
    folder = tmp_path_factory.mktemp("gpu")
    assert main(arguments(folder, "--data", images)) == 0
    return folder


@pytest.fixture
def replaced(monkeypatch):
    """A function that puts other parts in the place of all."""

    def use(**functions):
        monkeypatch.setattr(parts, "PARTS", {name: (part, 60.0) for name, part in functions.items()})

    return use


def test_every_part_is_done_and_measures(run):
    assert list(parts.PARTS) == NAMES
    for name in NAMES:
        found = written(run, name)
        assert (found["status"], found["error"]) == ("done", ""), name
        assert found["lines"]
        assert all(np.isfinite(row["value"]) for row in found["lines"])
        assert "CPU" in found["machine"]


def test_what_is_measured(run):
    assert all(row["reached"] for row in written(run, "same_image")["lines"])
    values = {row["what"]: row["value"] for row in written(run, "tests")["lines"]}
    assert values["tests that failed"] == 0
    assert values["tests passed"] > 0
    values = {row["what"]: row["value"] for row in written(run, "cifar10")["lines"]}
    assert (values["teacher: iterations of 2"], values["plain: iterations of 2"]) == (2, 2)
    faster, ten, whole = (row["value"] for row in written(run, "speed")["lines"])
    assert faster == pytest.approx(whole / ten)


@pytest.mark.skipif(unavailable() is not None, reason=str(unavailable()))
@pytest.mark.parametrize("name", [name for name in NAMES if name != "tests"])
def test_parts_leave_their_tensors_on_the_device(name, images, tmp_path, request):
    """The virtual device refuses to mix its tensors with the CPU's, as CUDA does."""
    if name == "scheduler":
        request.getfixturevalue("diffusers")
    with virtual_device():
        assert parts.PARTS[name][0](running.Setting("virt", True, tmp_path, images, time.monotonic() + 600))


def test_the_summary(run):
    text = (run / "results" / "summary.md").read_text()
    assert all(f"| {name} " in text for name in NAMES)
    assert "failed:" not in text


def test_a_second_run_has_nothing_to_do(run, capsys):
    before = {file: file.stat().st_mtime_ns for file in (run / "results").glob("*.json")}
    assert main(arguments(run)) == 0
    assert capsys.readouterr().out.count("done before") == len(NAMES)
    assert {file: file.stat().st_mtime_ns for file in before} == before


def test_a_part_that_fails_does_not_stop_the_others(replaced, tmp_path, capsys):
    def failing(setting):
        raise RuntimeError("CUDA error")

    replaced(first=failing, second=lambda setting: [line("time", 3.0, "ms", most=2.0)])
    assert main(arguments(tmp_path)) == 1
    assert written(tmp_path, "first")["status"] == "failed"
    assert "RuntimeError: CUDA error" in written(tmp_path, "first")["error"]
    (row,) = written(tmp_path, "second")["lines"]
    assert (row["reached"], row["target"]) == (False, "<= 2")
    text = (tmp_path / "results" / "summary.md").read_text()
    assert "failed: RuntimeError: CUDA error" in text
    assert "1 targets are missed" in text
    replaced(first=lambda setting: [], second=failing)
    assert main(arguments(tmp_path)) == 0  # only what failed is run again


def test_a_part_ends_at_its_time(monkeypatch, tmp_path):
    finished = []

    def long(setting):
        time.sleep(60)
        finished.append(True)

    monkeypatch.setattr(parts, "PARTS", {"long": (long, 0.2)})
    assert main(arguments(tmp_path)) == 1
    assert not finished
    assert written(tmp_path, "long")["status"] == "out of time"


def test_a_training_goes_on_where_it_was_stopped(monkeypatch, tmp_path, images):
    """At its time it ends with what was done, and is run again."""
    monkeypatch.setattr(parts, "PARTS", {"cifar10": (parts.cifar10, 60.0)})

    def stopped(self, *_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(parts.Study, "distilled", stopped)
        patch.setattr(running.Setting, "seconds_left", 0.5)
        patch.setattr(running, "limited", lambda seconds: contextlib.nullcontext())  # a first run may take longer
        assert main(arguments(tmp_path, "--data", images)) == 0
    assert written(tmp_path, "cifar10")["status"] == "partial"
    assert written(tmp_path, "cifar10")["lines"][0]["what"] == "teacher: iterations of 2"
    teacher = (tmp_path / "teacher" / "checkpoint.safetensors").stat().st_mtime_ns
    assert main(arguments(tmp_path, "--data", images)) == 0
    assert written(tmp_path, "cifar10")["status"] == "done"
    assert (tmp_path / "teacher" / "checkpoint.safetensors").stat().st_mtime_ns == teacher


def test_ctrl_c_stops_all(replaced, tmp_path):
    def stopped(setting):
        raise KeyboardInterrupt

    replaced(first=stopped)
    with pytest.raises(KeyboardInterrupt):
        main(arguments(tmp_path))
    assert not (tmp_path / "results" / "first.json").exists()


def test_without_images_it_says_so(replaced, tmp_path):
    replaced(cifar10=parts.cifar10)
    assert main(arguments(tmp_path)) == 0
    assert "skipped: no images: --data" in (tmp_path / "results" / "summary.md").read_text()


def test_without_a_gpu_one_line_says_what_is_needed(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["--out", str(tmp_path)]) == 1
    (message,) = capsys.readouterr().err.splitlines()
    assert message.startswith("make gpu needs a GPU and a torch built for CUDA")
    assert not list(tmp_path.iterdir())


def test_failed_tests_are_counted_and_named(monkeypatch, tmp_path):
    file = tmp_path / "test_bad.py"
    file.write_text("def test_bad():\n    assert 1 == 2\n\ndef test_good():\n    pass\n")
    monkeypatch.setattr(parts, "TINY_TESTS", [str(file)])
    found = parts.tests(running.Setting("cpu", True, tmp_path, None, time.monotonic() + 60))
    values = {row["what"]: row["value"] for row in found}
    assert (values["tests that failed"], values["tests passed"]) == (1, 1)
    assert any(what.startswith("failed: ") and "test_bad" in what for what in values)

"""Files are whole or not there; what killed processes left is removed, what others write is not."""

import contextlib
import json
import os
import subprocess
import sys
import threading

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from sdesig._files import replacing, write_json, write_tensors
from sdesig._modules import load_state, save_module


def temporaries(folder):
    return [file for file in folder.iterdir() if file.name.startswith(".")]


WRITER = """
import sys
from pathlib import Path
from sdesig._files import replacing
with replacing(Path(sys.argv[1])) as temporary:
    temporary.write_text("half")
    print("begun", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def other_process():
    """A process that writes a file in two parts: it begins, and ends or is killed when it is told to."""
    with contextlib.ExitStack() as started:

        def start(file):
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
            child = started.enter_context(subprocess.Popen([sys.executable, "-c", WRITER, str(file)], **pipes))
            started.callback(child.kill)
            assert child.stdout.readline() == b"begun\n"
            return child

        yield start


def test_what_killed_processes_left_is_removed_by_the_next_write(tmp_path, other_process):
    file = tmp_path / "state.json"
    child = other_process(file)
    child.kill()
    child.wait()
    assert len(temporaries(tmp_path)) == 1
    write_json(tmp_path / "another.json", {})
    assert len(temporaries(tmp_path)) == 1
    write_json(file, {"whole": True})
    assert not temporaries(tmp_path)
    assert json.loads(file.read_text()) == {"whole": True}


def test_what_another_process_writes_stays(tmp_path, other_process):
    file = tmp_path / "state.json"
    child = other_process(file)
    write_json(file, {})
    assert len(temporaries(tmp_path)) == 1
    child.communicate(b"\n")
    assert child.returncode == 0
    assert file.read_text() == "half"
    assert not temporaries(tmp_path)


def test_a_process_number_that_comes_again(tmp_path):
    """In a container the next process has the number of the one that was killed there."""
    file = tmp_path / "state.json"
    with replacing(file) as temporary:
        temporary.write_text("")
        left = temporary.with_name(temporary.name.replace(f"-{os.getpid()}-", f"-{os.getpid()}-0"))
        left.touch()
        write_json(file, {})
        assert temporary.exists()
        assert not left.exists()


def test_what_another_host_writes_stays_for_a_day(tmp_path):
    file = tmp_path / "state.json"
    left = tmp_path / ".sdesig-otherone-1-0000-state.json"
    left.touch()
    write_json(file, {})
    assert left.exists()
    os.utime(left, (0, 0))
    write_json(file, {})
    assert not left.exists()


def test_threads_write_one_file(tmp_path):
    """The last one to finish is it; none meets another's temporary file."""
    file, errors, together = tmp_path / "state.json", [], threading.Barrier(4)

    def write(number):
        try:
            for _ in range(10):
                with replacing(file) as temporary:
                    together.wait(60)
                    temporary.write_text(str(number) * 100)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert len({*file.read_text()}) == 1
    assert not temporaries(tmp_path)


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    done, sync, rename = [], os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda opened: done.append("sync") or sync(opened))
    monkeypatch.setattr(os, "replace", lambda *names: done.append("rename") or rename(*names))
    write_tensors(tmp_path / "tensors.safetensors", {"one": torch.ones(2)})
    assert done[:2] == ["sync", "rename"]


def test_a_failed_write_leaves_what_was_there(tmp_path):
    file = tmp_path / "state.json"
    write_json(file, 1)

    def fail():
        with replacing(file) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert file.read_text() == "1\n"
    assert not temporaries(tmp_path)


class Tied(nn.Module):
    """One matrix with two names, and a row of it with a third."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
        self.two.weight = self.one.weight
        self.register_buffer("row", self.one.weight.detach()[0])


def test_tensors_that_share_memory_are_kept_under_all_their_names(tmp_path):
    saved, loaded = Tied(), Tied()
    save_module(tmp_path, {}, saved)
    assert load_file(tmp_path / "weights.safetensors").keys() == {"one.weight", "two.weight", "row"}
    load_state(tmp_path, loaded)
    assert loaded.one.weight is loaded.two.weight
    assert torch.equal(loaded.one.weight, saved.one.weight)

"""The compiled drawing of paths beside processes, threads, interrupts, transforms, and unusual clocks."""

import json
import logging
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from numba import njit
from numba.core.event import Event, EventStatus

from sdesig import _compiled as compiled
from sdesig.brownian import BrownianPath, UniformClock
from sdesig.sampling import SNRClock

F64 = torch.float64


def test_signs_are_told_in_float64(monkeypatch):
    """Of clocks that cut a node at almost 2 : 1; in float32 some of them are on the wrong side."""
    variance = torch.tensor([3.1293907])
    for _ in range(20):
        variance = torch.cat([torch.nextafter(variance[:1], torch.zeros(1)), variance])
    for _ in range(20):
        variance = torch.cat([variance, torch.nextafter(variance[-1:], torch.full((1,), 9.0))])
    values = []
    for _ in range(2):
        path = BrownianPath(1e-4, 1e4, (1, 41), seeds=[3], clock=SNRClock(variance), cells=1280, dtype=torch.float32)
        times = path.grid(1280)
        values.append(path.partial_signatures(times[[640, 704, 768]]).coefficients)
        monkeypatch.setattr("sdesig.brownian.master_grid.kernels", lambda: None)
    torch.testing.assert_close(*values, rtol=0, atol=1e-5)


def test_variances_that_float32_cannot_work_with():
    clock = SNRClock(torch.tensor([1.0, 1e38]))
    path = BrownianPath(0.1, 100.0, (1, 2), seeds=[0], clock=clock, dtype=torch.float32)
    assert path.partial_signatures(path.grid(8)).coefficients.isfinite().all()


def test_a_variance_may_be_a_parameter():
    variance = torch.ones(3, dtype=F64, requires_grad=True)
    paths = [BrownianPath(0.1, 10.0, (2, 3), seeds=[0, 1], clock=SNRClock(c), dtype=F64) for c in (variance, 1.0)]
    values = [path.partial_signatures(path.grid(5)).coefficients for path in paths]
    torch.testing.assert_close(*values, rtol=0, atol=1e-12)


@pytest.mark.parametrize("clock", [UniformClock(), SNRClock(torch.tensor([0.0, 1.0, 4.0]))])
def test_paths_within_transforms(clock):
    """Both such that are made outside and such that are made within; what they keep serves queries after it."""

    def new() -> BrownianPath:
        return BrownianPath(0.1, 10.0, (2, 3), seeds=[0, 1], clock=clock, cells=2**4)

    def values(path: BrownianPath) -> torch.Tensor:
        step = path.partial_signature(*path.grid(16)[:2].tolist())
        return torch.stack([path.initial_noise(), *step.coefficients])

    outside = new()
    expected, x = values(new()), torch.tensor(2.0)
    for path in (outside, None):
        function = lambda x, path=path: (x * values(new() if path is None else path)).sum()  # noqa: E731
        torch.testing.assert_close(torch.func.grad(function)(x), expected.sum())
        torch.testing.assert_close(torch.func.jvp(function, (x,), (x,))[1], 2 * expected.sum())
        torch.testing.assert_close(torch.func.vmap(function)(x[None]), 2 * expected.sum()[None])
    later = outside.grid(16)[1:3].tolist()
    assert torch.equal(outside.partial_signature(*later).coefficients, new().partial_signature(*later).coefficients)


def test_a_default_device_has_no_say():
    """What is compiled writes to the CPU's memory."""
    path = BrownianPath(0.0, 1.0, (2, 3), seeds=[0, 1], cells=2**4)
    expected = path.partial_signatures(path.grid(16)).coefficients
    path = BrownianPath(0.0, 1.0, (2, 3), seeds=[0, 1], cells=2**4)
    with torch.device("meta"):
        first = path.partial_signature(0.0, 1 / 16).coefficients
    second = path.partial_signature(1 / 16, 2 / 16).coefficients
    assert torch.equal(torch.stack([first, second], 1), expected[:, :2])


def large(seeds: Sequence[int]) -> BrownianPath:
    """A path whose drawing is worth more than one thread."""
    return BrownianPath(0.0, 1.0, (len(seeds), 2**12), seeds=seeds, cells=2**3)


def draw_and_send(connection) -> None:
    path = large(range(8))
    connection.send_bytes(path.partial_signatures(path.grid(8)).coefficients.numpy().tobytes())


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork")  # of Python, and of jax where it is loaded
def test_forked_processes_draw_with_threads_of_their_own():
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        path = large(range(8))
        expected = path.partial_signatures(path.grid(8)).coefficients.numpy().tobytes()
        context = multiprocessing.get_context("fork")
        here, there = context.Pipe()
        process = context.Process(target=draw_and_send, args=(there,))
        process.start()
        try:
            assert here.poll(60)
            assert here.recv_bytes() == expected
        finally:
            process.kill()
            process.join()
    finally:
        torch.set_num_threads(threads)


def test_an_interrupt_waits_for_the_threads(monkeypatch):
    """They write to memory that is freed after it."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    done = []

    def run(first: int, last: int) -> None:
        if first == 0:
            raise KeyboardInterrupt
        time.sleep(0.2)
        done.append(last)

    with pytest.raises(KeyboardInterrupt):
        compiled._in_threads(run, 2, 2**20)
    assert done == [2]


def test_without_a_folder_for_what_is_compiled():
    """Of code that is in no file, numba finds none."""
    names: dict[str, Any] = {}
    exec("def double(x): return 2 * x", names)
    with pytest.raises(RuntimeError, match="cannot cache"):
        njit(cache=True)(names["double"])
    assert compiled._compiled(names["double"])(3) == 6


def test_one_line_says_that_it_is_compiled(caplog):
    """And none that something else is."""
    announcement = compiled._Announcement()
    caplog.set_level(logging.INFO, "sdesig")
    for dispatcher in (njit(large), compiled._descend, compiled._normals):
        announcement.on_start(Event("numba:compile", EventStatus.START, {"dispatcher": dispatcher}))
    (line,) = caplog.messages
    assert line.startswith("sdesig compiles the drawing of its paths")


@pytest.mark.parametrize("error", ["ImportError", "OSError"])
def test_without_numba(error: str, tmp_path):
    """Paths are drawn by the operations of torch."""
    (tmp_path / "numba.py").write_text(f"raise {error}('no library')\n")
    code = "from sdesig.brownian import BrownianPath; print(BrownianPath(0, 1, 2, seeds=[1, 2])(0, 1).tolist())"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == pytest.approx(BrownianPath(0, 1, 2, seeds=[1, 2])(0, 1).tolist(), rel=1e-6)

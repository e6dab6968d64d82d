"""Shared set-up: one thread per worker, and hypothesis profiles without wall-clock deadlines and with fixed seeds."""

import signal

import hypothesis
import pytest
import torch
from virtual_device import unavailable

torch.set_num_threads(1)
signal.signal(signal.SIGINT, signal.default_int_handler)  # shells let jobs in the background ignore it
unavailable()  # registers the device: torch's autograd has threads for the devices that there are at its first backward
hypothesis.settings.register_profile("sdesig", deadline=None, derandomize=True, max_examples=50, print_blob=True)
hypothesis.settings.load_profile("sdesig")

SHARED = {
    "test_levy_area.py",
    "test_commands_processes.py",
    "test_demo.py",
    "test_experiments_gpu.py",
    "test_experiments_images.py",
    "test_experiments_students.py",
    "test_validation.py",
}
"""Files whose tests share what takes many seconds to make."""


def pytest_collection_modifyitems(items):
    """These first: workers take long runs of tests at the beginning, and each makes what the tests of its run share."""
    items.sort(key=lambda item: item.path.name not in SHARED)


@pytest.fixture(scope="session")
def diffusers():
    """The package, of the extra `images`; without it the test is skipped."""
    return pytest.importorskip("diffusers")


@pytest.fixture
def compiled_batches(monkeypatch):
    """torch.compile replaced by what only records the batch of every call."""
    calls = []

    def counting(call, **_):
        def compiled(*inputs):
            calls.append(len(inputs[0]))
            return call(*inputs)

        return compiled

    monkeypatch.setattr(torch, "compile", counting)
    return calls

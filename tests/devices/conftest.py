"""What the tests of a device share: the virtual one everywhere, a GPU where there is one, and the CPU to compare."""

import dataclasses
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from virtual_device import unavailable, virtual_device, waits

from sdesig.sigdeg import Samples
from sdesig.signature import PartialSignature


@pytest.fixture(params=["virt", "cuda"])
def device(request):
    if request.param == "cuda":
        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")
        yield "cuda"
        return
    if unavailable() is not None:
        pytest.skip(unavailable())
    with virtual_device():
        yield "virt"


@pytest.fixture
def counted(device):
    """`waits`, of the virtual device only."""
    if device != "virt":
        pytest.skip("counts on the virtual device")
    return waits


@pytest.fixture
def agrees(device):
    """Whether a computation has the same result on the device as on the CPU, and leaves it on the device.

    It is called with the name of a device and returns tensors, or what has some. Random numbers of a GPU's generators
    are others than the CPU's: with `draws` only shapes are compared there.
    """

    def check(compute, *, rtol=1e-9, atol=1e-10, draws=False, stays=True):
        expected, found = (list(tensors(compute(where))) for where in ("cpu", device))
        assert len(found) == len(expected) > 0
        for value, other in zip(found, expected, strict=True):
            assert value.device.type == (device if stays else "cpu")
            assert (value.shape, value.dtype) == (other.shape, other.dtype)
            if not draws or device == "virt":
                torch.testing.assert_close(value.cpu(), other, rtol=rtol, atol=atol)

    return check


def tensors(value):
    """All of them inside lists, signatures, modules and data classes, numbers included."""
    if isinstance(value, Tensor):
        yield value.detach()
    elif isinstance(value, PartialSignature):
        yield value.coefficients
        if value.levy_area is not None:
            yield value.levy_area
    elif isinstance(value, nn.Module):
        yield from (p.detach() for p in value.parameters())
    elif isinstance(value, Samples):
        yield value.values
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from tensors(item)
    elif isinstance(value, dict):
        yield from tensors(list(value.values()))
    elif dataclasses.is_dataclass(value) or isinstance(value, SimpleNamespace):
        yield from tensors(list(vars(value).values()))

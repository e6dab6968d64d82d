"""The virtual device itself: it refuses what CUDA does, counts where a host would wait, and has the CPU's numbers."""

import copy

import pytest
import torch
from torch import nn
from virtual_device import unavailable, virtual_device, waits

pytestmark = pytest.mark.skipif(unavailable() is not None, reason=str(unavailable()))


@pytest.fixture(autouse=True)
def _virtual():
    with virtual_device():
        yield


@pytest.fixture
def x():
    return torch.arange(12.0).reshape(4, 3).to("virt")


def test_a_tensor_of_it(x):
    assert x.device == torch.device("virt", 0)
    assert (x.T + 1).device == x.device
    assert torch.equal((x @ x.T).cpu(), x.cpu() @ x.cpu().T)


def test_views_share_memory(x):
    x.view(12)[0] = 5.0
    x.T[1, 0] += 5.0
    assert x.flatten().tolist()[:3] == [5.0, 6.0, 2.0]


REFUSED = {
    "sum": lambda x: x + torch.ones(3),
    "sum from the left": lambda x: torch.ones(3) + x,
    "product": lambda x: x @ torch.ones(3, 3),
    "layer": lambda x: nn.functional.linear(x, torch.ones(3, 3)),
    "where": lambda x: torch.where(x > 0, x, torch.ones(3)),
    "stack of numbers": lambda x: torch.stack([x[0, 0], torch.ones(())]),
    "concatenation": lambda x: torch.cat([x, torch.ones(4, 3)]),
    "einsum": lambda x: torch.einsum("ij,j->i", x, torch.ones(3)),
    "in place": lambda x: torch.ones(()).add_(x[0, 0]),
    "a mask of it for the CPU": lambda x: torch.ones(4, 3)[x > 0],
    "numpy": lambda x: x.numpy(),
    "a generator of it for the CPU": lambda x: torch.randn(3, generator=torch.Generator("virt")),
    "a permutation": lambda x: torch.randperm(3, generator=torch.Generator("virt")),
    "a generator of the CPU": lambda x: torch.randn(3, device="virt", generator=torch.Generator()),
    "a generator of the CPU in place": lambda x: x.normal_(generator=torch.Generator()),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(x, name):
    with pytest.raises((RuntimeError, TypeError), match=r"device|virt"):
        REFUSED[name](x)


def test_what_may_be_mixed(x):
    number, rows = torch.tensor(2.0, dtype=torch.float64), torch.tensor([0, 2])
    assert (x * number).dtype == torch.float32
    assert (x * number)[rows].cpu().tolist() == (x.cpu() * 2)[[0, 2]].tolist()
    x[rows] = number.float()
    assert x[[0, 2]].tolist() == [[2.0] * 3] * 2


WAITING = {
    "item": (lambda x: x[0, 0].item(), 1),
    "a truth": (lambda x: bool((x > 0).all()), 1),
    "list": (lambda x: x.tolist(), 1),
    "copy": (lambda x: x.cpu(), 1),
    "number from": (lambda x: float(x[0, 0]), 1),
    "mask": (lambda x: x[x > 3], 1),
    "into a mask": (lambda x: x.index_put_((x > 3,), torch.zeros((), device="virt")), 1),
    "nonzero": (lambda x: x.nonzero(), 1),
    "equal": (lambda x: torch.equal(x, x), 1),
    "copy to it": (lambda x: torch.ones(3).to("virt"), 0),
    "rows": (lambda x: x[[0, 1]], 0),
    "arithmetic": (lambda x: (x.sin() @ x.T).sum(), 0),
    "random": (lambda x: torch.randn(3, device="virt", generator=torch.Generator("virt")), 0),
}


@pytest.mark.parametrize("name", WAITING)
def test_waits_are_counted(x, name):
    call, expected = WAITING[name]
    with waits() as count:
        call(x)
    assert count.total == expected, count.by
    call(x)
    assert count.total == expected


def test_generators(x):
    generator = torch.Generator("virt").manual_seed(3)
    assert generator.device == x.device
    assert isinstance(generator, torch.Generator)
    assert isinstance(torch.default_generator, torch.Generator)
    found = torch.randn(3, device="virt", generator=generator)
    assert torch.equal(found.cpu(), torch.randn(3, generator=torch.Generator().manual_seed(3)))


def test_a_network_is_trained_and_copied():
    """By a fused optimizer, which has kernels of its own; with convolutions, which go to a backend another way."""

    def trained(device):
        torch.manual_seed(0)
        layers = nn.Conv2d(1, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.SiLU(), nn.Flatten(), nn.Linear(64, 2)
        net = nn.Sequential(*layers)
        net = copy.deepcopy(net.double().to(device))
        optimizer = torch.optim.AdamW(net.parameters(), fused=True)
        images = torch.linspace(-1, 1, 48, dtype=torch.float64).reshape(3, 1, 4, 4).to(device)
        for _ in range(3):
            optimizer.zero_grad()
            net(images).square().sum().backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
        return [p.detach() for p in net.parameters()]

    for value, other in zip(trained("virt"), trained("cpu"), strict=True):
        assert value.device.type == "virt"
        torch.testing.assert_close(value.cpu(), other, rtol=1e-9, atol=1e-12)


def test_derivatives_forwards_and_batched(x):
    def f(s):
        return s.sin() * s

    def forward(g):
        return lambda s: torch.func.jvp(g, (s,), (torch.ones_like(s),))[1]

    by_rows = torch.func.vmap(torch.func.hessian(lambda row: f(row).sum()))
    for call in (forward(forward(f)), torch.func.vmap(torch.func.jacrev(f)), by_rows):
        torch.testing.assert_close(call(x).cpu(), call(x.cpu()))


def test_autocast(x):
    weight = torch.ones(3, 2, device="virt")
    with torch.autocast("virt", torch.bfloat16):
        assert (x @ weight).dtype == torch.bfloat16
        assert (x.double() @ weight.double()).dtype == torch.float64
    assert (x @ weight).dtype == torch.float32


def test_it_is_gone_afterwards():
    inside = torch.Generator
    with virtual_device():
        assert torch.Generator is inside
        with virtual_device():
            pass
    assert torch.Generator is inside

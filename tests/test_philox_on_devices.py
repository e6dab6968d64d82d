"""The numbers of a seed by one compiled kernel, as on a GPU: the same bits as operation by operation."""

import functools
import shutil

import pytest
import torch
from torch._inductor import config, metrics

from sdesig import _philox as philox

SIZES = [(1, 1, 1), (1, 1, 40), (1, 5, 4), (3, 1, 9), (7, 2, 784), (4, 4, 16)]
"""Cells, rows, numbers; a size of one is where torch.compile makes another kernel."""


@pytest.fixture
def compiled(monkeypatch):
    """A function that has the CPU's numbers compiled by a backend from now on, and returns how often it compiled."""
    compile_ = torch.compile

    def use(backend):
        graphs = []

        def counting(graph, inputs, **options):
            graphs.append(graph)
            return torch._dynamo.lookup_backend(backend)(graph, inputs, **options)

        torch._dynamo.reset()
        philox._kernel.cache_clear()
        monkeypatch.setattr(philox, "_FUSED_ON", {"cpu"})
        monkeypatch.setattr(torch, "compile", functools.partial(compile_, backend=counting))
        return graphs

    yield use
    philox._kernel.cache_clear()


def numbers(cells, rows, count, dtype, stream=2):
    seeds = torch.arange(rows) * 3_000_000_019 + 2**62
    return philox.normals(seeds, 2**32 - 1 - torch.arange(cells), stream, count, dtype)


@pytest.mark.parametrize(
    "backend, dtype, rtol",
    [
        ("aot_eager", torch.float64, 1e-14),
        pytest.param(
            *("inductor", torch.float32, 1e-6),
            marks=pytest.mark.skipif(not shutil.which("g++"), reason="needs a compiler"),
        ),
    ],
)
def test_the_same_numbers_from_one_graph_for_all_sizes(compiled, backend, dtype, rtol):
    expected = [numbers(*sizes, dtype) for sizes in SIZES]
    graphs = compiled(backend)
    metrics.reset()
    with config.patch(fx_graph_cache=False):
        found = [numbers(*sizes, dtype) for sizes in SIZES]
    for value, other in zip(found, expected, strict=True):
        assert (value.shape, value.dtype) == (other.shape, other.dtype)
        torch.testing.assert_close(value, other, rtol=rtol, atol=1e-14)
    assert len(graphs) == 1
    assert metrics.generated_kernel_count == (backend == "inductor")


def test_the_same_words(compiled):
    """The integers are equal, also where products wrap around."""
    words = [torch.randint(2**32, (6, 9), generator=torch.Generator().manual_seed(k)) for k in range(6)]
    compiled("aot_eager")
    found = torch.compile(philox.philox4x32, dynamic=True)(words[:4], words[4:])
    assert all(map(torch.equal, found, philox.philox4x32(words[:4], words[4:])))


def test_streams_do_not_compile_again(compiled):
    graphs = compiled("aot_eager")
    for stream in (0, 1, 2, 7):
        numbers(3, 2, 20, torch.float32, stream)
    assert len(graphs) == 1


def test_no_cells(compiled):
    compiled("aot_eager")
    assert numbers(0, 2, 5, torch.float32).shape == (0, 2, 5)


def test_where_compiling_fails_is_warned_of_once(compiled, recwarn):
    expected = numbers(3, 2, 20, torch.float32)

    def failing(graph, inputs):
        raise RuntimeError("no compiler here\nand more")

    compiled(failing)
    for _ in range(2):
        assert torch.equal(numbers(3, 2, 20, torch.float32), expected)
    (warning,) = recwarn
    assert "torch.compile does not work here, paths are drawn without it" in str(warning.message)


def test_not_within_another_compilation(compiled):
    expected = numbers(3, 2, 20, torch.float32)
    graphs = compiled("aot_eager")
    found = torch.compile(lambda: numbers(3, 2, 20, torch.float32))()
    torch.testing.assert_close(found, expected)
    assert philox._kernel.cache_info().currsize == 0
    assert graphs

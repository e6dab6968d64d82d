"""The counter-based generator: published known answers, frozen normals, law, and independence across keys."""

import math

import mpmath
import numpy as np
import pytest
import torch
from numba import njit
from scipy import stats

from sdesig._compiled import _cos_sin, _radius
from sdesig._philox import GENERATOR_VERSION, check_seeds, kernels, normals, philox4x32

ONES = 0xFFFFFFFF
KNOWN_ANSWERS = [  # the Random123 distribution's kat_vectors, philox4x32 with 10 rounds
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((ONES,) * 4, (ONES,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.fixture(params=["compiled", "torch"], autouse=True)
def form(request, monkeypatch):
    """Both forms that there are on the CPU."""
    if request.param == "torch":
        monkeypatch.setattr("sdesig._philox.kernels", lambda: None)
    else:
        assert kernels() is not None
    return request.param


@pytest.mark.parametrize("counter, key, expected", KNOWN_ANSWERS)
def test_known_answers(counter, key, expected):
    words = philox4x32([torch.tensor([c, c]) for c in counter], [torch.tensor([[k]]) for k in key])
    assert all(w.tolist() == [[e, e]] for w, e in zip(words, expected, strict=True))


def test_frozen_normals():
    """The numbers of a seed may change with GENERATOR_VERSION only; and they are Box-Muller of the Philox words."""
    assert GENERATOR_VERSION == 1
    values = normals(torch.tensor([0, 2**63 - 1]), torch.tensor([1, 4095]), 0, 3, torch.float64)
    frozen = [1.2926493910633365, -0.8244476512110348, -1.5965952822320035]
    torch.testing.assert_close(values[0, 0], torch.tensor(frozen, dtype=torch.float64), rtol=1e-13, atol=0)
    for (i, cell), (j, seed) in [((0, 1), (0, 0)), ((1, 4095), (1, 2**63 - 1))]:
        counter = [torch.tensor(word) for word in (0, cell, 0, GENERATOR_VERSION)]
        key = [torch.tensor(seed % 2**32), torch.tensor(seed // 2**32)]
        u = [(int(word) + 0.5) / 2**32 for word in philox4x32(counter, key)]
        radius, angle = [math.sqrt(-2 * math.log(u[k])) for k in (0, 2)], [2 * math.pi * u[k] for k in (1, 3)]
        expected = [radius[0] * math.cos(angle[0]), radius[0] * math.sin(angle[0]), radius[1] * math.cos(angle[1])]
        torch.testing.assert_close(values[i, j], torch.tensor(expected, dtype=torch.float64))


def test_both_forms_are_the_same_numbers(form, monkeypatch):
    """To rounding; the angle of torch's form is rounded once more, which tells where a cosine is next to zero."""
    seeds = torch.tensor([0, 1, 2**32 - 1, 2**32, 2**63 - 1])
    for count in (1, 3, 10, 4100):
        found = normals(seeds, torch.tensor([0, 1, 2**32 - 1]), 2**32 - 1, count, torch.float64)
        monkeypatch.setattr("sdesig._philox.kernels", lambda: None)
        torch.testing.assert_close(
            found, normals(seeds, torch.tensor([0, 1, 2**32 - 1]), 2**32 - 1, count, torch.float64), rtol=0, atol=5e-15
        )
        monkeypatch.undo()


def test_the_transform_is_right_at_its_ends():
    """Words of all zeros, of all ones, and at the turns of the angle, against Python's floats."""
    compiled = kernels()
    if compiled is None:
        pytest.skip("no compiled form")
    words = np.array(
        [0, 1, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1, *(k * 2**29 + d for k in range(8) for d in (0, 1, -1))]
    )
    words = (words % 2**32).astype(np.uint32)
    radius, cosine, sine = (np.empty(len(words)) for _ in range(3))
    transform(words, radius, cosine, sine)
    for k, word in enumerate(words.tolist()):
        u = (word + 0.5) / 2**32
        assert radius[k] == pytest.approx(math.sqrt(-2 * math.log(u)), rel=4e-16)
        assert cosine[k] == pytest.approx(float(mpmath.cospi(2 * mpmath.mpf(u))), abs=3e-16)
        assert sine[k] == pytest.approx(float(mpmath.sinpi(2 * mpmath.mpf(u))), abs=3e-16)


@njit(error_model="numpy")
def transform(words, radius, cosine, sine):
    for k in range(len(words)):
        radius[k] = _radius(words[k])
        cosine[k], sine[k] = _cos_sin(words[k])


def test_law_and_independence():
    """Kolmogorov-Smirnov at 1e-6, and correlations within 5 standard errors, across positions, rows, cells, streams."""
    seeds, cells = torch.arange(64), torch.arange(256)
    values = normals(seeds, cells, 0, 7, torch.float64)
    assert stats.kstest(values.flatten().numpy(), "norm").pvalue > 1e-6
    other = normals(seeds, cells, 1, 7, torch.float64)
    n = values.numel()
    neighbours = [(values[1:], values[:-1]), (values[:, 1:], values[:, :-1]), (values[..., 1:], values[..., :-1])]
    pairs = [(values, other), *neighbours]
    for a, b in pairs:
        for power in (1, 2):
            product = (a**power - (power - 1)) * (b**power - (power - 1))
            assert abs(product.mean()) < 5 * product.std() / math.sqrt(product.numel())
    assert abs((values**4).mean() - 3) < 5 * math.sqrt(96 / n)


def test_a_row_is_a_function_of_its_seed():
    seeds = torch.tensor([5, 2**62 + 1, 17, 3])
    whole = normals(seeds, torch.arange(50), 2, 10, torch.float32)
    assert torch.equal(normals(seeds[2:3], torch.arange(50), 2, 10, torch.float32)[:, 0], whole[:, 2])
    assert torch.equal(normals(seeds.flip(0), torch.arange(20, 50), 2, 10, torch.float32), whole[20:].flip(1))
    assert not torch.equal(normals(seeds + 1, torch.arange(50), 2, 10, torch.float32), whole)


def test_dtypes_agree_to_rounding():
    seeds = torch.arange(100)
    wide, narrow = (normals(seeds, torch.arange(100), 0, 8, dtype) for dtype in (torch.float64, torch.float32))
    torch.testing.assert_close(narrow, wide.to(torch.float32), rtol=0, atol=0)


@pytest.mark.parametrize(
    "seeds, error",
    [
        ([], ValueError),
        ([-1], ValueError),
        ([2**63], ValueError),
        ([1.0], TypeError),
        ([True], TypeError),
        ("12", TypeError),
        (5, TypeError),
        (None, TypeError),
        (torch.tensor(5), TypeError),
        (range(10**13), ValueError),
        (torch.tensor([1.0]), TypeError),
        (torch.tensor([[1]]), TypeError),
    ],
)
def test_bad_seeds(seeds, error):
    with pytest.raises(error, match="seeds must"):
        check_seeds(seeds)

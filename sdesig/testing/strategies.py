"""Hypothesis strategies for the values of this package: words, step lengths, partial signatures, paths, SDEs.

Random values are functions of drawn integer seeds: a failing example is reproduced from what hypothesis prints.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

try:
    from hypothesis import strategies as st
except ImportError as error:
    raise ImportError("sdesig.testing.strategies needs hypothesis: pip install hypothesis") from error

from sdesig._checks import NOISE_STRUCTURES, check_choice, check_dtype, check_integer, check_real, check_shape
from sdesig.brownian import BrownianPath
from sdesig.sde.base import SDE
from sdesig.sde.problems import PROBLEMS, LinearSDE
from sdesig.signature import PartialSignature, Word, sample_partial_signature

_SEEDS = st.integers(0, 2**32 - 1)


def words(dim: int = 2, max_length: int = 4) -> st.SearchStrategy[Word]:
    """Words of at most `max_length` letters from {0, ..., dim}, the empty word included.

    Raises:
        TypeError, ValueError: not integers >= 0.
    """
    letters = st.integers(0, check_integer("dim", dim, 0))
    return st.lists(letters, max_size=check_integer("max_length", max_length, 0)).map(tuple)


def step_lengths(minimum: float = 2.0**-20, maximum: float = 16.0) -> st.SearchStrategy[float]:
    """Step lengths in [minimum, maximum], of any order of magnitude alike; 1 is the simplest one.

    Raises:
        TypeError, ValueError: not 0 < minimum <= maximum.
    """
    low = check_real("minimum", minimum, minimum=0.0, strict=True)
    high = check_real("maximum", maximum, minimum=low)
    return st.floats(math.log2(low), math.log2(high)).map(lambda exponent: min(max(2.0**exponent, low), high))


def partial_signatures(
    shape: int | Sequence[int] = (2,),
    depth: int = 2,
    *,
    area: bool = False,
    h: st.SearchStrategy[float] | None = None,
    dtype: torch.dtype = torch.float64,
) -> st.SearchStrategy[PartialSignature]:
    """Partial signatures drawn from their exact law, with a Levy area of Foster's weak approximation if `area`.

    The weak approximation costs the same at every h, and is any antisymmetric matrix to the algebra. For tests of the
    law of areas, sample them yourself.

    Args:
        shape: shape of one value; with `area` its last axis is the noise dimension.
        depth: number of Legendre coefficients, >= 1.
        area: whether the values have a Levy area.
        h: strategy of the step lengths; default `step_lengths()`.
        dtype: dtype of the values.

    Raises:
        TypeError, ValueError: an argument of the wrong type or range.
    """
    size, depth, dtype = check_shape("shape", shape), check_integer("depth", depth, 1), check_dtype(dtype)

    def sample(h: float, seed: int) -> PartialSignature:
        generator = torch.Generator().manual_seed(seed)
        return sample_partial_signature(
            size, h, depth, area="foster" if area else None, generator=generator, dtype=dtype
        )

    return st.builds(sample, step_lengths() if h is None else h, _SEEDS)


def brownian_paths(
    shape: int | Sequence[int] = (2, 2),
    depth: int = 2,
    *,
    cells: int = 64,
    area: bool = False,
    dtype: torch.dtype = torch.float64,
) -> st.SearchStrategy[BrownianPath]:
    """Seeded Brownian paths on [0, t1], t1 from 1/16 to 16, with a master grid.

    Args:
        shape: shape of a value: the first axis is the batch, one seed each; with `area` the last one is the noise
            dimension.
        depth, cells, area, dtype: as in `BrownianPath`.

    Raises:
        TypeError, ValueError: a shape without a batch axis; on drawing, an argument that `BrownianPath` refuses.
    """
    size = check_shape("shape", shape)
    if not size:
        raise ValueError("shape must have a batch axis; got ()")

    def build(t1: float, seeds: list[int]) -> BrownianPath:
        return BrownianPath(0.0, t1, size, seeds=seeds, depth=depth, cells=cells, area=area, dtype=dtype)

    return st.builds(build, step_lengths(2.0**-4, 16.0), st.lists(_SEEDS, min_size=size[0], max_size=size[0]))


def sdes(noise: str | None = None) -> st.SearchStrategy[SDE]:
    """The problems of `sdesig.sde.problems`, and `LinearSDE`s with 1 to 3 components and Brownian motions.

    The matrices of the latter have entries k/4, |k| <= 4; their noise structure is "general".

    Args:
        noise: one of `NOISE_STRUCTURES`, to draw only SDEs declared to have it.

    Raises:
        ValueError: another `noise`.
    """
    if noise is not None:
        check_choice("noise", noise, NOISE_STRUCTURES)
    # Unlike their base class, all of them are constructible without arguments.
    fitting = [problem for problem in PROBLEMS if noise in (None, problem().noise_structure)]  # type: ignore[call-arg]
    problems = st.sampled_from(fitting).flatmap(st.builds)
    return st.one_of(problems, _linear_sdes()) if noise in (None, "general") else problems


@st.composite
def _linear_sdes(draw: st.DrawFn) -> LinearSDE:
    dim, noise_dim = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    entries = st.integers(-4, 4).map(lambda k: k / 4)
    row = st.lists(entries, min_size=dim, max_size=dim)
    matrix = st.lists(row, min_size=dim, max_size=dim)
    return LinearSDE(draw(matrix), draw(st.lists(matrix, min_size=noise_dim, max_size=noise_dim)))

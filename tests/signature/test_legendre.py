"""The Legendre algebra against exact rational arithmetic and against its own defining properties."""

import mpmath
import numpy as np
import pytest
import sympy
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from sdesig.signature import legendre

x = sympy.symbols("x")


def exact_p(k: int, at: sympy.Expr) -> sympy.Expr:
    return sympy.sqrt(2 * k + 1) * sympy.legendre(k, 2 * at - 1)


def test_orthonormal_legendre_against_sympy():
    points = [sympy.Rational(k, 7) for k in range(8)]
    expected = [[float(exact_p(k, p)) for p in points] for k in range(13)]
    values = legendre.orthonormal_legendre(torch.tensor([float(p) for p in points], dtype=torch.float64), 13)
    torch.testing.assert_close(values, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-12)


def test_part_to_whole_against_sympy():
    start, length, depth = sympy.Rational(1, 5), sympy.Rational(3, 7), 5
    expected = [
        [
            float(sympy.sqrt(length) * sympy.integrate(exact_p(k, start + length * x) * exact_p(j, x), (x, 0, 1)))
            for j in range(depth)
        ]
        for k in range(depth)
    ]
    for place in (torch.tensor([1 / 5, 3 / 7], dtype=torch.float64), np.array([1 / 5, 3 / 7])):
        value = torch.as_tensor(legendre.part_to_whole(place[0], place[1], depth))
        torch.testing.assert_close(value, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-14)


def test_floats_and_tensors_give_one_matrix():
    first, second = 0.3, 0.9
    matrix = legendre.halves_to_whole(first, second, 4)
    tensors = torch.tensor([[first, 3 * first]], dtype=torch.float64), torch.tensor([[second]], dtype=torch.float64)
    torch.testing.assert_close(legendre.halves_to_whole(*tensors, 4)[0, 0], matrix, rtol=0, atol=1e-14)


def test_word_weights_against_sympy():
    for a, b in [(0, 0), (0, 1), (1, 0), (2, 1), (3, 4), (0, 11)]:
        scale = sympy.factorial(a) * sympy.factorial(b)
        for k, weight in enumerate(legendre.word_weights(a, b)):
            expected = sympy.integrate(x**a * (1 - x) ** b * exact_p(k, x), (x, 0, 1)) / scale
            assert abs(weight - float(expected)) < 1e-15


@given(ratio=st.floats(1e-12, 1 - 1e-12), depth=st.integers(1, 12))
def test_split_matrix_is_orthogonal(ratio: float, depth: int):
    matrix = legendre.split_matrix(*torch.tensor([ratio, 1 - ratio], dtype=torch.float64), depth)
    torch.testing.assert_close(matrix @ matrix.mT, torch.eye(2 * depth, dtype=torch.float64), rtol=0, atol=1e-13)


def gram_schmidt(ratio: float, depth: int) -> torch.Tensor:
    """The split matrix in 80 digits: rows of the step by integration, then unit vectors of the shorter part."""
    with mpmath.workdps(80):
        r = mpmath.mpf(ratio)
        powers = [
            [
                mpmath.sqrt(2 * k + 1) * (-1) ** (k + j) * mpmath.binomial(k, j) * mpmath.binomial(k + j, j)
                for j in range(k + 1)
            ]
            for k in range(depth)
        ]
        rows = []
        for k in range(depth):
            row = []
            for start, length in ((mpmath.mpf(0), r), (r, 1 - r)):
                moved = [mpmath.mpf(0)] * (k + 1)  # p_k(start + length x) in powers of x
                for j, weight in enumerate(powers[k]):
                    for m in range(j + 1):
                        moved[m] += weight * mpmath.binomial(j, m) * start ** (j - m) * length**m
                row += [
                    mpmath.sqrt(length)
                    * sum(a * b / (m + i + 1) for m, a in enumerate(moved) for i, b in enumerate(powers[j]))
                    for j in range(depth)
                ]
            rows.append(row)
        for i in range(depth):
            vector = [mpmath.mpf(0)] * (2 * depth)
            vector[i if r < 2 * (1 - r) else depth + i] = mpmath.mpf(1)
            for row in rows + rows:
                part = sum(a * b for a, b in zip(vector, row, strict=True))
                vector = [a - part * b for a, b in zip(vector, row, strict=True)]
            norm = mpmath.sqrt(sum(a * a for a in vector))
            rows.append([a / norm for a in vector])
        return torch.tensor([[float(a) for a in row] for row in rows], dtype=torch.float64)


@pytest.mark.parametrize("depth, tolerance", [(1, 1e-15), (2, 1e-15), (4, 4e-15), (8, 1e-13), (12, 1e-12)])
def test_split_matrix_against_gram_schmidt_in_many_digits(depth: int, tolerance: float):
    for ratio in (1e-12, 1e-5, 0.3, 0.5, 0.66, 0.67, 1 - 1e-5, 1 - 1e-12):
        matrix = legendre.split_matrix(*torch.tensor([ratio, 1 - ratio], dtype=torch.float64), depth)
        torch.testing.assert_close(matrix, gram_schmidt(ratio, depth), rtol=0, atol=tolerance)


@given(ratio=st.floats(0.05, 0.6), depth=st.integers(1, 4))
def test_split_matrix_is_continuous_in_the_ratio(ratio: float, depth: int):
    """Rounding in a ratio must not turn a path into another one."""
    lengths = [torch.tensor([r, 1 - r], dtype=torch.float64) for r in (ratio, ratio * (1 + 1e-12))]
    near = [legendre.split_matrix(*pair, depth) for pair in lengths]
    assert (near[0] - near[1]).abs().max() < 1e-9


@pytest.mark.parametrize("depth, tolerance", [(1, 1e-15), (2, 1e-15), (3, 3e-15), (4, 1e-14), (5, 1e-14)])
def test_a_cut_is_the_split_matrix(depth: int, tolerance: float):
    """Of unit vectors, at ratios of parts that the signs depend on, given as floats and for each coordinate."""
    ratios = torch.tensor([1e-12, 1e-4, 0.3, 1.0, 1.99, 2.0, 2.01, 7.0, 1e4, 1e12], dtype=torch.float64)
    matrices = legendre.split_matrix(ratios, torch.ones_like(ratios), depth)
    unit = torch.eye(2 * depth, dtype=torch.float64)
    by_step = unit[:, None].expand(-1, len(ratios), -1)
    parts = legendre.cut(by_step[:depth], by_step[depth:], ratios[:, None].numpy())
    torch.testing.assert_close(parts.permute(1, 3, 2, 0).flatten(2), matrices, rtol=0, atol=tolerance)
    by_coordinate = unit[:, None, :, None].expand(-1, 1, -1, len(ratios))
    parts = legendre.cut(by_coordinate[:depth], by_coordinate[depth:], ratios[None, None])
    torch.testing.assert_close(parts[:, 0].permute(3, 2, 1, 0).flatten(2), matrices, rtol=0, atol=tolerance)


@pytest.mark.parametrize("depth, once, each", [(1, 4, 20), (2, 8, 40), (4, 24, 130)])
def test_a_cut_takes_few_operations(depth: int, once: int, each: int):
    """Each is a kernel on a GPU: with one ratio for all coordinates, and one for each."""
    values, normals = torch.randn(2, depth, 3, 5, generator=torch.Generator().manual_seed(0))
    for ratio, most in ((np.ones((3, 1)), once), (torch.ones(3, 5), each)):
        with Operations() as operations:
            legendre.cut(values, normals, ratio)
        assert operations.count <= most


class Operations(TorchDispatchMode):
    """How many operations write something: views and empty tensors do not."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, operation, types, arguments=(), options=None):
        made = operation(*arguments, **(options or {}))
        self.count += not operation.is_view and "empty" not in operation.name()
        return made


def test_apply_agrees_with_einsum():
    generator = torch.Generator().manual_seed(1)
    values = torch.randn(4, 3, 5, generator=generator, dtype=torch.float64)
    for batch in ((), (5,), (3, 1)):
        matrix = torch.randn(*batch, 2, 4, generator=generator, dtype=torch.float64)
        expected = torch.einsum("bdij,jbd->ibd", matrix.expand(3, 5, 2, 4), values)
        torch.testing.assert_close(legendre.apply(matrix, values), expected)
        torch.testing.assert_close(legendre.apply_in_order(matrix, list(values)), expected)


def test_apply_in_order_does_not_depend_on_the_shape():
    """Bit for bit: a row of a path must not change with the batch size."""
    generator = torch.Generator().manual_seed(0)
    for dtype in (torch.float32, torch.float64):
        values = torch.randn(4, 37, 5, generator=generator, dtype=dtype)
        matrix = torch.randn(3, 4, generator=generator, dtype=torch.float64)
        whole = legendre.apply_in_order(matrix, values)
        for size in (1, 2, 7, 16, 31):
            assert torch.equal(legendre.apply_in_order(matrix, values[:, :size].clone()), whole[:, :size])
            assert torch.equal(
                legendre.apply_in_order(matrix, values[:, 37 - size :, 2:3].clone()), whole[:, 37 - size :, 2:3]
            )

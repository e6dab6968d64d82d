"""The truncated tensor algebra over {0, ..., d} or {1, ..., d}: Chen product, exp, log, inverse, signatures."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from numbers import Real

import torch
from torch import Tensor

from sdesig._checks import check_dtype, check_floating, check_integer, check_shape, check_step
from sdesig.signature.words import Word, check_word, ito_to_stratonovich, stratonovich_to_ito

MOST_WORDS = 2**28
"""Most words of one length in a series: gigabytes, once an exponential is taken."""


@dataclass(frozen=True, eq=False, repr=False)
class TensorSeries:
    """A batch of truncated tensor series sum_w x_w e_w, e_w = e_{j_1} (x) ... (x) e_{j_k} for w = (j_1, ..., j_k).

    Series are added, scaled by numbers or tensors that broadcast against the batch shape, and multiplied with `@`, the
    Chen product (x @ y)_w = sum_{uv = w} x_u y_v. Batch shapes broadcast. Everything is differentiable.

    Attributes:
        levels: level k has shape (*batch, D, ..., D), k axes of size D after the batch axes, k = 0, ..., depth >= 1;
            all of one dtype and device.
        time: whether letter 0 (time) is among the letters: they are 0, ..., D - 1 if so, otherwise 1, ..., D. Letter 1
            is W^1 in either case.

    Raises:
        TypeError, ValueError: levels of other shapes or dtypes; sums and products of series whose letters, depth or
            dtype differ.
    """

    levels: tuple[Tensor, ...]
    time: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.levels, tuple) or len(self.levels) < 2:
            raise ValueError(f"levels must be a tuple of at least two tensors; got {self.levels!r}")
        for k, level in enumerate(self.levels):
            check_floating(f"levels[{k}]", level)
        if not isinstance(self.time, bool):
            raise TypeError(f"time must be a bool; got {self.time!r}")
        batch, size = self.levels[0].shape, self.levels[1].shape[-1] if self.levels[1].ndim else 0
        if size < 1:
            raise ValueError(f"levels[1] must have shape (*batch, D), D >= 1; got {tuple(self.levels[1].shape)}")
        for k, level in enumerate(self.levels):
            if level.shape != (*batch, *(size,) * k):
                raise ValueError(f"levels[{k}] must have shape {(*batch, *(size,) * k)}; got {tuple(level.shape)}")
            if (level.dtype, level.device) != (self.dtype, self.device):
                raise ValueError(
                    f"levels[{k}] must be {self.dtype} on {self.device}; got {level.dtype}, {level.device}"
                )

    @classmethod
    def identity(
        cls,
        dim: int,
        depth: int,
        *,
        time: bool = True,
        batch_shape: Sequence[int] = (),
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> TensorSeries:
        """The neutral element, 1 at the empty word and 0 elsewhere, over 0, ..., dim (1, ..., dim without time)."""
        size = check_integer("dim", dim, 0 if time else 1) + time
        values = torch.zeros(*check_shape("batch_shape", batch_shape), size, dtype=check_dtype(dtype), device=device)
        return cls.from_letters(values, depth, time=time)._add_scalar(1.0)

    @classmethod
    def from_letters(cls, values: Tensor, depth: int, *, time: bool = True) -> TensorSeries:
        """The series sum_j values[..., j] e_j of one-letter words; values has shape (*batch, D)."""
        if check_floating("values", values).ndim < 1:
            raise ValueError(f"values must have shape (*batch, D); got {tuple(values.shape)}")
        depth = check_integer("depth", depth, 1)
        batch, size = values.shape[:-1], values.shape[-1]
        if size**depth > MOST_WORDS:
            raise ValueError(f"depth must leave {MOST_WORDS} words of that length at most; got {size}^{depth}")
        higher = (values.new_zeros(*batch, *(size,) * k) for k in range(2, depth + 1))
        return cls((values.new_zeros(batch), values, *higher), time)

    def __repr__(self) -> str:
        shape, letters = tuple(self.batch_shape), f"{self.letters.start} to {self.letters.stop - 1}"
        return f"TensorSeries(batch {shape}, letters {letters}, depth {self.depth}, {self.dtype} on {self.device})"

    @property
    def depth(self) -> int:
        """Length of the longest words."""
        return len(self.levels) - 1

    @property
    def letters(self) -> range:
        """The letters: 0, ..., D - 1 with time, 1, ..., D without."""
        size = self.levels[1].shape[-1]
        return range(size) if self.time else range(1, size + 1)

    @property
    def batch_shape(self) -> torch.Size:
        return self.levels[0].shape

    @property
    def dtype(self) -> torch.dtype:
        return self.levels[0].dtype

    @property
    def device(self) -> torch.device:
        return self.levels[0].device

    def __getitem__(self, word: Word) -> Tensor:
        """Coefficient of `word`, of the batch shape; raise ValueError for a word too long or a letter outside."""
        word = check_word("word", word)
        if len(word) > self.depth:
            raise ValueError(f"word must have at most {self.depth} letters; got {word}")
        if any(letter not in self.letters for letter in word):
            raise ValueError(f"word must have letters in {self.letters[0]}, ..., {self.letters[-1]}; got {word}")
        coefficients = self.levels[len(word)]
        for letter in reversed(word):
            coefficients = coefficients[..., self.letters.index(letter)]
        return coefficients

    def __matmul__(self, other: TensorSeries) -> TensorSeries:
        """Chen product: the signature of a path followed by another one is the product of their signatures."""
        if not isinstance(other, TensorSeries):
            return NotImplemented
        self._check_compatible(other)
        levels = []
        for k in range(self.depth + 1):
            level = _outer(self.levels[0], other.levels[k], 0, k)
            for i in range(1, k + 1):
                level = level + _outer(self.levels[i], other.levels[k - i], i, k - i)
            levels.append(level)
        return TensorSeries(tuple(levels), self.time)

    def __add__(self, other: TensorSeries) -> TensorSeries:
        if not isinstance(other, TensorSeries):
            return NotImplemented
        self._check_compatible(other)
        return TensorSeries(tuple(x + y for x, y in zip(self.levels, other.levels, strict=True)), self.time)

    def __sub__(self, other: TensorSeries) -> TensorSeries:
        if not isinstance(other, TensorSeries):
            return NotImplemented
        return self + (-1.0) * other

    def __mul__(self, scalar: float | Tensor) -> TensorSeries:
        """Product with a scalar, in the dtype of the series."""
        if not isinstance(scalar, (Real, Tensor)):
            return NotImplemented
        factor = torch.as_tensor(scalar, dtype=self.dtype, device=self.device)
        return TensorSeries(tuple(_outer(factor, level, 0, k) for k, level in enumerate(self.levels)), self.time)

    __rmul__ = __mul__

    def exp(self) -> TensorSeries:
        """sum_k x^k / k!, for any scalar part."""
        scalar = self.levels[0]
        nilpotent = self._add_scalar(-scalar)
        return nilpotent._power_series([1 / math.factorial(k) for k in range(self.depth + 1)]) * scalar.exp()

    def log(self) -> TensorSeries:
        """The inverse of `exp`: sum_k (-1)^{k-1} (x - 1)^k / k if the scalar part is 1.

        Raises:
            ValueError: the scalar part is not > 0 everywhere.
        """
        scalar = self.levels[0]
        if not bool((scalar > 0).all()):
            raise ValueError(f"log needs a scalar part > 0 everywhere; its minimum is {scalar.min().item()}")
        nilpotent = (self * (1 / scalar))._add_scalar(-1.0)
        coefficients = [0.0, *((-1) ** (k - 1) / k for k in range(1, self.depth + 1))]
        return nilpotent._power_series(coefficients)._add_scalar(scalar.log())

    def inverse(self) -> TensorSeries:
        """Inverse for the Chen product; for a signature, that of the reversed path: x_w -> (-1)^l(w) x_{reversed w}.

        Raises:
            ValueError: the scalar part vanishes somewhere.
        """
        scalar = self.levels[0]
        if bool((scalar == 0).any()):
            raise ValueError("inverse needs a scalar part != 0 everywhere; it contains 0")
        nilpotent = (self * (1 / scalar))._add_scalar(-1.0)
        return nilpotent._power_series([float((-1) ** k) for k in range(self.depth + 1)]) * (1 / scalar)

    def ito_to_stratonovich(self) -> TensorSeries:
        """Stratonovich integrals J_w of the process whose Ito integrals these are; raise ValueError without time."""
        return self._convert(stratonovich_to_ito)

    def stratonovich_to_ito(self) -> TensorSeries:
        """Ito integrals I_w of the process whose Stratonovich integrals these are; raise ValueError without time."""
        return self._convert(ito_to_stratonovich)

    def _convert(self, expansion: Callable[[Word], dict[Word, Fraction]]) -> TensorSeries:
        """The series whose coefficient of w is sum_v expansion(w)[v] x_v."""
        if not self.time:
            raise ValueError("conversion needs time among the letters, but time is False")
        levels = [self.levels[0]]
        for k, level in enumerate(self.levels[1:], start=1):
            words = itertools.product(self.letters, repeat=k)
            entries = [torch.stack([float(c) * self[v] for v, c in expansion(word).items()]).sum(0) for word in words]
            levels.append(torch.stack(entries, dim=-1).reshape(level.shape))
        return TensorSeries(tuple(levels), self.time)

    def _power_series(self, coefficients: Sequence[float]) -> TensorSeries:
        """sum_k coefficients[k] x^k, k = 0, ..., depth, by Horner's rule, for a vanishing scalar part."""
        *lower, second, first = coefficients
        result = (first * self)._add_scalar(second)
        for coefficient in reversed(lower):
            result = (self @ result)._add_scalar(coefficient)
        return result

    def _add_scalar(self, scalar: float | Tensor) -> TensorSeries:
        return TensorSeries((self.levels[0] + scalar, *self.levels[1:]), self.time)

    def _check_compatible(self, other: TensorSeries) -> None:
        mine, theirs = ((x.letters, x.depth, x.dtype) for x in (self, other))
        if mine != theirs:
            raise ValueError(f"series must agree in letters, depth and dtype; got {mine} and {theirs}")


def _outer(x: Tensor, y: Tensor, i: int, j: int) -> Tensor:
    """Tensor product of x, (*batch, D, ..., D) with i letter axes, and y with j letter axes."""
    split = y.ndim - j
    return x.reshape((*x.shape, *(1,) * j)) * y.reshape((*y.shape[:split], *(1,) * i, *y.shape[split:]))


def piecewise_linear_signature(path: Tensor, depth: int, *, time: bool = True) -> TensorSeries:
    """Signature of the piecewise linear path through n + 1 points: the Chen product of the exp(increment).

    Each segment x multiplies the signature S so far by exp(x) in Horner's form, batched over paths: level k becomes
    S_k + (S_{k-1} + ... (S_2 + (S_1 + x/k) (x) x/(k-1)) (x) x/(k-2) ...) (x) x (the fused
    multiply-exponentiate of Kidger & Lyons, Signatory, ICLR 2021).

    Args:
        path: points, shape (*batch, n + 1, D), n >= 0.
        depth: length of the longest words.
        time: whether the columns are the letters 0, ..., D - 1 (the first one is time) or 1, ..., D.

    Raises:
        TypeError, ValueError: not a floating-point path of that shape, depth < 1.
    """
    if check_floating("path", path).ndim < 2 or path.shape[-2] < 1:
        raise ValueError(f"path must have shape (*batch, n + 1, D), n >= 0; got {tuple(path.shape)}")
    start = TensorSeries.from_letters(torch.zeros_like(path[..., 0, :]), depth, time=time)._add_scalar(1.0)
    levels = list(start.levels)
    for increment in path.diff(dim=-2).unbind(-2):
        fractions = [increment / k for k in range(1, depth + 1)]
        for k in range(depth, 0, -1):
            term = fractions[k - 1]
            for i in range(1, k):
                term = _outer(levels[i] + term, fractions[k - i - 1], i, 1)
            levels[k] = levels[k] + term
    return TensorSeries(tuple(levels), time)


def expected_signature(
    dim: int, h: float | Tensor, depth: int, *, time: bool = True, ito: bool = False
) -> TensorSeries:
    """Expected signature of (time, W) or W over a step of length h, W a Brownian motion in R^dim.

    Stratonovich: E J = exp(h e_0 + (h/2) sum_i e_i (x) e_i) (Fawcett, PhD thesis, Oxford 2003; Lyons & Victoir,
    Proc. R. Soc. A 460, 2004). Ito: E I = exp(h e_0), that is h^k / k! for w = 0^k and 0 for every other word. Without
    time the terms in e_0 are absent, and E I is 1 at the empty word only.

    Args:
        dim: number of Brownian motions, >= 1.
        h: step length > 0, a float (then the series is float64) or a tensor of the batch shape.
        depth: length of the longest words.
        time: whether the letters are 0, ..., dim or 1, ..., dim.
        ito: whether the integrals are those of Ito.

    Raises:
        TypeError, ValueError: an argument outside what is allowed above.
    """
    dim, depth = check_integer("dim", dim, 1), check_integer("depth", depth, 1)
    h = check_step("h", h)
    is_time = torch.tensor([1.0] * time + [0.0] * dim, dtype=h.dtype, device=h.device)
    generator = TensorSeries.from_letters(h[..., None] * is_time, depth, time=time)
    if not ito and depth > 1:
        covariance = h[..., None, None] * torch.diag(1.0 - is_time)
        generator = TensorSeries((*generator.levels[:2], covariance / 2, *generator.levels[3:]), time)
    return generator.exp()

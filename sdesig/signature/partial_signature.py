"""The partial signature of a Brownian motion on one step: a value, and its exact sampler."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from sdesig._checks import (
    check_device,
    check_dtype,
    check_floating,
    check_generator,
    check_instance,
    check_integer,
    check_shape,
    check_step,
)
from sdesig.signature import legendre
from sdesig.signature.areas.chen import chen_area
from sdesig.signature.areas.levy_area import levy_area, plan_area
from sdesig.signature.words import Word


class _AreaField:
    """The attribute `levy_area`: a tensor, None, or a function that draws the tensor when it is first asked for."""

    def __get__(self, owner: PartialSignature | None, kind: type | None = None) -> Tensor | None:
        if owner is None:
            return None  # the default of the dataclass
        area = owner.__dict__["_area"]
        if area is not None and not isinstance(area, Tensor):
            with torch.inference_mode(False):  # what is kept serves later readers too, of whom some want gradients
                area = area()
            owner.__dict__["_area"] = owner._check_area(area)
        return area

    def __set__(self, owner: PartialSignature, area: Area) -> None:
        owner.__dict__["_area"] = area


Area = Tensor | Callable[[], Tensor] | None


@dataclass(frozen=True, eq=False)
class PartialSignature:
    """What is known of a Brownian motion W on a step [s, s + h].

    Attributes:
        h: step length, > 0; either zero-dimensional or with as many axes as a value, broadcastable to its shape (one h
            per coordinate is allowed, though not with areas), then of the values' dtype, but at least float32.
        coefficients: (depth, *shape), the Legendre coefficients xi_0, ..., xi_{depth-1} of dW
            (`sdesig.signature.legendre`), iid N(0, 1).
        levy_area: None or (*shape, d), d = shape[-1] the noise dimension:
            A_ij = 1/2 int (W_i dW_j - W_j dW_i) over the step, antisymmetric, unnormalized (of order h). May be given
            as a function without arguments that draws it: called when the area is first read, here or of what is made
            from this value (rows, its truncation, reversal, ...), or when the value is combined; then the area is kept.
            Threads that are first to read it at once may each call it. The values of a path do so.

    Iterated integrals are written I_w (Ito) and J_w (Stratonovich), first letter innermost, letter 0 for time. Values
    of a path may share memory with it: do not change their tensors in place.

    Raises:
        TypeError, ValueError: h not > 0, coefficients without a depth axis, shapes, dtypes or devices that do not fit.
    """

    h: Tensor
    coefficients: Tensor
    levy_area: _AreaField = _AreaField()

    def __post_init__(self) -> None:
        check_floating("coefficients", self.coefficients)
        if self.coefficients.ndim == 0 or len(self.coefficients) == 0:
            raise ValueError(
                f"coefficients must have shape (depth >= 1, *shape); got shape {tuple(self.coefficients.shape)}"
            )
        object.__setattr__(self, "h", fit_step(check_step("h", self.h), self.shape, self.dtype, self.device))
        area = self._area
        if area is None:
            return
        if not self.shape:
            raise ValueError("levy_area must be None for values of shape (), which have no noise dimension")
        if isinstance(area, Tensor) or not callable(area):
            self._check_area(area)
        if self.h.ndim and self.h.shape[-1] != 1:
            raise ValueError(
                f"h must be the same for all coordinates beside a levy_area; got shape {tuple(self.h.shape)}"
            )

    @classmethod
    def unchecked(cls, h: Tensor, coefficients: Tensor, levy_area: Area = None) -> PartialSignature:
        """The value of parts that are known to be right: on a device to look at h would be to wait for it."""
        value = object.__new__(cls)
        shape, dtype, device = tuple(coefficients.shape[1:]), coefficients.dtype, coefficients.device
        value.__dict__.update(h=fit_step(h, shape, dtype, device), coefficients=coefficients, _area=levy_area)
        return value

    @property
    def depth(self) -> int:
        """Number of Legendre coefficients."""
        return len(self.coefficients)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one value, such as the increment."""
        return tuple(self.coefficients.shape[1:])

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of all values."""
        return self.coefficients.dtype

    @property
    def device(self) -> torch.device:
        """Device of all values."""
        return self.coefficients.device

    @property
    def increment(self) -> Tensor:
        """W_{s+h} - W_s = I_(i), N(0, h)."""
        return self._power(0.5) * self.coefficients[0]

    @property
    def space_time_area(self) -> Tensor:
        """H = (1/h) int (W_u - W_s - (u-s)/h W) du, N(0, h/12), independent of the increment. Needs depth 2."""
        self._require(2, "space_time_area")
        return -math.sqrt(1 / 12) * self._power(0.5) * self.coefficients[1]

    @property
    def space_time_time_area(self) -> Tensor:
        """K = (1/h) int (1/2 - (u-s)/h) (W_u - W_s - (u-s)/h W) du, N(0, h/720). Needs depth 3.

        Foster's convention, as in diffrax; independent of the increment and of H.
        """
        self._require(3, "space_time_time_area")
        return math.sqrt(1 / 720) * self._power(0.5) * self.coefficients[2]

    @property
    def time_integral(self) -> Tensor:
        """int (W_u - W_s) du = I_(i,0) = h (W/2 + H), N(0, h^3/3). Needs depth 2."""
        return self.gaussian_word(0, 1)

    def gaussian_word(self, before: int, after: int) -> Tensor:
        """I_(0^a, i, 0^b) = int (u-s)^a/a! (s+h-u)^b/b! dW^i_u for all i at once, a = `before`, b = `after`.

        Centred Gaussian with the covariance of `gaussian_word_covariance`. Needs depth a + b + 1. Equal to J_w.
        """
        check_integer("before", before, 0)
        check_integer("after", after, 0)
        self._require(before + after + 1, f"gaussian_word({before}, {after})")
        weights = self.coefficients.new_tensor(legendre.word_weights(before, after))
        return self._power(before + after + 0.5) * torch.tensordot(weights, self.coefficients[: len(weights)], 1)

    def scalar_word(self, word: Word, *, ito: bool = True) -> Tensor:
        """I_w (or J_w) over the letters {0, 1} for each coordinate by itself: letter 1 is that coordinate's noise.

        Closed forms exist for 0^k: h^k/k!; for one 1 among zeros: `gaussian_word`; and for 1^k:
        I_w = h^{k/2} He_k(W/sqrt h)/k!, J_w = W^k/k!. Other words, such as (1,1,0), (1,0,1) and (0,1,1), are not
        functions of finitely many Gaussian words; of this family only 2 I_(1,1,0) + I_(1,0,1) = W I_(1,0) - h^2/2
        and I_(1,0,1) + 2 I_(0,1,1) = W I_(0,1) - h^2/2 (and their sum) are.

        Raises:
            ValueError: other letters, a depth that is too small, or a word without closed form.
        """
        if any(letter not in (0, 1) for letter in word):
            raise ValueError(f"word must have letters 0 and 1 only; got {word!r}")
        ones = sum(word)
        if ones == 1:
            before = word.index(1)
            return self.gaussian_word(before, len(word) - 1 - before)
        if ones == 0:
            return (self._power(len(word)) / math.factorial(len(word))).to(self.device).expand(self.shape)
        if ones < len(word):
            raise ValueError(f"word {word!r} is not a function of finitely many Gaussian words; see scalar_word")
        w = self.increment
        previous, value = torch.ones_like(w), w
        for k in range(2, ones + 1):
            # (k) I_{1^k} = W I_{1^{k-1}} - h I_{1^{k-2}} in the Ito sense
            correction = self._power(1.0) * previous if ito else 0.0
            previous, value = value, (w * value - correction) / k
        return value

    def truncate(self, depth: int) -> PartialSignature:
        """The same step, with the first `depth` coefficients only."""
        self._require(check_integer("depth", depth, 1), "truncate")
        return PartialSignature.unchecked(self.h, self.coefficients[:depth], self._map_area(lambda area: area))

    def without_area(self) -> PartialSignature:
        """The same step, its Levy area forgotten."""
        return replace(self, levy_area=None)

    def combine(self, later: PartialSignature) -> PartialSignature:
        """The value on [s, s + a + b] from this one on [s, s + a] and `later` on [s + a, s + a + b] (Chen), exactly.

        Keeps the smaller of the two depths.

        Raises:
            ValueError: different shapes, or only one of the two has a Levy area.
            TypeError: another type, different dtypes or devices.
        """
        check_instance("later", later, PartialSignature)
        if later.shape != self.shape:
            raise ValueError(f"later must have the shape {self.shape} of the earlier step; got {later.shape}")
        if later.dtype != self.dtype or later.device != self.device:
            raise TypeError(f"later must be {self.dtype} on {self.device}; got {later.dtype} on {later.device}")
        if (self._area is None) != (later._area is None):
            raise ValueError("later must have a levy_area exactly if the earlier step has one; see without_area")
        depth = min(self.depth, later.depth)
        h = self.h + later.h
        parts = torch.cat([self.coefficients[:depth], later.coefficients[:depth]])
        coefficients = legendre.apply(legendre.halves_to_whole(self.h, later.h, depth), parts)

        area = None
        # Not drawn later: a long product would hold all its factors until then.
        if self.levy_area is not None and later.levy_area is not None:
            area = chen_area(
                torch.stack([self.levy_area, later.levy_area]), torch.stack([self.increment, later.increment])
            )
        return PartialSignature.unchecked(h, coefficients, area)

    def split(self, at: float | Tensor, *, generator: torch.Generator) -> tuple[PartialSignature, PartialSignature]:
        """Values on [s, s + at] and [s + at, s + h], drawn from their exact conditional law given this one.

        Combining them returns this value (to rounding). Both have its depth.

        Raises:
            ValueError: not 0 < at < h, or a value with a Levy area (no practical exact sampler of the two areas given
                their Chen product is known; use a path with a leaf grid).
        """
        check_generator(generator)
        if self._area is not None:
            raise ValueError(
                "split is not possible on a value with a levy_area; use without_area or a path's leaf grid"
            )
        at = fit_step(check_step("at", at), self.shape, self.dtype, self.device, name="at")
        if not bool((at < self.h).all()):
            raise ValueError(f"at must lie in (0, h); got {at.max().item()} for h = {self.h.min().item()}")
        shape = (2 * self.depth, *self.shape)
        normals = torch.randn(shape, generator=generator, dtype=self.dtype, device=self.device)
        first, second = legendre.split_coefficients(self.coefficients, normals, at, self.h - at)
        return PartialSignature.unchecked(at, first), PartialSignature.unchecked(self.h - at, second)

    def reverse(self) -> PartialSignature:
        """The value of the time-reversed path u -> W_{s+h-u}: (W, H, K, A) -> (-W, H, -K, -A), h unchanged.

        (The group inverse of the signature is another operation: it also reverses time's own letter.)
        """
        signs = self.coefficients.new_tensor([-1.0 if k % 2 == 0 else 1.0 for k in range(self.depth)])
        coefficients = self.coefficients * signs.view(-1, *[1] * len(self.shape))
        return PartialSignature.unchecked(self.h, coefficients, self._map_area(torch.neg))

    def __repr__(self) -> str:
        """One line, without numbers; an area is not drawn for it."""
        return (
            f"PartialSignature(values of shape {self.shape}, depth {self.depth}{', area' * (self._area is not None)}, "
            f"{str(self.dtype).removeprefix('torch.')} on {self.device})"
        )

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("len() of a partial signature with zero-dimensional values")
        return self.shape[0]

    def __getitem__(self, index: int | slice) -> PartialSignature:
        """Rows along the first axis of the values, as for a stack of steps: `steps[i]`, `steps[2:5]`."""
        if not isinstance(index, (int, slice)) or not self.shape:
            raise TypeError(f"index must be an int or a slice along the first axis of the values; got {index!r}")
        h = self.h
        if h.ndim:
            h = h[index] if len(h) > 1 else (h[0] if isinstance(index, int) else h)
        return PartialSignature.unchecked(h, self.coefficients[:, index], self._map_area(lambda area: area[index]))

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles hold the area itself."""
        return {"h": self.h, "coefficients": self.coefficients, "_area": self.levy_area}

    @property
    def _area(self) -> Area:
        """The Levy area, or how it will be drawn."""
        return self.__dict__["_area"]

    def _check_area(self, area: object) -> Tensor:
        """Return it; raise TypeError or ValueError unless it is a Levy area for these values."""
        area = check_floating("levy_area", area)
        if area.shape != (*self.shape, self.shape[-1]):
            raise ValueError(
                f"levy_area must have shape (*shape, d) for values of shape {self.shape}; got {tuple(area.shape)}"
            )
        if area.dtype != self.dtype or area.device != self.device:
            raise TypeError(
                f"levy_area must be {self.dtype} on {self.device} as the coefficients; got {area.dtype}, {area.device}"
            )
        return area

    def _map_area(self, function: Callable[[Tensor], Tensor]) -> Area:
        """`function` of the area; None without one, drawn later if this is."""
        if self._area is None:
            return None

        def area() -> Tensor:
            own = self.levy_area
            assert own is not None
            return function(own)

        return area() if isinstance(self._area, Tensor) else area

    def _power(self, exponent: float) -> Tensor:
        """h^exponent in the dtype of the values."""
        power = self.h.sqrt() if exponent == 0.5 else self.h**exponent
        return power if power.dtype == self.coefficients.dtype else power.to(self.dtype)

    def _require(self, depth: int, what: str) -> None:
        if self.depth < depth:
            raise ValueError(f"{what} needs depth >= {depth}; this partial signature has depth {self.depth}")


def join_steps(signatures: PartialSignature, ends: Sequence[int]) -> PartialSignature:
    """A stack of adjoining steps, (n, *shape), to the stack of longer ones between them, exactly (Chen).

    Args:
        signatures: a stack of steps as `BrownianPath.partial_signatures` returns it, without areas.
        ends: increasing indices of steps, in [0, n]: the k-th new step joins signatures[ends[k]:ends[k+1]].

    Raises:
        ValueError: areas, or ends that do not increase or are out of range.
    """
    if signatures._area is not None:
        raise ValueError("signatures must have no levy_area; see without_area")
    bounds = [check_integer(f"ends[{k}]", end, 0, len(signatures)) for k, end in enumerate(ends)]
    if len(bounds) < 2 or any(a >= b for a, b in pairwise(bounds)):
        raise ValueError(f"ends must be two or more indices that increase; got {bounds}")
    lengths = signatures.h.expand(len(signatures), *signatures.h.shape[1:])
    joined = []
    for start, stop in pairwise(bounds):
        matrix = legendre.parts_to_whole(lengths[start:stop], signatures.depth)
        parts = signatures.coefficients[:, start:stop]
        if matrix[0].numel() == signatures.depth**2:
            flat = matrix.reshape(stop - start, signatures.depth, signatures.depth).to(parts)
            joined.append(torch.einsum("nij,jn...->i...", flat, parts))
        else:
            joined.append(torch.einsum("n...ij,jn...->i...", matrix.to(parts), parts))
    sums = torch.stack([lengths[start:stop].sum(0) for start, stop in pairwise(bounds)])
    return PartialSignature.unchecked(sums, torch.stack(joined, 1))


def fit_step(h: Tensor, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, name: str = "h") -> Tensor:
    """Return a step length that is zero-dimensional, or has len(shape) axes that fit `shape`.

    With axes it promotes no value of `dtype`; but float16 would lose a tiny step, which therefore stays float32.
    """
    if h.ndim == 0:
        return h
    if h.device != device:
        raise TypeError(f"{name} must be on {device} like the values; got {h.device}")
    matched = zip(reversed(h.shape), reversed(shape), strict=False)
    if h.ndim > len(shape) or (h.numel() != 1 and any(a not in (1, b) for a, b in matched)):
        raise ValueError(f"{name} must be broadcastable to the shape {tuple(shape)}; got shape {tuple(h.shape)}")
    if h.ndim < len(shape):
        h = h.reshape(*[1] * (len(shape) - h.ndim), *h.shape)
    return h.to(torch.promote_types(dtype, torch.float32))


def check_root(name: str, h: float | Tensor, dtype: torch.dtype) -> None:
    """Raise ValueError where increments of variance h are all 0, or may be infinite, in the dtype."""
    if isinstance(h, Tensor) and h.numel() == 0:
        return
    low, high = (end.item() for end in torch.aminmax(h.detach())) if isinstance(h, Tensor) else (h, h)
    limits = torch.finfo(dtype)
    if not (low**0.5 >= limits.tiny * limits.eps and high**0.5 <= limits.max / 10):
        raise ValueError(f"{name} must have a square root within the range of {dtype}; got {low:.3g} to {high:.3g}")


def sample_partial_signature(
    shape: int | Sequence[int],
    h: float | Tensor,
    depth: int,
    *,
    area: str | None = None,
    terms: int | None = None,
    tolerance: float | None = None,
    generator: torch.Generator,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> PartialSignature:
    """Draw the partial signature of a Brownian motion on a step of length h, exactly at any depth.

    Args:
        shape: shape of one value; with `area` its last axis is the noise dimension.
        h: step length, a float or a tensor broadcastable to `shape`; the result is differentiable in it.
        depth: number of Legendre coefficients; depth m gives all words (0^a, i, 0^b) with a + b < m.
        area: None, or the `method` of `levy_area` that draws the Levy area given the coefficients ("auto" for the
            default). At depth >= 2 it must be jointly right with them.
        terms, tolerance: as in `levy_area`. By default 10^5 samples are far from telling the area's law from the exact
            one.
        generator: source of the depth * prod(shape) normals, and of the area's.

    Raises:
        TypeError, ValueError: an argument of the wrong type or range, h whose square root is none of the dtype; see
            `levy_area` for the area's.
    """
    shape = check_shape("shape", shape)
    check_integer("depth", depth, 1)
    device = check_device(device, check_generator(generator).device)
    dtype = check_dtype(dtype)
    if area is None and not (terms is None and tolerance is None):
        raise ValueError(f"terms and tolerance are those of an area; got area=None, {terms=}, {tolerance=}")
    h = fit_step(check_step("h", h), shape, dtype, device)
    check_root("h", h, dtype)
    if area is not None:
        if not shape:
            raise ValueError("shape must have a last axis, the noise dimension, for an area; got ()")
        plan_area(max(1, shape[-1]), depth, h, method=area, terms=terms, tolerance=tolerance)
    coefficients = torch.randn((depth, *shape), generator=generator, dtype=dtype, device=device)
    value = PartialSignature(h, coefficients)
    if area is None:
        return value
    given = coefficients if depth > 1 else None
    options: dict[str, Any] = {"method": area, "terms": terms, "tolerance": tolerance, "generator": generator}
    return replace(value, levy_area=levy_area(value.increment, h, coefficients=given, **options))

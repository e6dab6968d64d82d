"""`levy_area` and `iterated_integrals`: check the arguments, choose algorithm and truncation, sample."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sdesig._checks import check_choice, check_floating, check_generator, check_integer, check_real, check_step
from sdesig._philox import normals
from sdesig.signature.areas._draws import Draw
from sdesig.signature.areas.exact2d import exact2d_area
from sdesig.signature.areas.fourier import fourier_area
from sdesig.signature.areas.legendre_area import legendre_area
from sdesig.signature.areas.truncation import MAX_TERMS, NORMS, STRONG_METHODS, affordable_terms, choose_method, reached
from sdesig.signature.areas.weak_area import davie_area, foster_area, four_moment_area

JOINT_METHODS = ("legendre", "davie", "foster", "four_moment")
"""Methods whose areas are right jointly with the coefficients that they are given."""
_BLOCK = 4096  # normals of a counter's cell
_MANY = 1000  # so many numbers of an increment take longer than the seeding of another generator

METHODS = (*STRONG_METHODS, "davie", "foster", "four_moment")


def levy_area(
    increment: Tensor,
    h: float | Tensor,
    *,
    coefficients: Tensor | None = None,
    method: str = "auto",
    terms: int | None = None,
    tolerance: float | None = None,
    norm: str = "max_l2",
    generator: torch.Generator,
) -> Tensor:
    """Sample the Levy area A_ij = 1/2 int_s^{s+h} ((W_i - W_i(s)) dW_j - (W_j - W_j(s)) dW_i) given the increment.

    Given only the increment, (W, A) has the right joint law. A is right jointly with further Gaussian words (H, K, ...)
    only if it is drawn from the Legendre coefficients that those words are made of: pass them as `coefficients`.

    Methods: "fourier", "milstein", "mronroe", "wiktorsson" (see `fourier_area`), "legendre" (`legendre_area`),
    "exact2d" (`exact2d_area`, d = 2 only) converge in L2 or in law as `terms` grows. "davie", "foster", "four_moment"
    (module `weak_area`) have no truncation and match some moments only: for weak schemes. "auto" is "legendre" when
    coefficients beyond xi_0 are given, otherwise the strong method with the least work for the tolerance ("exact2d" at
    d = 2).

    With equal seeds, truncations at n and 2n terms share their first n terms and the numbers of the tail. With equal
    seeds and terms, the area of a step scales: A(W, h) = h A(W/sqrt(h), 1).
    Differentiable in `increment`, `h` and `coefficients`. One-dimensional areas are zero and draw nothing.

    Args:
        increment: W(s + h) - W(s) ~ N(0, h Id), (..., d), d >= 1.
        h: step length > 0, a float or a tensor broadcastable to (..., 1): one step per area.
        coefficients: xi_0..xi_{m-1}, (m, ..., d), m >= 1, iid N(0, Id), with increment = sqrt(h) xi_0. For m >= 2 the
            method must be one of `JOINT_METHODS`; "four_moment" takes m <= 3.
        method: one of `METHODS`, or "auto".
        terms: number of terms, 1 to `MAX_TERMS`, of an explicitly named strong method; excludes `tolerance`. "legendre"
            uses at least m - 1.
        tolerance: bound > 0 on the error of every area of the batch in the sense of `terms_needed`. Default: 1e-2 h for
            each h of the batch, so with the same terms at every h. Over a time T in steps of length h, h^{3/2}/T^{1/2}
            keeps strong order 1.
        norm: "max_l2" or "frobenius_l2", in which the tolerance holds.
        generator: source of all random numbers, on the device of `increment`. (Of a strong method with many numbers, in
            float64 on the CPU, it draws the key of a counter-based one, which takes a fraction of the time.)

    Returns:
        A, (..., d, d), antisymmetric.

    Raises:
        TypeError, ValueError: bad arguments, h too small or large for the dtype of the increment, more than `MAX_TERMS`
            terms for a tolerance; before any number is drawn.
        MemoryError: the areas do not fit into memory.
    """
    increment, step = _check_increment(increment, h)
    check_generator(generator)
    depth = 1 if coefficients is None else _check_coefficients(coefficients, increment, step)
    dim = increment.shape[-1]
    method, count = plan_area(dim, depth, step, method=method, terms=terms, tolerance=tolerance, norm=norm)
    if dim == 1 or increment.numel() == 0:
        return increment.new_zeros(*increment.shape, dim)
    # Sums of many terms: half precision is for the result alone.
    wide = step.dtype
    check_memory(increment.shape, wide, increment.device)
    xi = (increment.to(wide) / step.sqrt()).unsqueeze(0) if coefficients is None else coefficients.to(wide)

    draw = _normals(generator, wide, increment, method in STRONG_METHODS)

    if method == "davie":
        area = davie_area(xi, step, draw)
    elif method == "foster":
        area = foster_area(xi, step, draw)
    elif method == "four_moment":
        area = four_moment_area(xi, step, draw, generator)
    else:
        area = strong_area(method, xi, step, count, draw)
    return area.to(increment.dtype)


def strong_area(method: str, coefficients: Tensor, h: Tensor, terms: int, draw: Draw) -> Tensor:
    """The Levy area by one of `STRONG_METHODS`, for callers with their own source of normals; checks nothing.

    Args:
        coefficients: xi_0..xi_{m-1}, (m, ..., d), d >= 2; "legendre" uses all of them, the others xi_0 = W/sqrt(h).
        h: step lengths, broadcastable to (..., 1).
        draw: see the method's own function.
    """
    if method == "legendre":
        return legendre_area(coefficients, h, terms, draw)
    increment = h.sqrt() * coefficients[0]
    if method == "exact2d":
        return exact2d_area(increment, h, terms, draw)
    return fourier_area(method, increment, h, terms, draw)


def _normals(generator: torch.Generator, dtype: torch.dtype, increment: Tensor, series: bool) -> Draw:
    """Numbers from the generator; those of long series in float64 on the CPU by Philox, of which it draws the key."""
    if not series or dtype != torch.float64 or increment.device.type != "cpu" or increment.numel() < _MANY:
        return lambda shape: torch.randn(shape, generator=generator, dtype=dtype, device=increment.device)
    seeds, streams = torch.randint(2**63 - 1, (1,), generator=generator), itertools.count()

    def draw(shape: tuple[int, ...]) -> Tensor:
        count = math.prod(shape)
        blocks = torch.arange(-(-count // _BLOCK))
        values = normals(seeds, blocks, next(streams), _BLOCK, dtype).flatten()[:count]
        # in memory one coordinate after the other, as the series are summed
        return values.reshape(shape[-1], *shape[:-1]).movedim(0, -1)

    return draw


def iterated_integrals(
    increment: Tensor, h: float | Tensor, *, area: Tensor | None = None, ito: bool = True, **options: Any
) -> Tensor:
    """Double integrals I_(i,j) = int_s^{s+h} (W_i - W_i(s)) dW_j of all pairs given the increment.

    Ito: (W W^T - h Id)/2 + A. Stratonovich: W W^T/2 + A.

    Args:
        increment: W, (..., d).
        h: step length > 0, a float or a tensor broadcastable to (..., 1).
        area: the Levy area A, (..., d, d), antisymmetric; sampled by `levy_area` if not given.
        ito: Ito integrals if true, Stratonovich integrals otherwise.
        options: keyword arguments of `levy_area` (`generator` is required), only if `area` is not given.

    Returns:
        (..., d, d), entry [i, j] = I_(i,j).

    Raises:
        TypeError, ValueError, MemoryError: as `levy_area`; `area` of a wrong shape or together with options.
    """
    increment, step = _check_increment(increment, h)
    dim = increment.shape[-1]
    if area is None:
        area = levy_area(increment, h, **options)
    elif options:
        raise TypeError(f"options of levy_area must not be given together with area; got {', '.join(options)}")
    elif check_floating("area", area).shape != (*increment.shape, dim):
        raise ValueError(f"area must have shape {(*increment.shape, dim)}; got {tuple(area.shape)}")
    product = increment.unsqueeze(-1) * increment.unsqueeze(-2)
    step = step.to(increment)
    if ito:
        product = product - step.unsqueeze(-1) * torch.eye(dim, dtype=increment.dtype, device=increment.device)
    return product / 2 + area


def _check_increment(increment: Tensor, h: float | Tensor) -> tuple[Tensor, Tensor]:
    """Return the increment and h with its dtype (but at least float32) and device, expanded to (..., 1)."""
    check_floating("increment", increment)
    if increment.ndim == 0 or increment.shape[-1] == 0:
        raise ValueError(f"increment must have shape (..., d) with d >= 1; got {tuple(increment.shape)}")
    step = check_step("h", h)
    target = (*increment.shape[:-1], 1)
    if step.ndim > len(target) or any(
        size not in (1, wanted) for size, wanted in zip(step.shape[::-1], target[::-1], strict=False)
    ):
        raise ValueError(f"h must be broadcastable to {target}, one step per area; got shape {tuple(step.shape)}")
    if step.numel():
        low, high = torch.aminmax(step.detach())
        check_range("h", low.item(), high.item(), increment.dtype)
    return increment, step.to(increment.device, torch.promote_types(increment.dtype, torch.float32)).expand(target)


def check_range(name: str, low: float, high: float, dtype: torch.dtype) -> None:
    """Raise ValueError unless W W^T and A, of order h and up to some hundred times as large, fit into the dtype."""
    limits = torch.finfo(dtype)
    for h in (low, high):
        if not limits.tiny <= h <= limits.max / 1000:
            raise ValueError(
                f"{name} must lie in [{limits.tiny:.3g}, {limits.max / 1000:.3g}] for areas in {dtype}; got {h:.3g}"
            )


def _check_coefficients(coefficients: Tensor, increment: Tensor, step: Tensor) -> int:
    """Return the depth m of `coefficients`; raise unless they are Legendre coefficients of this increment."""
    check_floating("coefficients", coefficients)
    if coefficients.ndim != increment.ndim + 1 or coefficients.shape[1:] != increment.shape or len(coefficients) == 0:
        expected = ", ".join(map(str, ("m", *increment.shape)))
        raise ValueError(f"coefficients must have shape ({expected}), m >= 1; got {tuple(coefficients.shape)}")
    if coefficients.dtype != increment.dtype or coefficients.device != increment.device:
        raise TypeError(
            f"coefficients must have the dtype and device of increment, {increment.dtype} on {increment.device}; "
            f"got {coefficients.dtype} on {coefficients.device}"
        )
    root = step.detach().sqrt()
    error = (increment.detach() - root * coefficients[0].detach()).abs() / (root + increment.detach().abs())
    if not bool((error <= 256 * torch.finfo(increment.dtype).eps).all()):
        raise ValueError(
            f"coefficients[0] must be increment/sqrt(h) up to rounding; it is off by {error.max().item():g}"
        )
    return len(coefficients)


def plan_area(
    dim: int,
    depth: int,
    h: Tensor,
    *,
    method: str,
    terms: int | None = None,
    tolerance: float | None = None,
    norm: str = "max_l2",
) -> tuple[str, int]:
    """The method and number of terms that `levy_area` takes (0 for a weak method); raise its errors of these arguments.

    Errors of an area grow like h, and so does the default tolerance.
    """
    check_choice("method", method, (*METHODS, "auto"))
    check_choice("norm", norm, NORMS)
    if terms is not None:
        check_integer("terms", terms, 1)
    if tolerance is not None:
        check_real("tolerance", tolerance, minimum=0.0, strict=True)
    if terms is not None and tolerance is not None:
        raise ValueError(f"only one of terms and tolerance may be given; got terms={terms}, tolerance={tolerance}")
    if terms is not None and method not in STRONG_METHODS:
        raise ValueError(f"terms needs method to be one of {', '.join(STRONG_METHODS)}; got method {method!r}")
    if tolerance is not None and method not in (*STRONG_METHODS, "auto"):
        raise ValueError(f"tolerance has no meaning for the weak method {method!r}")
    if method == "exact2d" and dim != 2:
        raise ValueError(f"method 'exact2d' needs increments of dimension 2; got {dim}")
    if depth >= 2 and method not in (*JOINT_METHODS, "auto"):
        raise ValueError(
            f"with coefficients of depth {depth} the method must be one of {', '.join(JOINT_METHODS)}: {method!r} "
            "knows the increment only, its area would be wrong jointly with the other coefficients"
        )
    if depth > 3 and method == "four_moment":
        raise ValueError(f"method 'four_moment' takes coefficients of depth <= 3; got {depth}")
    if method not in (*STRONG_METHODS, "auto") or dim == 1 or h.numel() == 0:
        return method, 0
    longest = h.detach().max().item()
    if terms is not None and terms > MAX_TERMS:
        error = reached(dim, longest, method, norm)
        raise ValueError(
            f"terms must be <= {MAX_TERMS}, which reach a tolerance of {error:.3g} (h = {longest:g}); got {terms}"
        )
    if terms is not None:
        return method, terms
    if method == "auto":
        method = "legendre" if depth >= 2 else choose_method(dim, longest, tolerance, norm)
    return method, affordable_terms(dim, longest, tolerance, method=method, norm=norm)


def check_memory(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> None:
    """Raise MemoryError if areas for increments of this shape, three temporaries and a term do not fit."""
    dim = shape[-1]
    needed = dtype.itemsize * math.prod(shape) * (4 * dim + 8)
    if needed < 2**28:  # not worth the system call
        return
    available = _available_bytes(device)
    if needed > available:
        raise MemoryError(
            f"Levy areas of shape {(*shape, dim)} need about {needed:.3g} bytes; "
            f"{available:.3g} are available (an area has d^2 entries)"
        )


def _available_bytes(device: torch.device) -> float:
    """Memory that can still be allocated on `device`; infinity where the system does not say."""
    if device.type == "cuda":
        reusable = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return float(torch.cuda.mem_get_info(device)[0] + reusable)
    meminfo = Path("/proc/meminfo")
    if device.type != "cpu" or not meminfo.exists():
        return math.inf
    fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
    return 1024.0 * int(fields["MemAvailable"].split()[0])

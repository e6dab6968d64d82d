"""What a scheme is: its orders, the noise it admits, the words it needs, and its step."""

from __future__ import annotations

import math
from abc import ABC
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from sdesig._checks import NOISE_STRUCTURES, check_floating
from sdesig.brownian import BrownianPath
from sdesig.sde.base import SDELike
from sdesig.signature.partial_signature import PartialSignature
from sdesig.signature.words import Word, legendre_depth, needs_levy_area, words_for_scheme


def strong_orders(order: float, admits: Sequence[str] = NOISE_STRUCTURES, **exceptions: float) -> dict[str, float]:
    """Strong order by noise structure: `order` for all that `admits` names, but for the exceptions."""
    return {**dict.fromkeys(admits, order), **exceptions}


class Scheme(ABC):
    """A fixed-step scheme for dY = f dt + g dW. Holds no state: what it keeps from step to step is its `memory`.

    A one-step scheme defines `step`, and `noise` if it takes more than the increment W. A multistep scheme overrides
    `start` and `advance` instead. A scheme with its own clock overrides `check_clock`, and finds the lengths of its
    steps, `PartialSignature.h`, in `noise`.

    Attributes:
        sde_type: "ito" or "stratonovich", the calculus of the f and g that it is given.
        strong_order: strong order by noise structure (see `sdesig.sde.SDE`); the keys are the structures it admits.
        weak_order: the least weak order over these structures.
        word_order: the strong order whose Ito-Taylor words `words` returns; a scheme that needs others overrides that.
    """

    sde_type: str
    strong_order: Mapping[str, float]
    weak_order: float
    word_order: ClassVar[float] = 0.5

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    def words(self, structure: str) -> tuple[Word, ...]:
        """Words whose iterated integrals a step needs; the letters 1 and 2 stand for any two Brownian motions.

        By default those of the Ito-Taylor scheme of strong order `word_order`.
        """
        return words_for_scheme(strong=self.word_order, noise=structure, dim=1 if structure == "scalar" else 2)

    def noise(self, structure: str, signatures: PartialSignature) -> tuple[Tensor, ...]:
        """What `step` takes of the Brownian path, on n steps at once: tensors of shape (n, ...). Default: (W,)."""
        return (signatures.increment,)

    def noise_by_step(self, structure: str, signatures: PartialSignature) -> Iterator[tuple[Tensor, ...]]:
        """What `noise` returns, one step after the other, as `advance` takes it."""
        return zip(*(values.unbind() for values in self.noise(structure, signatures)), strict=True)

    def start(self, sde: SDELike, t: Tensor, y: Tensor) -> Any:
        """The memory before the first step. Default: None."""
        return None

    def advance(
        self, sde: Any, start: Tensor, end: Tensor, y: Tensor, memory: Any, noise: tuple[Tensor, ...]
    ) -> tuple[Tensor, Any]:
        """The state at `end` and the new memory. Default: `step`, and the same memory.

        Args:
            sde: one that `check` admits, in the scheme's calculus.
            start, end: zero-dimensional float64 tensors on the CPU.
            y: the state at `start`, like y0.
            memory: what the step before left, or `start` at first.
            noise: one step of each tensor that `noise` returns.
        """
        return self.step(sde, start, end, y, *noise), memory

    def step(self, sde: SDELike, start: Tensor, end: Tensor, y: Tensor, *noise: Tensor) -> Tensor:
        """The state at `end` from y at `start`, for a one-step scheme; arguments as in `advance`."""
        raise NotImplementedError(f"{type(self).__name__} defines neither `step` nor an `advance` of its own")

    def check(self, sde: SDELike, y0: Tensor, path: BrownianPath) -> str:
        """Return the noise structure that the scheme may exploit; raise if the SDE, y0 or path do not fit.

        Raises:
            TypeError: y0 not a floating-point tensor, path not a BrownianPath, or of another dtype or device than y0.
            ValueError: noise that the scheme does not admit, shapes that do not fit, a path that is too shallow, lacks
                Levy areas, or runs in another clock.
        """
        check_floating("y0", y0)
        if not isinstance(path, BrownianPath):
            raise TypeError(f"path must be a BrownianPath; got {path!r}")
        if path.dtype != y0.dtype or path.device != y0.device:
            raise TypeError(f"path must be {y0.dtype} on {y0.device} like y0; it is {path.dtype} on {path.device}")
        _check_shapes(sde, y0, path)
        structure = noise_structure(sde, path.shape[-1])
        name = type(self).__name__
        if structure not in self.strong_order:
            raise ValueError(f"{name} needs {' or '.join(self.strong_order)} noise; the SDE's is {structure}")
        words = self.words(structure)
        depth = legendre_depth(words)
        if path.depth < depth:
            raise ValueError(
                f"{name} needs the words {words}, so a path of depth >= {depth}; this one has depth {path.depth}"
            )
        if needs_levy_area(words) and not path.area:
            raise ValueError(
                f"{name} needs Levy areas for {structure} noise; this path has none: give BrownianPath area=True"
            )
        self.check_clock(path)
        return structure

    def check_clock(self, path: BrownianPath) -> None:
        """Raise ValueError unless the path is a standard Brownian motion in the SDE's own time."""
        length = path.clock.length(path.t0, path.t1)
        if isinstance(length, Tensor) or not math.isclose(length, path.t1 - path.t0, rel_tol=1e-12):
            raise ValueError(
                f"path must have variance t - s over [s, t] for {type(self).__name__}, as with UniformClock() or "
                f"SNRClock(); this one runs in {path.clock}"
            )


class OrderOneScheme(Scheme):
    """A scheme for Ito SDEs that takes W and, unless the noise is additive, I_(i,j) = (W_i W_j - h [i=j])/2 + A_ij.

    The area is taken for general noise only: commutative noise does not feel it.
    """

    sde_type = "ito"
    strong_order = strong_orders(1.0)
    weak_order = 1.0
    word_order = 1.0

    def noise(self, structure: str, signatures: PartialSignature) -> tuple[Tensor, ...]:
        """W, (n, batch, d), and I_(i,j), (n, batch, d, d); for diagonal noise I_(i,i) alone, (n, batch, d)."""
        w, h = signatures.increment, signatures.h
        if structure == "additive":
            return (w,)
        if structure == "diagonal":
            return w, (w**2 - h) / 2
        symmetric = (w.unsqueeze(-1) * w.unsqueeze(-2) - h[..., None] * torch.eye(w.shape[-1]).to(w)) / 2
        area = signatures.levy_area if structure == "general" else None
        return w, symmetric if area is None else symmetric + area


SCHEMES: dict[str, type[Scheme]] = {}
"""Schemes by name. `sdesig.solvers` and `sdesig.sampling` add theirs; anyone may add more."""


def apply(g: Tensor, v: Tensor) -> Tensor:
    """g v, (batch, dim): elementwise for diagonal g (of v's number of axes), else g is (batch, dim, noise_dim)."""
    return g * v if g.ndim == v.ndim else (g @ v.unsqueeze(-1)).squeeze(-1)


def noise_structure(sde: SDELike, noise_dim: int) -> str:
    """The structure that a scheme may exploit: the declared one (else noise_type), as far as the form of g shows it."""
    declared = getattr(sde, "noise_structure", sde.noise_type)
    if declared == "additive":
        return declared
    if sde.noise_type == "diagonal":
        return "diagonal"
    if noise_dim == 1:
        return "scalar"
    # Diagonal noise in matrix form: its columns commute.
    return "commutative" if declared == "diagonal" else declared


def _check_shapes(sde: SDELike, y0: Tensor, path: BrownianPath) -> None:
    if y0.ndim < 2:
        raise ValueError(f"y0 must have shape (batch, dim); got {tuple(y0.shape)}")
    dim, noise_dim = getattr(sde, "dim", None), getattr(sde, "noise_dim", None)
    if "scalar" in (sde.noise_type, getattr(sde, "noise_structure", None)):
        noise_dim = 1
    if dim is not None and y0.shape[-1] != dim:
        raise ValueError(f"y0 must have shape (batch, {dim}) for this SDE; got {tuple(y0.shape)}")
    if sde.noise_type == "diagonal":
        if path.shape != tuple(y0.shape):
            raise ValueError(f"path must have the shape {tuple(y0.shape)} of y0 for diagonal noise; got {path.shape}")
    elif path.shape[:-1] != tuple(y0.shape[:-1]) or (noise_dim is not None and path.shape[-1] != noise_dim):
        wanted = (*y0.shape[:-1], "noise_dim" if noise_dim is None else noise_dim)
        raise ValueError(f"path must have shape ({', '.join(map(str, wanted))}) for this SDE; got {path.shape}")

"""The base class of schemes for reverse diffusions, on a `CanonicalSDE` and a path of its martingale M."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from torch import Tensor

from sdesig.brownian import BrownianPath
from sdesig.sampling.canonical import CanonicalSDE
from sdesig.sde.base import SDELike
from sdesig.solvers.base import Scheme, strong_orders


class ReverseScheme(Scheme):
    """A scheme for du = Q db + dM with one evaluation of the denoiser a step, which it keeps in its memory.

    Its path has the SDE's own clock; at eta = 0, where there is no M, any path does, and its values do not matter.
    Unless it says otherwise it has strong order 1 and weak order 1.
    """

    sde_type = "ito"
    strong_order = strong_orders(1.0, ("additive",))
    weak_order = 1.0

    @abstractmethod
    def advance(
        self, sde: CanonicalSDE, start: Tensor, end: Tensor, u: Tensor, memory: Any, noise: tuple[Tensor, ...]
    ) -> tuple[Tensor, Any]:
        """The state u at the SNR `end` from that at `start`, and the new memory."""

    def check(self, sde: SDELike, y0: Tensor, path: BrownianPath) -> str:
        """The noise structure, checked as for every scheme; raise ValueError also unless the SDE is a `CanonicalSDE`
        whose reference fits the states and whose clock the path has."""
        if not isinstance(sde, CanonicalSDE):
            raise ValueError(f"{type(self).__name__} needs a CanonicalSDE, a reverse diffusion; got {sde!r}")
        structure = super().check(sde, y0, path)
        sde.reference.check_event(y0)
        if sde.eta > 0 and path.clock.identity() != sde.clock.identity():
            raise ValueError(
                f"path must run in the SDE's `clock`, {sde.clock}, for {type(self).__name__}; this one runs in "
                f"{path.clock}"
            )
        return structure

    def check_clock(self, path: BrownianPath) -> None:
        """Accept any clock here: the path runs in the clock of M, which `check` compares with the SDE's."""

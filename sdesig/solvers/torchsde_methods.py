"""torchsde's own methods as schemes, fed by a path's partial signatures."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from torchsde._core import base_sde, methods

from sdesig._checks import check_choice
from sdesig.brownian import BrownianPath
from sdesig.sde.base import SDELike
from sdesig.signature.partial_signature import PartialSignature
from sdesig.signature.words import Word, words_for_scheme
from sdesig.solvers.base import Scheme, strong_orders

# Commuting noise of "general" type gets the order of diagonal noise; with consistent areas, log_ode has order 1.
STRONG_ORDERS = {
    "euler": strong_orders(0.5, additive=1.0),
    "euler_heun": strong_orders(1.0, general=0.5),
    "heun": strong_orders(1.0, general=0.5),
    "log_ode": strong_orders(1.0),
    "midpoint": strong_orders(1.0, general=0.5),
    "milstein": strong_orders(1.0, ("additive", "scalar", "diagonal")),
    "reversible_heun": strong_orders(0.5, additive=1.0),
    "srk": strong_orders(1.5, ("additive", "scalar", "diagonal")),
}


class TorchsdeMethod(Scheme):
    """A method of torchsde (`torchsde._core.methods`), by its name there.

    All but "adjoint_reversible_heun", which only runs backwards in an adjoint solve. "srk" is Roessler's SRA1 for
    additive noise and SRID2 otherwise (SIAM J. Numer. Anal. 48, 2010). The words are those of the stated order.

    Args:
        name: one of `NAMES`.
        sde_type: calculus of the SDE, for "milstein", which exists for both; the other methods know their own.

    Raises:
        ValueError: an unknown name.
    """

    NAMES: ClassVar[tuple[str, ...]] = tuple(STRONG_ORDERS)

    def __init__(self, name: str, sde_type: str = "ito") -> None:
        check_choice("name", name, self.NAMES)
        self.name = name
        self._method = methods.select(name, sde_type)
        self.sde_type = self._method.sde_type
        self.strong_order = STRONG_ORDERS[name]
        self.weak_order = self._method.weak_order

    def words(self, structure: str) -> tuple[Word, ...]:
        """The increments; time integrals for "srk"; for "log_ode" the mixed words (i, j), whatever the noise."""
        strong, noise = {"srk": (1.5, "additive"), "log_ode": (1.0, "general")}.get(self.name, (0.5, "general"))
        return words_for_scheme(strong=strong, noise=noise, dim=2)

    def check(self, sde: SDELike, y0: Tensor, path: BrownianPath) -> str:
        """Check as every scheme; also raise ValueError for noise that torchsde refuses, or gets wrong in "milstein"."""
        structure = super().check(sde, y0, path)
        if sde.noise_type not in self._method.noise_types:
            raise ValueError(f"torchsde:{self.name} does not admit the noise_type {sde.noise_type!r}")
        if self.name == "milstein" and structure == "scalar" and y0.shape[-1] > 1:
            # It multiplies g by the transposed Jacobian of g, and converges to another solution.
            raise ValueError(f"torchsde:milstein is wrong for scalar noise in dimension > 1; y0 has {y0.shape[-1]}")
        return structure

    def noise(self, structure: str, signatures: PartialSignature) -> tuple[Tensor, ...]:
        """W; with U = int (W_u - W_s) du for "srk", with the Levy area for "log_ode"."""
        if self.name == "srk":
            return signatures.increment, signatures.time_integral
        if self.name == "log_ode":
            assert signatures.levy_area is not None
            return signatures.increment, signatures.levy_area
        return (signatures.increment,)

    def start(self, sde: SDELike, t: Tensor, y: Tensor) -> Any:
        """torchsde's solver, and its extra state."""
        forward = base_sde.ForwardSDE(sde)
        forward.sde_type = self.sde_type  # additive noise comes unconverted: both calculi are the same
        steps = dict.fromkeys(("dt", "dt_min", "rtol", "atol"))  # the driver's business
        solver = self._method(sde=forward, bm=_StepNoise(), adaptive=False, options={}, **steps)
        return solver, solver.init_extra_solver_state(t, y)

    def advance(
        self, sde: SDELike, start: Tensor, end: Tensor, y: Tensor, memory: Any, noise: tuple[Tensor, ...]
    ) -> tuple[Tensor, Any]:
        """One step of torchsde's solver."""
        solver, extra = memory
        solver.bm.values = noise
        y, extra = solver.step(start, end, y, extra)
        return y, (solver, extra)


class _StepNoise:
    """The Brownian motion that a solver of torchsde asks, holding one step's values."""

    levy_area_approximation = "foster"
    shape = torch.Size((1, 1))  # asked of scalar noise only, whose dimension is 1
    values: tuple[Tensor, ...]

    def __call__(self, ta: Tensor, tb: Tensor, return_U: bool = False, return_A: bool = False) -> Any:
        return self.values if return_U or return_A else self.values[0]

"""The log-ODE scheme."""

from __future__ import annotations

from torch import Tensor

from sdesig.sde.base import SDELike
from sdesig.sde.calculus import second_order_noise
from sdesig.signature.partial_signature import PartialSignature
from sdesig.solvers.base import Scheme, apply, strong_orders


class LogODE(Scheme):
    """Y' = z(1), where z(0) = Y and dz/du = f h + g W + sum_{i<j} [g_i, g_j] A_ij at (t + u h, z). Stratonovich.

    [g_i, g_j] = Dg_j g_i - Dg_i g_j; the brackets, and the Levy area A, are needed for general noise alone. The ODE is
    solved by one classical Runge-Kutta step of order 4, whose error is below the scheme's. Strong order 1, weak order 1
    (Castell & Gaines, Ann. Inst. H. Poincare Probab. Statist. 32, 1996, pp. 231-250).
    """

    sde_type = "stratonovich"
    strong_order = strong_orders(1.0)
    weak_order = 1.0
    word_order = 1.0

    def noise(self, structure: str, signatures: PartialSignature) -> tuple[Tensor, ...]:
        """W, and A for general noise."""
        if structure != "general":
            return (signatures.increment,)
        assert signatures.levy_area is not None
        return signatures.increment, signatures.levy_area

    def step(self, sde: SDELike, start: Tensor, end: Tensor, y: Tensor, *noise: Tensor) -> Tensor:
        """z(1), by one step of the classical Runge-Kutta method."""
        (w, *areas), h = noise, end - start

        def field(time: Tensor, z: Tensor) -> Tensor:
            value = sde.f(time, z) * h + apply(sde.g(time, z), w)
            for area in areas:
                # A is antisymmetric: the sum over all (i, j) of A_ij Dg_j g_i is that of the brackets over i < j
                value = value + second_order_noise(sde, time, z, area)
            return value

        k1 = field(start, y)
        k2 = field(start + h / 2, y + k1 / 2)
        k3 = field(start + h / 2, y + k2 / 2)
        k4 = field(end, y + k3)
        return y + (k1 + 2 * k2 + 2 * k3 + k4) / 6

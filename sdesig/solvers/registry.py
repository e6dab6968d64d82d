"""Schemes by name."""

from __future__ import annotations

from sdesig._checks import check_choice
from sdesig.sde.base import SDELike
from sdesig.solvers.base import Scheme
from sdesig.solvers.euler import Euler
from sdesig.solvers.heun import Heun
from sdesig.solvers.log_ode import LogODE
from sdesig.solvers.milstein import Milstein
from sdesig.solvers.platen import PlatenWeak2
from sdesig.solvers.shark import ShARK
from sdesig.solvers.sra1 import SRA1
from sdesig.solvers.sri2 import SRI2
from sdesig.solvers.taylor import Taylor15
from sdesig.solvers.torchsde_methods import STRONG_ORDERS, TorchsdeMethod

SCHEMES: dict[str, type[Scheme]] = {
    "euler": Euler,
    "milstein": Milstein,
    "sri2": SRI2,
    "heun": Heun,
    "log_ode": LogODE,
    "taylor15": Taylor15,
    "sra1": SRA1,
    "shark": ShARK,
    "platen": PlatenWeak2,
}
"""`sdesig.sampling` adds the schemes for reverse diffusions; anyone may add more."""


def scheme_named(scheme: str | Scheme, sde: SDELike) -> Scheme:
    """The scheme of a name: one of `SCHEMES` or "torchsde:<method>"; a scheme is returned as it is."""
    if isinstance(scheme, Scheme):
        return scheme
    names = (*SCHEMES, *(f"torchsde:{name}" for name in STRONG_ORDERS))
    check_choice("scheme", scheme, names)
    if scheme in SCHEMES:
        return SCHEMES[scheme]()
    return TorchsdeMethod(scheme.removeprefix("torchsde:"), getattr(sde, "sde_type", "ito"))

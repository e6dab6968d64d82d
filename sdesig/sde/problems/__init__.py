"""Toy SDEs with oracles: what the solution, or its law, is known to be.

Every problem is constructible without arguments and has a start `y0(batch, dtype)` and a horizon `t1`.

| problem | noise structure | Y(t) from W(t): `exact` | `mean`, `covariance` | other oracle |
|---|---|---|---|---|
| OrnsteinUhlenbeck | additive | no | yes | `conditional_mean`, `conditional_covariance` given Legendre coefficients |
| FadingNoise | additive, depends on time | yes | yes | |
| DoubleWell | additive | no | no | `stationary_density`, `stationary_moment` |
| TanhDiffusion | scalar | yes | no | |
| KuboOscillator (Stratonovich) | scalar | yes | yes | conserves the norm |
| GeometricBrownianMotion | diagonal | yes | yes | |
| SinhDiffusion | diagonal | yes | yes | |
| StochasticLorenz | diagonal | no | no | `log_flow_determinant` |
| CommutativeLinearSDE | commutative | yes | yes | |
| LinearSDE | general | no | yes | `log_ode`: strong order 1 from (W, Levy area) per step |
| HeisenbergGroup | general | no | yes | `exact_from_area`: Y(t) from (W, Levy area) |
| Heston | general | no | yes | `mean_price` |

`isinstance(problem, HasExactSolution)` and `isinstance(problem, HasExactMoments)` tell the third and fourth column. All
are Ito SDEs but the Kubo oscillator; `sdesig.sde.calculus` turns each into the other calculus.
"""

from sdesig.sde.problems.additive import DoubleWell, FadingNoise, OrnsteinUhlenbeck
from sdesig.sde.problems.base import HasExactMoments, HasExactSolution, Problem
from sdesig.sde.problems.general import HeisenbergGroup, Heston
from sdesig.sde.problems.linear import (
    CommutativeLinearSDE,
    GeometricBrownianMotion,
    KuboOscillator,
    LinearSDE,
    StochasticLorenz,
)
from sdesig.sde.problems.nonlinear import SinhDiffusion, TanhDiffusion

PROBLEMS: tuple[type[Problem], ...] = (
    OrnsteinUhlenbeck,
    FadingNoise,
    DoubleWell,
    TanhDiffusion,
    KuboOscillator,
    GeometricBrownianMotion,
    SinhDiffusion,
    StochasticLorenz,
    CommutativeLinearSDE,
    LinearSDE,
    HeisenbergGroup,
    Heston,
)
"""All of them."""

__all__ = [
    "PROBLEMS",
    "CommutativeLinearSDE",
    "DoubleWell",
    "FadingNoise",
    "GeometricBrownianMotion",
    "HasExactMoments",
    "HasExactSolution",
    "HeisenbergGroup",
    "Heston",
    "KuboOscillator",
    "LinearSDE",
    "OrnsteinUhlenbeck",
    "Problem",
    "SinhDiffusion",
    "StochasticLorenz",
    "TanhDiffusion",
]

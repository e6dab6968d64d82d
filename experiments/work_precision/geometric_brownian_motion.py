"""Geometric Brownian motion in ten dimensions, whose exact solution is a function of W(1)."""

from __future__ import annotations

import torch

from experiments.benchmarks.comparison import import_peer
from experiments.work_precision.curves import Part, Problem, installed, powers_of_two
from experiments.work_precision.packages import DTYPE, Diffrax, Ours, Torchsde
from sdesig.sde.problems import GeometricBrownianMotion

DIM = 10


def problem(quick: bool) -> Problem:
    """Without log-ODE schemes, which solve this linear equation with commuting coefficients in one step."""
    drift, volatility = torch.linspace(-0.5, 0.3, DIM), torch.linspace(0.2, 0.5, DIM)
    sde = GeometricBrownianMotion(drift, volatility)

    def exact(w: torch.Tensor) -> torch.Tensor:
        return sde.exact(1.0, w, torch.ones_like(w))

    ours = Ours({"ito": sde}, DIM, lambda path: torch.ones(path.shape, dtype=DTYPE), exact, cells=2**8)
    torchs = Torchsde({"ito": sde}, DIM, lambda rows: torch.ones(rows, DIM, dtype=DTYPE), exact)
    steps = powers_of_two(4, 8 if quick else 256)
    parts = [
        Part(ours, {"euler": steps, "milstein": steps, "sri2": steps, "taylor15": steps, "torchsde:srk": steps}),
        Part(torchs, {"euler": steps, "milstein": steps, "srk": steps}),
    ]
    if installed("diffrax"):
        jnp, lineax = import_peer("jax.numpy"), import_peer("lineax")
        mu, sigma = jnp.asarray(drift.tolist()), jnp.asarray(volatility.tolist())
        jaxs = Diffrax(
            {"ito": lambda t, y: mu * y, "stratonovich": lambda t, y: (mu - sigma**2 / 2) * y},
            lambda t, y: lineax.DiagonalLinearOperator(sigma * y),
            DIM,
            lambda key, rows: jnp.ones((rows, DIM)),
            exact,
            batched=("Euler", "SlowRK"),  # ItoMilstein would make a Jacobian of the whole batch
        )
        parts.append(Part(jaxs, {"Euler": steps, "ItoMilstein": steps, "SlowRK": steps}))
    return Problem(
        "geometric_brownian_motion",
        f"Geometric Brownian motion, d = {DIM}: dY_i = mu_i Y_i dt + sigma_i Y_i dW^i on [0, 1], mu = -.5 to .3, "
        "sigma = .2 to .5; exact solution",
        parts,
        targets=(3e-2, 1e-2, 3e-3, 1e-3),
        remark="Where others are ahead: diffrax's `SlowRK`, of order 1.5 for commuting noise, has a smaller error than "
        "our schemes of that order at the same number of steps, and the fewest steps already reach the last "
        "two targets. `milstein` and `taylor15` differentiate any SDE by forward mode, which costs more than "
        "all else in their steps; `sri2` and `torchsde:srk` need no derivatives.",
    )

"""A linear system whose two noises do not commute: beyond order 1/2 a scheme needs Levy areas."""

from __future__ import annotations

from experiments.benchmarks.comparison import import_peer
from experiments.work_precision.curves import Part, Problem, installed, powers_of_two
from experiments.work_precision.packages import DTYPE, Diffrax, Ours, Torchsde
from sdesig.sde.problems import LinearSDE


def problem(quick: bool) -> Problem:
    """The others have no consistent areas: their truth is a fine solution from the increments of their own path."""
    fine_areas, fine = (64, 64) if quick else (1024, 4096)
    sde = LinearSDE()
    stratonovich = LinearSDE(sde.drift - 0.5 * (sde.noise @ sde.noise).sum(0), sde.noise)
    stratonovich.sde_type = "stratonovich"
    sdes = {"ito": sde, "stratonovich": stratonovich}
    steps = powers_of_two(4, 8 if quick else 128)
    ours = Ours(sdes, 2, lambda path: sde.y0(path.shape[0], DTYPE), ("log_ode", fine_areas), cells=fine_areas)
    torchs = Torchsde(sdes, 2, lambda rows: sde.y0(rows, DTYPE), ("heun", fine))
    parts = [
        Part(ours, {"euler": steps, "heun": steps, "milstein": steps, "sri2": steps, "log_ode": steps}),
        Part(torchs, {"euler": steps, "heun": steps, "log_ode": steps}),
    ]
    if installed("diffrax"):
        jnp, lineax = import_peer("jax.numpy"), import_peer("lineax")
        drifts = {calculus: jnp.asarray(system.drift.tolist()) for calculus, system in sdes.items()}
        noise = jnp.asarray(sde.noise.tolist())
        jaxs = Diffrax(
            {"ito": lambda t, y: drifts["ito"] @ y, "stratonovich": lambda t, y: drifts["stratonovich"] @ y},
            lambda t, y: lineax.MatrixLinearOperator((noise @ y).T),
            2,
            lambda key, rows: jnp.tile(jnp.asarray(sde.initial.tolist()), (rows, 1)),
            ("Heun", fine),
        )
        parts.append(Part(jaxs, {"Euler": steps, "EulerHeun": steps, "Heun": steps}))
    return Problem(
        "noncommutative",
        "Linear system with two noises that do not commute (`LinearSDE`) on [0, 1]; truth: ours from areas, log-ODE "
        f"at {fine_areas} steps; the others', which have no consistent areas, Heun's scheme at {fine} steps of "
        "their own path (their errors are up to 2 % too small at the finest steps)",
        parts,
        targets=(3e-2, 2e-2, 1e-2, 3e-3),
        remark="Where others are ahead: for a coarse error the compiled schemes of order 1/2, which draw no areas, are "
        "cheaper than any scheme of order 1. Their error halves for four times the work: for a fine one only areas get "
        "there. torchsde's `log_ode` has areas whose law is approximate and which are not those of its path.",
    )

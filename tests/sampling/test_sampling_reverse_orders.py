"""Strong orders of the schemes for reverse diffusions, and one path in x by torchsde and in the reverse variables.

All run from log-SNR -3 to 3, where the errors of the mixtures below follow a power law from 16 steps on (at eta = 1.4
from 32 on); over -8 to 8 the same orders need 64 steps at least. Without a reference path-average, ShARK and SRA1 show
1.8 rather than 1.5: errors of order 2 fade slowly there (1.7 from 256 to 1024 steps).

An order passes by `OrderEstimate.supports`, a control fails by `refutes`. Paths are seeded, so that a verdict is the
same in every run; the half-widths are .06 at most but for SRA1 and ShARK (.08), which lie .2 above their bound.
"""

import math

import pytest
import torch
import torchsde
from scipy.integrate import solve_ivp

from sdesig import BrownianPath, solve, strong_order
from sdesig.convergence import fit_strong
from sdesig.sampling import (
    CanonicalSDE,
    ERSDESolver3,
    GaussianReference,
    PathAverage,
    SNRClock,
    SNRDenoiser,
    from_canonical,
)
from sdesig.sde import EDM, VP, Mixture

F64 = torch.float64
LOW, HIGH = math.exp(-3), math.exp(3)
CIRCLE = Mixture.circle(1.0, 0.3, dtype=F64)
SCALAR = GaussianReference(0.0, CIRCLE.covariance()[0, 0].item())
with_and_without_reference = pytest.mark.parametrize("reference", [None, SCALAR], ids=["plain", "scalar reference"])


def reverse_sde(law, eta, reference):
    """The y of eta is snr^((eta^2 - 1)/2) times that of eta = 1, which the mixture knows."""
    denoiser = SNRDenoiser(lambda y, snr: law.denoise_y(y * snr ** ((1 - eta**2) / 2), snr), eta)
    return CanonicalSDE(denoiser, eta=eta, reference=reference)


def end_of_flow(sde, u):
    """u at HIGH of the flow dx/dlog(sigma) = x - D of a state without noise, x = sigma y with sigma = snr^(-1/2)."""
    sigmas = [snr**-0.5 for snr in (LOW, HIGH)]

    def slope(log_sigma, flat):
        x, sigma = torch.from_numpy(flat).reshape(u.shape), math.exp(log_sigma)
        return (x - sde.denoiser(x / sigma, torch.tensor(sigma**-2, dtype=F64))).flatten().numpy()

    x = sigmas[0] * sde.reference.from_reference(u, LOW, 0.0)
    span = [math.log(sigma) for sigma in sigmas]
    found = solve_ivp(slope, span, x.flatten().numpy(), method="DOP853", rtol=1e-10, atol=1e-12)
    x = torch.from_numpy(found.y[:, -1]).reshape(u.shape)
    return sde.reference.to_reference(x / sigmas[1], HIGH, 0.0)[0]


def order(
    scheme,
    *,
    law=CIRCLE,
    eta=1.0,
    reference=None,
    steps=(16, 32, 64),
    paths=1000,
    finer=8,
    truth_scheme="path_average",
):
    """Order against path-average, unless told otherwise, on 8 times the finest level's steps; of the probability flow
    against the solution by Dormand and Prince's method of order 8."""
    sde = reverse_sde(law, eta, reference)
    against = {"truth": finer * steps[-1], "truth_scheme": truth_scheme}
    estimate = strong_order(
        sde,
        lambda path: sde.start(path.initial_noise(), path.t0),
        scheme=scheme,
        t0=LOW,
        t1=HIGH,
        steps=steps,
        paths=paths,
        **(against if eta > 0 else {"truth": lambda _, u: end_of_flow(sde, u)}),
        clock=sde.clock if eta > 0 else SNRClock(),
        row_shape=(law.dim,),
    )
    assert all(estimate.used), estimate
    return estimate


@with_and_without_reference
@pytest.mark.parametrize("scheme", ["dpm_solver_1", "dpm_solver_2m", "dpm_solver_3m", "seeds_2"])
def test_solvers_with_increments_alone_have_order_one(scheme, reference):
    steps = (64, 128, 256) if scheme == "seeds_2" else (16, 32, 64)  # the steps of one are half as many
    estimate = order(scheme, reference=reference, steps=steps, paths=2000, finer=4 if scheme == "seeds_2" else 8)
    assert estimate.supports(1.0), estimate
    assert estimate.refutes(1.5), estimate


@with_and_without_reference
@pytest.mark.parametrize("eta", [0.5, 1.0, 1.4])
def test_path_average_has_order_one_and_a_half(eta, reference):
    steps = (32, 64, 128) if eta == 1.4 else (16, 32, 64)
    paths = {0.5: 1000, 1.0: 2000, 1.4: 3000}[eta]
    estimate = order("path_average", eta=eta, reference=reference, steps=steps, paths=paths)
    assert estimate.supports(1.5), estimate


@pytest.mark.parametrize("scheme", ["shark", "sra1"])
def test_runge_kutta_schemes_have_order_one_and_a_half(scheme):
    estimate = order(scheme)
    assert estimate.supports(1.5), estimate


class IncrementAlone(PathAverage):
    """The average of the path replaced by its mean given the increment: W/2 at eta = 1."""

    def noise(self, structure, signatures):
        (scaled,) = super().noise(structure, signatures)
        return (torch.cat([scaled[:, :1], torch.zeros_like(scaled[:, 1:])], 1),)


@with_and_without_reference
def test_without_the_area_path_average_has_order_one(reference):
    estimate = order(IncrementAlone(), reference=reference, paths=3000)
    assert estimate.supports(1.0), estimate
    assert estimate.refutes(1.5), estimate


@with_and_without_reference
@pytest.mark.parametrize(
    "scheme, theory",
    [
        ("dpm_solver_1", 1.0),
        ("dpm_solver_2m", 2.0),
        ("dpm_solver_3m", 2.0),
        ("seeds_2", 2.0),
        ("ipndm_4", 2.0),
        ("path_average", 2.0),
    ],
)
def test_orders_for_the_probability_flow(scheme, theory, reference):
    """Of DPM-Solver++(3M) a part of order 3 is large in few steps, and of path-average's correction one of order 3."""
    fine = {"steps": (64, 128, 256)} if scheme in ("dpm_solver_3m", "path_average") else {}
    estimate = order(scheme, eta=0.0, reference=reference, paths=400, **fine)
    assert estimate.supports(theory), estimate
    assert estimate.refutes(theory + 0.5), estimate


def test_er_sde_has_order_one_to_the_solution_where_its_noise_is_that_of_eta_one():
    estimate = order(ERSDESolver3(torch.square), paths=2000)
    assert estimate.supports(1.0), estimate
    assert estimate.refutes(1.5), estimate


def test_er_sde_has_a_limit_of_its_own_otherwise():
    """Order 1 towards what it does in many steps itself, and no convergence to the solution of the SDE."""
    own = order(ERSDESolver3(), paths=2000, truth_scheme=None, finer=16)
    assert own.supports(1.0), own
    assert order(ERSDESolver3()).refutes(0.5)


@with_and_without_reference
@pytest.mark.parametrize(
    "eta, theory, steps, paths", [(1.0, 1.5, (16, 32, 64), 2000), (0.0, 2.0, (128, 256, 512), 400)]
)
def test_the_correction_keeps_the_order(eta, theory, steps, paths, reference):
    """At eta = 0 its part of the error, of order 3, is gone only in many steps."""
    estimate = order(PathAverage(correction=0.3), eta=eta, reference=reference, steps=steps, paths=paths)
    assert estimate.supports(theory), estimate


class Ungated(PathAverage):
    """The correction of kappa = .3 at all lengths of a step."""

    def advance(self, sde, start, end, u, memory, noise):
        moved, (drift, _) = super().advance(sde, start, end, u, memory, noise)
        return moved, (drift, 0.3 * sde.drift_clock.length(start, end) * (drift - memory[0]))


@with_and_without_reference
def test_without_its_gate_the_correction_costs_the_order(reference):
    estimate = order(Ungated(), reference=reference, paths=3000)
    assert estimate.refutes(1.5), estimate


def test_path_average_in_principal_components():
    """Order 1.5 where every coordinate has a clock of its own and they share the time of the evaluation."""
    generator = torch.Generator().manual_seed(0)
    basis, _ = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=F64))
    means = torch.tensor([[1.5, 0.3, 0.0], [-1.5, 0.3, 0.1], [0.0, -0.6, -0.1]], dtype=F64) @ basis.mT
    variances = torch.tensor([[0.3, 0.1, 0.02], [0.2, 0.1, 0.02], [0.3, 0.2, 0.01]], dtype=F64)
    law = Mixture(torch.ones(3), means, torch.einsum("ij,kj,lj->kil", basis, variances, basis))
    eigenvalues, eigenvectors = torch.linalg.eigh(law.covariance())
    assert eigenvalues[-1] > 50 * eigenvalues[0]
    reference = GaussianReference(law.mean(), eigenvalues, eigenvectors)
    estimate = order("path_average", law=law, reference=reference, paths=4000)
    assert estimate.supports(1.5), estimate


# --- x and y on one path -------------------------------------------------------------------------------------------

CELLS = 2**12


class CellIncrements(torchsde.BaseBrownian):
    """W on [start, stop] from its increments over even cells, (cells, *shape)."""

    def __init__(self, increments, start, stop):
        self._values = torch.cat([torch.zeros_like(increments[:1]), increments.cumsum(0)])
        self._start, self._cell = start, (stop - start) / len(increments)

    def __call__(self, ta, tb=None, return_U=False, return_A=False):
        s, t = (round(((time - self._start) / self._cell).item()) for time in (ta, tb))
        return self._values[t] - self._values[s]

    def __repr__(self):
        return f"CellIncrements({len(self._values) - 1} cells)"

    dtype = property(lambda self: self._values.dtype)
    device = property(lambda self: self._values.device)
    shape = property(lambda self: self._values.shape[1:])
    levy_area_approximation = "none"


def x_against_y(diffusion, eta, reference, scheme, paths=500, same_path=True):
    """Errors |x by torchsde's Euler - x of our solution|, (levels, paths), and numbers of steps.

    The noise of x and that of u are tied on fine cells of even solver time: the increment of W over a cell is the
    normal variable that the increment of M over it is made of, dW = sqrt(ds/d<M>) dM. Its law is exact; within a cell
    the ratio of the clocks is taken as constant, which neglects a part of relative size O(cell) of the noise.
    """
    steps = (32, 64, 128, 256)
    ours = reverse_sde(CIRCLE, eta, reference)
    theirs = diffusion.reverse(CIRCLE.denoiser(diffusion), eta)
    start, stop = (theirs.solver_time(diffusion.time(snr)).item() for snr in (LOW, HIGH))
    snrs = diffusion.snr(diffusion.t_max - torch.linspace(start, stop, CELLS + 1, dtype=F64))
    snrs[0], snrs[-1] = LOW, HIGH

    generator = torch.Generator().manual_seed(7)
    path = BrownianPath(LOW, HIGH, (paths, 2), generator=generator, clock=ours.clock, dtype=F64)
    normals = path.partial_signatures(snrs).coefficients[0]
    if not same_path:
        normals = torch.randn(normals.shape, generator=generator, dtype=F64)
    increments = torch.stack([ours.reference.from_basis(cell) for cell in normals]) * math.sqrt((stop - start) / CELLS)
    brownian = CellIncrements(increments, start, stop)

    def to_x(u, snr):
        return from_canonical(diffusion, ours.reference.from_reference(u, snr, eta), snr, eta)[0]

    u = ours.start(path.initial_noise(), LOW)
    ends = torch.tensor([start, stop], dtype=F64)
    errors = []
    for n in steps:
        x = torchsde.sdeint(theirs, to_x(u, LOW), ends, bm=brownian, method="euler", dt=(stop - start) / n)[-1]
        last = solve(ours, u, snrs[:: CELLS // n], scheme=scheme, path=path)[-1]
        errors.append((x - to_x(last, HIGH)).norm(dim=1))
    return torch.stack(errors), steps


TURNED = GaussianReference(
    torch.tensor([0.2, -0.1], dtype=F64),
    torch.tensor([0.3, 0.9], dtype=F64),
    torch.tensor([[0.6, -0.8], [0.8, 0.6]], dtype=F64),
)


@pytest.mark.parametrize(
    "diffusion, eta, reference, scheme",
    [
        (VP(), 1.0, None, "path_average"),
        (EDM(), 1.0, None, "dpm_solver_1"),
        (EDM(), 1.0, SCALAR, "path_average"),
        (VP(), 0.5, TURNED, "path_average"),
        (VP(), 1.4, TURNED, "dpm_solver_2m"),
    ],
)
def test_x_and_y_converge_to_one_path(diffusion, eta, reference, scheme):
    """Euler with additive noise has order 1, so the difference must decay with a slope of .9 at least."""
    estimate = fit_strong(*x_against_y(diffusion, eta, reference, scheme))
    assert estimate.ci_low > 0.9, estimate


def test_independent_noise_in_x_and_y_does_not_converge():
    errors, _ = x_against_y(VP(), 1.0, None, "path_average", same_path=False)
    assert errors.square().mean(1).sqrt().min() > 0.5

"""Weak orders, without sampling: the mean of one step by Gauss-Hermite quadrature over the step's Brownian values.

E phi(Y_1) = phi + h L phi + h^2/2 L^2 phi + O(h^3) for the solution, L its generator by automatic differentiation. A
scheme of weak order 1 has a local error of order 2, one of weak order 2 of order 3 (the moments that the theorem asks
for are those of polynomials phi). The Levy area given W enters as +-sqrt((h^2 + h |W|^2)/12), its exact variance for
d = 2: right up to the third moment, which leaves O(h^4).
"""

import numpy as np
import pytest
import torch

from sdesig.sampling import ReverseScheme
from sdesig.sde import SDE, to_ito, to_stratonovich
from sdesig.signature import PartialSignature
from sdesig.solvers import SCHEMES, PlatenWeak2

STEP_LENGTHS = [0.04 * 0.5**k for k in range(4)]
TIME = 0.3
START = torch.tensor([0.4, -0.3], dtype=torch.float64)


class Wavy(SDE):
    """Smooth, nonlinear and time-dependent in every coefficient, dimension 2."""

    def __init__(self, structure):
        noise_type = "general" if structure == "commutative" else structure
        noise_dim = {"scalar": 1, "diagonal": None}.get(structure, 2)
        super().__init__(noise_type, "ito", dim=2, noise_dim=noise_dim, noise_structure=structure)

    def f(self, t, y):
        a, b = y.unbind(-1)
        return torch.stack([torch.sin(b + t) - 0.5 * a, torch.cos(a) * (0.5 + t) - b * a], -1)

    def g(self, t, y):
        a, b = y.unbind(-1)
        if self.noise_structure == "additive":
            rows = torch.stack([torch.stack([1 + t, t**2]), torch.stack([0.5 - t, 0.8 + t * 0])])
            return rows.to(y).expand(*y.shape, 2)
        own = torch.stack([0.7 * torch.sin(a + t) + 0.5, 0.6 * torch.cos(b) + t * b], -1)
        if self.noise_structure == "diagonal":
            return own
        if self.noise_structure == "commutative":
            return torch.diag_embed(own)
        first = torch.stack([0.6 + torch.sin(b), a * b + t], -1)
        second = torch.stack([0.9 * a - t, 0.7 * torch.cos(a + b) + a], -1)
        return torch.stack([first] if self.noise_structure == "scalar" else [first, second], -1)


def functionals(y):
    """Polynomials of degree 1 to 3 of y (..., 2), stacked last."""
    a, b = y.unbind(-1)
    return torch.stack([a, b, a * b, a**2, b**2, a**2 * b, b**3], -1)


def generator(sde, function):
    """L function: d/dt + f . grad + 1/2 tr(g g^T Hessian), for function(t, y) of y (2,)."""

    def applied(t, y):
        f, g = sde.f(t, y[None])[0], sde.diffusion_matrix(t, y[None])[0]
        slope = torch.func.jacfwd(function, argnums=(0, 1))(t, y)
        hessian = torch.func.jacfwd(torch.func.jacfwd(function, argnums=1), argnums=1)(t, y)
        return slope[0] + slope[1] @ f + 0.5 * torch.einsum("...ij,ij->...", hessian, g @ g.mT)

    return applied


def expansion(sde):
    """phi, L phi, L^2 phi at the start."""
    t = torch.tensor(TIME, dtype=torch.float64)
    first = generator(sde, lambda t, y: functionals(y))
    return functionals(START), first(t, START), generator(sde, first)(t, START)


def quadrature(depth, dim, nodes=6):
    """Normals (depth, points, dim) and weights (points,)."""
    x, weights = np.polynomial.hermite_e.hermegauss(nodes)
    grids = np.meshgrid(*[x] * (depth * dim), indexing="ij")
    products = np.prod(np.meshgrid(*[weights / weights.sum()] * (depth * dim), indexing="ij"), axis=0)
    normals = torch.tensor(np.stack([grid.ravel() for grid in grids])).unflatten(0, (depth, dim))
    return normals.movedim(1, -1), torch.tensor(products.ravel())


def local_errors(scheme, structure, *, area=True):
    """|E phi(Y_1) - expansion|, (step lengths, functionals)."""
    sde = Wavy(structure)
    terms = expansion(sde)
    chosen = (to_ito if scheme.sde_type == "ito" else to_stratonovich)(sde)
    depth = 2 if scheme.word_order == 1.5 else 1
    dim = {"scalar": 1}.get(structure, 2)
    normals, weights = quadrature(depth, dim)
    t = torch.tensor(TIME, dtype=torch.float64)
    found = []
    for length in STEP_LENGTHS:
        h = torch.tensor(length, dtype=torch.float64)
        mean = torch.zeros_like(terms[0])
        for sign in (1.0, -1.0):
            spread = sign * area * (h**2 * (1 + normals[0].square().sum(-1)) / 12).sqrt()
            levy = spread[..., None, None] * torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=torch.float64)
            steps = PartialSignature(h, normals[:, None], levy[None] if structure == "general" else None)
            noise = [value[0] for value in scheme.noise(structure, steps)]
            y = scheme.step(chosen, t, t + h, START.expand(len(weights), 2), *noise)
            mean = mean + 0.5 * weights @ functionals(y)
        found.append(mean - (terms[0] + h * terms[1] + h**2 / 2 * terms[2]))
    return torch.stack(found).abs()


def slope(errors):
    """Of the largest error over the functionals; deterministic."""
    return np.polyfit(np.log(STEP_LENGTHS), errors.amax(1).log().numpy(), 1)[0]


CASES = [
    (name, structure)
    for name, scheme in SCHEMES.items()
    if not issubclass(scheme, ReverseScheme)
    for structure in scheme.strong_order
]


@pytest.mark.parametrize("name, structure", CASES)
def test_local_weak_error(name, structure):
    scheme = SCHEMES[name]()
    assert slope(local_errors(scheme, structure)) > scheme.weak_order + 1 - 0.15


@pytest.mark.parametrize("name", ["euler", "milstein", "sri2", "log_ode", "heun"])
def test_weak_order_one_is_no_more(name):
    assert slope(local_errors(SCHEMES[name](), "general")) < 2.3


def test_weak_order_two_needs_the_variance_of_the_area():
    assert slope(local_errors(PlatenWeak2(), "general", area=False)) < 2.3

"""The Ito correction against sympy; both calculi against each other by simulation; torchsde integrates the result."""

import functools

import pytest
import sympy
import torch
import torchsde
from fixed_step import coarsen, euler_maruyama, heun, increments, solve, strong_slope
from torch import nn

from sdesig.sde.base import SDE
from sdesig.sde.calculus import ConvertedSDE, ito_correction, to_ito, to_stratonovich

# torch's own, at the first forward-mode derivative.

T, Y1, Y2 = sympy.symbols("t y1 y2")
DRIFT = sympy.Matrix([sympy.sin(Y2) - Y1, sympy.cos(T) * Y1 - Y2 / 2])
# Bounded and smooth, depending on time, with an entry that is constant; the columns of "general" do not commute.
DIFFUSION = {
    "diagonal": sympy.Matrix([sympy.sin(Y1) + T / 2, sympy.exp(-(Y2**2)) + sympy.cos(T)]),
    "scalar": sympy.Matrix([sympy.sin(Y1 - Y2), sympy.cos(T) * sympy.cos(Y1)]),
    "additive": sympy.Matrix([[sympy.cos(T), 1, sympy.Rational(1, 2)], [T, sympy.exp(-T), -1]]),
    "general": sympy.Matrix(
        [[sympy.sin(Y2), 1, sympy.cos(Y1) * T], [sympy.tanh(Y1 - Y2), sympy.cos(Y1), sympy.sin(Y2)]]
    )
    / 2,
}
NOISE_TYPES = tuple(DIFFUSION)
TORCH = {name: getattr(torch, name) for name in ("sin", "cos", "tanh", "exp")}


@functools.cache
def compiled(entry):
    """A sympy expression as a function of tensors (t, y1, y2)."""
    return sympy.lambdify((T, Y1, Y2), entry, modules=[TORCH])


def evaluate(matrix, t, y):
    """A sympy matrix in (t, y1, y2) at a batch of states, (batch, rows, columns)."""
    zero = torch.zeros_like(y[:, 0])
    entries = [zero + compiled(entry)(zero + t, y[:, 0], y[:, 1]) for entry in matrix]
    return torch.stack(entries, -1).unflatten(-1, matrix.shape)


def sympy_correction(noise_type):
    """1/2 sum_j (dg_j/dy) g_j, (2, 1)."""
    g = DIFFUSION[noise_type]
    columns = sympy.diag(*g) if noise_type == "diagonal" else g
    terms = (columns[:, j].jacobian([Y1, Y2]) * columns[:, j] for j in range(columns.shape[1]))
    return sum(terms, sympy.zeros(2, 1)) / 2


class Symbolic(SDE):
    """The SDE of `DRIFT` and `DIFFUSION`."""

    def __init__(self, noise_type, sde_type):
        columns = DIFFUSION[noise_type].shape[1]
        super().__init__(noise_type, sde_type, dim=2, noise_dim=2 if noise_type == "diagonal" else columns)

    def f(self, t, y):
        return evaluate(DRIFT, t, y).squeeze(-1)

    def g(self, t, y):
        g = evaluate(DIFFUSION[self.noise_type], t, y)
        return g.squeeze(-1) if self.noise_type == "diagonal" else g


class Plain:
    """torchsde's interface and nothing more: not a module, no dimensions."""

    noise_type = "scalar"
    sde_type = "ito"

    def f(self, t, y):
        return -y

    def g(self, t, y):
        return torch.sin(y).unsqueeze(-1)


class Learned(nn.Module):
    """A module with parameters; diffusion sin(a y), so the correction is (a/2) sin(a y) cos(a y)."""

    noise_type = "diagonal"

    def __init__(self, sde_type):
        super().__init__()
        self.sde_type = sde_type
        self.rate = nn.Parameter(torch.tensor(0.5, dtype=torch.float64))
        self.a = nn.Parameter(torch.tensor(1.3, dtype=torch.float64))

    def f(self, t, y):
        return -self.rate * y

    def g(self, t, y):
        return torch.sin(self.a * y)


def states(batch=7):
    return torch.randn(batch, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("sde_type", ["ito", "stratonovich"])
@pytest.mark.parametrize("noise_type", NOISE_TYPES)
def test_correction_and_drift_match_sympy(noise_type, sde_type):
    sde, y, t = Symbolic(noise_type, sde_type), states(), torch.tensor(0.7, dtype=torch.float64)
    expected = evaluate(sympy_correction(noise_type), t, y).squeeze(-1)
    assert (expected.abs().max() > 0.1) == (noise_type != "additive")
    torch.testing.assert_close(ito_correction(sde, t, y), expected, rtol=1e-13, atol=1e-14)
    converted, sign = (to_stratonovich(sde), -1) if sde_type == "ito" else (to_ito(sde), 1)
    torch.testing.assert_close(converted.f(t, y), sde.f(t, y) + sign * expected, rtol=1e-13, atol=1e-14)
    assert torch.equal(converted.g(t, y), sde.g(t, y))


@pytest.mark.parametrize("noise_type", NOISE_TYPES)
def test_converted_sde_keeps_everything_but_the_calculus(noise_type):
    sde = Symbolic(noise_type, "ito")
    converted = to_stratonovich(sde)
    assert (sde.sde_type, converted.sde_type) == ("ito", "stratonovich")
    for name in ("noise_type", "noise_structure", "dim", "noise_dim"):
        assert getattr(converted, name) == getattr(sde, name)
    assert converted.diffusion_matrix(0.0, states()).shape == (7, 2, sde.noise_dim)


def test_noise_structure_survives():
    sde = SDE("general", "ito", dim=2, noise_dim=3, noise_structure="commutative")
    assert to_stratonovich(sde).noise_structure == "commutative"


def test_converting_back_returns_the_original_and_converting_to_itself_does_nothing():
    for make, there, back in ((Learned, to_stratonovich, to_ito), (Learned, to_ito, to_stratonovich)):
        sde = make("ito" if there is to_stratonovich else "stratonovich")
        assert back(sde) is sde
        converted = there(sde)
        assert there(converted) is converted
        assert back(converted) is sde


def test_additive_drift_is_the_same_bit_for_bit_and_g_is_not_called(monkeypatch):
    sde, y = Symbolic("additive", "ito"), states()
    drift = sde.f(0.3, y)
    monkeypatch.setattr(sde, "g", None)
    assert torch.equal(to_stratonovich(sde).f(0.3, y), drift)
    assert torch.equal(ito_correction(sde, 0.3, y), torch.zeros_like(y))


def test_an_object_that_is_not_a_module_converts():
    y = states()
    converted = to_stratonovich(Plain())
    assert isinstance(converted, ConvertedSDE)
    assert converted.noise_structure == "scalar"
    assert not hasattr(converted, "dim")
    # g has one column, so the correction of component i sums over k: 1/2 sum_k dg_i/dy_k g_k = 1/2 cos(y_i) sin(y_i).
    torch.testing.assert_close(converted.f(0.0, y), -y - torch.cos(y) * torch.sin(y) / 2)


def test_expanded_states_and_diffusions_are_accepted():
    y = torch.tensor([0.3, -0.2], dtype=torch.float64).expand(5, 2)
    torch.testing.assert_close(ito_correction(Plain(), 0.0, y), torch.cos(y) * torch.sin(y) / 2)
    for noise_type, shape in (("diagonal", (5, 2)), ("general", (5, 2, 3))):
        sde = SDE(noise_type, "ito", dim=2, noise_dim=shape[-1])
        sde.g = lambda t, y, shape=shape: torch.ones((), dtype=torch.float64).expand(shape)
        assert torch.equal(ito_correction(sde, 0.0, y), torch.zeros_like(y))


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_works_without_gradients_and_in_float32(context):
    y = states().float()
    with context():
        drift = to_stratonovich(Plain()).f(0.0, y)
    assert drift.dtype == torch.float32
    torch.testing.assert_close(drift, -y - torch.cos(y) * torch.sin(y) / 2)


@pytest.mark.parametrize("noise_type", NOISE_TYPES)
def test_drift_is_differentiable_in_the_state(noise_type):
    converted = to_stratonovich(Symbolic(noise_type, "ito"))
    assert torch.autograd.gradcheck(lambda y: converted.f(0.4, y), (states(3).requires_grad_(),))


def test_parameters_are_the_originals_and_get_the_right_gradient():
    sde, y = Learned("ito"), states()
    converted = to_stratonovich(sde)
    assert {id(p) for p in converted.parameters()} == {id(sde.rate), id(sde.a)}
    grad_rate, grad_a = torch.autograd.grad(converted.f(0.0, y).sum(), [sde.rate, sde.a])
    # f = -rate y - (a/4) sin(2 a y)
    torch.testing.assert_close(grad_rate, -y.sum())
    torch.testing.assert_close(grad_a, -(torch.sin(2 * sde.a * y) / 4 + sde.a * y * torch.cos(2 * sde.a * y) / 2).sum())


def slope_between_calculi(sde, converted, steps):
    """Strong slope of (Euler-Maruyama on the Ito form) - (Heun on the Stratonovich form) with the same increments."""
    ito, stratonovich = (sde, converted) if sde.sde_type == "ito" else (converted, sde)
    dw = increments(4000, steps[-1], sde.noise_dim, 1.0, seed=7)
    y0 = torch.tensor([0.4, -0.3], dtype=torch.float64).expand(4000, 2)
    gaps = []
    for n in steps:
        coarse = coarsen(dw, steps[-1] // n)
        gaps.append(solve(euler_maruyama, ito, y0, 1.0, coarse) - solve(heun, stratonovich, y0, 1.0, coarse))
    return strong_slope(steps, torch.stack(gaps))


@pytest.mark.parametrize("noise_type,sde_type", [("diagonal", "ito"), ("scalar", "stratonovich"), ("general", "ito")])
def test_both_calculi_converge_to_the_same_path(noise_type, sde_type):
    """The gap closes at strong rate 1/2; without the conversion it stays (control)."""
    sde = Symbolic(noise_type, sde_type)
    converted = to_stratonovich(sde) if sde_type == "ito" else to_ito(sde)
    steps = [16, 32, 64, 128]
    slope, half_width = slope_between_calculi(sde, converted, steps)
    assert half_width < 0.1
    assert slope - half_width > 0.35
    assert slope + half_width < 0.65
    slope, half_width = slope_between_calculi(sde, Symbolic(noise_type, converted.sde_type), steps)
    assert slope + half_width < 0.25


@pytest.mark.parametrize("noise_type", NOISE_TYPES)
def test_torchsde_integrates_both_forms_to_the_same_path(noise_type):
    sde = Symbolic(noise_type, "ito")
    y0 = torch.tensor([0.4, -0.3], dtype=torch.float64).repeat(32, 1)
    bm = torchsde.BrownianInterval(0.0, 1.0, size=(32, sde.noise_dim), dtype=torch.float64, entropy=11)
    ito, stratonovich = (
        torchsde.sdeint(form, y0, torch.tensor([0.0, 1.0]), bm=bm, method=method, dt=2**-6)[-1]
        for form, method in ((sde, "euler"), (to_stratonovich(sde), "midpoint"))
    )
    assert (ito - stratonovich).square().mean().sqrt() < 0.1
    assert (ito - y0).square().mean().sqrt() > 0.2


class LearnedByHand(Learned):
    """`Learned("ito")` as a Stratonovich SDE, converted on paper."""

    def f(self, t, y):
        return super().f(t, y) - self.a / 4 * torch.sin(2 * self.a * y)


@pytest.mark.parametrize("solver", [torchsde.sdeint, torchsde.sdeint_adjoint])
def test_solution_and_gradients_are_those_of_the_sde_converted_on_paper(solver):
    y0 = torch.full((16, 1), 0.8, dtype=torch.float64)
    results = []
    for sde in (to_stratonovich(Learned("ito")), LearnedByHand("stratonovich")):
        bm = torchsde.BrownianInterval(0.0, 1.0, size=(16, 1), dtype=torch.float64, entropy=3)
        end = solver(sde, y0, torch.tensor([0.0, 1.0]), bm=bm, method="midpoint", dt=2**-5)[-1]
        gradients = torch.autograd.grad(end.sum(), list(sde.parameters()))
        results.append(torch.cat([end.flatten(), torch.stack(gradients)]))
    assert results[0][-2:].abs().min() > 0.1
    torch.testing.assert_close(results[0], results[1], rtol=1e-10, atol=0.0)


def test_objects_without_torchsdes_interface_are_refused():
    class NoDiffusion:
        noise_type, sde_type = "diagonal", "ito"

        def f(self, t, y):
            return y

    for function in (to_ito, to_stratonovich, lambda sde: ito_correction(sde, 0.0, states())):
        with pytest.raises(TypeError, match=r"NoDiffusion.* lacks g"):
            function(NoDiffusion())
    plain = Plain()
    plain.noise_type = "commutative"
    with pytest.raises(ValueError, match=r"sde\.noise_type must be one of .*'commutative'"):
        to_ito(plain)
    plain = Plain()
    plain.sde_type = "backward"
    with pytest.raises(ValueError, match=r"sde\.sde_type must be one of .*'backward'"):
        to_ito(plain)

"""What f and g return is looked at before the first step, and against what the SDE declares."""

import pytest
import torch

from sdesig.brownian import BrownianPath
from sdesig.sampling import CanonicalDenoiser, CanonicalSDE, ReverseScheme, SNRDenoiser
from sdesig.sde import SDE, VP
from sdesig.sde.problems import PROBLEMS
from sdesig.solvers import SCHEMES, ShARK, solve, solve_adaptive

F64 = torch.float64
BATCH = 2  # as many rows as coordinates: where a missing axis does not show by itself


class Given:
    """An SDE with torchsde's interface, of given f and g, that counts its calls."""

    sde_type = "ito"

    def __init__(self, f=lambda t, y: -y, g=None, noise_type="additive", structure=None):
        self._f, self._g, self.noise_type, self.calls = f, g, noise_type, []
        if structure is not None:
            self.noise_structure = structure

    def f(self, t, y):
        self.calls.append(("f", len(y)))
        return self._f(t, y)

    def g(self, t, y):
        self.calls.append(("g", len(y)))
        return self._g(t, y)


def path_of(noise_dim, batch=BATCH, **options):
    options = {"depth": 2, "cells": 2**6, "dtype": F64, "seeds": range(batch)} | options
    return BrownianPath(0.0, 1.0, (batch, noise_dim), **options)


def run(sde, noise_dim=1, scheme="euler", *, y0=None, batch=BATCH, **options):
    path = path_of(noise_dim, batch, **options)
    y0 = torch.ones(batch, 2, dtype=F64) if y0 is None else y0
    return solve(sde, y0, path.grid(4), scheme=scheme, path=path)


COLUMN = torch.tensor([[1.0], [10.0]], dtype=F64)


@pytest.mark.parametrize("scheme", ["euler", "sra1", "shark", "milstein", "heun", "torchsde:euler"])
def test_a_g_without_batch_axis_is_refused_where_batch_and_dim_agree(scheme):
    """[[1], [10]] for every time would give [[1, 1], [10, 10]] W where [[1, 10], [1, 10]] W is meant."""
    with pytest.raises(ValueError, match=r"Given\.g\(t, y\) must return shape \(2, 2, 1\), .*additive.*got \(2, 1\)"):
        run(Given(g=lambda t, y: COLUMN), scheme=scheme)
    meant = Given(f=lambda t, y: torch.zeros_like(y), g=lambda t, y: COLUMN.expand(len(y), 2, 1))
    w = path_of(1).partial_signature(0.0, 1.0).increment
    torch.testing.assert_close(run(meant, scheme=scheme)[-1] - 1, torch.cat([w, 10 * w], 1), rtol=1e-12, atol=1e-12)


def wrong(value):
    return lambda t, y: value(y)


@pytest.mark.parametrize(
    "f, error, match",
    [
        (wrong(lambda y: -y[:, 0]), ValueError, r"Given\.f\(t, y\) must return shape \(2, 2\).*got \(2,\)"),
        (wrong(lambda y: -y[:, :1]), ValueError, r"got \(2, 1\)"),
        (wrong(lambda y: torch.zeros(2, dtype=F64)), ValueError, r"got \(2,\)"),
        (wrong(lambda y: torch.zeros((), dtype=F64)), ValueError, r"got \(\)"),
        (wrong(lambda y: -y[:1]), ValueError, r"got \(1, 2\)"),
        (wrong(lambda y: -y.float()), TypeError, r"must return torch.float64 on cpu like y; got torch.float32"),
        (wrong(lambda y: 0.0), TypeError, r"must return a torch.Tensor; got 0.0"),
        (wrong(lambda y: y / 0), ValueError, r"must be finite at the start; it returned inf"),
    ],
)
@pytest.mark.parametrize("scheme", ["euler", "shark", "torchsde:srk"])
def test_a_drift_of_another_form_is_refused(f, error, match, scheme):
    with pytest.raises(error, match=match):
        run(Given(f, g=lambda t, y: COLUMN.expand(2, 2, 1)), scheme=scheme)


@pytest.mark.parametrize("name", ["f", "g"])
def test_coefficients_that_change_the_state_are_refused(name):
    given = {"f": lambda t, y: -y, "g": lambda t, y: COLUMN.expand(2, 2, 1)}
    honest, y0 = given[name], torch.ones(2, 2, dtype=F64)
    with pytest.raises(ValueError, match=r"Given\.f and g must not change y in place"):
        run(Given(**given | {name: lambda t, y: honest(t, y.mul_(2))}), y0=y0)
    assert torch.equal(y0, torch.ones(2, 2, dtype=F64))


@pytest.mark.parametrize("batch", [2, 5])
@pytest.mark.parametrize("scheme", ["euler", "milstein", "sri2", "heun", "log_ode"])
def test_general_noise_of_diagonal_shape_is_refused(scheme, batch):
    with pytest.raises(ValueError, match=rf"must return shape \({batch}, 2, 2\), .*'general'; got \({batch}, 2\)"):
        run(Given(g=lambda t, y: 0.5 * y, noise_type="general"), 2, scheme, batch=batch, area=True)


@pytest.mark.parametrize(
    "g, noise_type, structure, noise_dim, match",
    [
        (lambda t, y: y, "diagonal", "additive", 2, "must be additive.*does not depend on y"),
        (lambda t, y: y[..., None], "additive", None, 1, "must be additive"),
        (lambda t, y: y.roll(1, -1), "diagonal", None, 2, "must be diagonal.*component i of y alone"),
        (lambda t, y: y + 0.1 * y.sum(-1, keepdim=True), "diagonal", None, 2, "must be diagonal"),
        (
            lambda t, y: torch.stack(
                [torch.stack([y[:, 0], y[:, 1]], -1), torch.stack([y[:, 1], 0 * y[:, 0] + 1], -1)], 1
            ),
            "general",
            "commutative",
            2,
            "must be commutative.*columns of g commute",
        ),
    ],
    ids=["diagonal additive", "additive", "rolled", "sum", "commutative"],
)
def test_noise_that_is_not_as_declared_is_refused(g, noise_type, structure, noise_dim, match):
    y0 = torch.tensor([[1.0, 2.0], [0.5, -1.0]], dtype=F64)
    with pytest.raises(ValueError, match=match):
        run(Given(g=g, noise_type=noise_type, structure=structure), noise_dim, y0=y0)


def test_scalar_noise_has_one_dimension():
    for noise_type, structure in (("scalar", None), ("general", "scalar")):
        sde = Given(g=lambda t, y: y[..., None].expand(-1, -1, 3), noise_type=noise_type, structure=structure)
        with pytest.raises(ValueError, match=r"path must have shape \(2, 1\)"):
            run(sde, 3)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("kind", PROBLEMS, ids=lambda kind: kind.__name__)
def test_true_declarations_are_believed(kind, dtype):
    problem = kind()
    path = path_of(problem.noise_dim, 50, dtype=dtype, area=True)
    y0 = problem.y0(50, dtype) * torch.linspace(0.5, 1.5, 50, dtype=dtype)[:, None]
    for scheme in ("euler", "milstein"):
        assert solve(problem, y0, path.grid(4), scheme=scheme, path=path).isfinite().all()


def test_a_g_that_autograd_cannot_follow_is_believed():
    sde = Given(g=lambda t, y: torch.from_numpy(0.1 * y.numpy()), noise_type="diagonal")
    assert run(sde, 2).isfinite().all()


def test_under_inference_mode_and_with_gradients():
    sde = Given(g=lambda t, y: 0.1 * y, noise_type="diagonal")
    with torch.inference_mode():
        assert run(sde, 2).isfinite().all()
    y0 = torch.ones(2, 2, dtype=F64, requires_grad=True)
    run(sde, 2, y0=y0)[-1].sum().backward()
    assert y0.grad.isfinite().all()


def test_one_more_call_at_the_start_and_none_per_step():
    """f once, g twice (once more for its derivatives), on the batch itself."""
    counted = Given(g=lambda t, y: COLUMN.expand(len(y), 2, 1))
    run(counted, batch=5)
    names = [name for name, _ in counted.calls]
    assert (names.count("f"), names.count("g")) == (4 + 1, 4 + 2)
    assert {rows for _, rows in counted.calls} == {5}


def test_the_denoiser_is_asked_no_more_than_the_scheme_asks():
    asked = []

    def denoise(x, t):
        asked.append(t)
        return x / 2

    path = path_of(2)
    reverse, start = VP().reverse(denoise), torch.ones(2, 2, dtype=F64)
    solve(reverse, start, path.grid(8)[:5], scheme="euler", path=path)
    assert len(asked) == 4
    canonical = CanonicalSDE(SNRDenoiser(denoise))
    path = BrownianPath(0.1, 10.0, (2, 2), seeds=range(2), clock=canonical.clock, cells=2**6, dtype=F64)
    for scheme in ("path_average", "euler", "dpm_solver_2m"):
        asked.clear()
        solve(canonical, start, path.grid(8), scheme=scheme, path=path)
        assert len(asked) == 8


@pytest.mark.parametrize("shape", [(2,), (2, 1), (1, 2)])
def test_a_denoiser_of_another_shape_is_refused(shape):
    """At its first evaluation, by whatever way it is asked."""
    start, path = torch.ones(2, 2, dtype=F64), path_of(2)
    with pytest.raises(ValueError, match=r"denoiser must return the shape \(2, 2\)"):
        solve(VP().reverse(lambda x, t: torch.ones(shape, dtype=F64)), start, path.grid(4), scheme="euler", path=path)
    flat = VP().reverse(lambda x, t: torch.ones(2, 2, dtype=F64), shape=(1, 2))
    with pytest.raises(ValueError, match=r"denoiser must return the shape \(2, 1, 2\)"):
        solve(flat, start, path.grid(4), scheme="euler", path=path)
    for denoiser in (
        SNRDenoiser(lambda y, snr: torch.ones(shape, dtype=F64)),
        CanonicalDenoiser(lambda x, t: torch.ones(shape, dtype=F64), VP()),
    ):
        sde = CanonicalSDE(denoiser)
        for ask in (sde.drift, sde.denoised, sde.denoiser):
            with pytest.raises(ValueError, match=r"denoiser must return the shape \(2, 2\)"):
                ask(start, torch.tensor(1.0))
    with pytest.raises(TypeError, match=r"denoiser must return a torch\.Tensor; got None"):
        CanonicalSDE(SNRDenoiser(lambda y, snr: None)).drift(start, torch.tensor(1.0))


def test_the_adaptive_solver_looks_too():
    path = path_of(1, area=False)
    with pytest.raises(ValueError, match=r"must return shape \(2, 2, 1\)"):
        solve_adaptive(Given(g=lambda t, y: COLUMN), torch.ones(2, 2, dtype=F64), path.grid(2), path=path, atol=0.1)


def test_every_scheme_for_additive_noise_looks():
    for name, scheme in SCHEMES.items():
        if "additive" in scheme.strong_order and not issubclass(scheme, ReverseScheme):
            with pytest.raises(ValueError, match=r"must return shape \(2, 2, 1\)"):
                run(Given(g=lambda t, y: COLUMN), scheme=name)
    assert "additive" in ShARK.strong_order


def test_additive_in_a_subclass_of_ours_is_checked():
    class Multiplied(SDE):
        def __init__(self):
            super().__init__("diagonal", "ito", dim=2, noise_structure="additive")

        def f(self, t, y):
            return -y

        def g(self, t, y):
            return 0.3 * y

    with pytest.raises(ValueError, match=r"Multiplied\.g\(t, y\) must be additive"):
        run(Multiplied(), 2)

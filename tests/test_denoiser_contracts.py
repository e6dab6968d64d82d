"""D(x, t) and D(y, snr) are two types: neither is taken for the other, nor a bare function for the second."""

import copy

import pytest
import torch
from torch import nn

from sdesig import CanonicalDenoiser, CanonicalSDE, GaussianReference, Mixture, SigDEG, SNRDenoiser
from sdesig.evaluation import Comparison
from sdesig.images.peers import peer_samples
from sdesig.sampling import PathSpace, TeacherOptions, choose_grid, draw_paths, information_floor
from sdesig.sampling.teacher_paths import teacher_samples
from sdesig.sde import EDM, VP, EDMDenoiser, EpsilonDenoiser, ScoreDenoiser, VDenoiser, X0Denoiser
from sdesig.sigdeg import MLP, DistillOptions, NetworkDenoiser, distill
from sdesig.sigdeg.cells import CorrectedDenoiser
from sdesig.sigdeg.path_cache import PathCache

LAW = Mixture.circle(1.5, 0.1, dtype=torch.float64)
SPACE = PathSpace((2,), (0.02, 50.0), GaussianReference(0.0, 1.0), cells=2**4)
BOTH_WRAPPERS = r"SNRDenoiser\(f\).*CanonicalDenoiser\(D, diffusion\)"

NOT_CANONICAL = {
    "EpsilonDenoiser": EpsilonDenoiser(nn.Identity(), VP()),
    "EDMDenoiser": EDMDenoiser(nn.Identity(), EDM()),
    "of a mixture": LAW.denoiser(EDM()),
    "function": lambda y, snr: y,
    "module": nn.Identity(),
    "None": None,
}


def student():
    torch.manual_seed(0)
    return SigDEG.from_teacher(SNRDenoiser(LAW.denoise_y), SPACE, depth=2)


WANTED = {
    "CanonicalSDE": lambda d, _: CanonicalSDE(d),
    "from_teacher": lambda d, _: SigDEG.from_teacher(d, SPACE, depth=2),
    "distill": lambda d, out: distill(
        student(), d, out / "run", DistillOptions(), data=LAW.sample(9, torch.Generator())
    ),
    "Comparison": lambda d, _: Comparison(d, SPACE),
    "teacher_samples": lambda d, _: teacher_samples(d, SPACE, 3),
    "choose_grid": lambda d, _: choose_grid(d, SPACE),
    "information_floor": lambda d, _: information_floor(d, SPACE, steps=2, depth=1),
    "draw_paths": lambda d, _: draw_paths(d, SPACE, TeacherOptions(), 3, generator=torch.Generator()),
    "peer_samples": lambda d, _: peer_samples(d, torch.zeros(1, 2), 3, snr=(0.02, 50.0)),
    "PathCache": lambda d, out: PathCache(out / "paths", d, SPACE, TeacherOptions(), paths=8),
    "CorrectedDenoiser": lambda d, _: CorrectedDenoiser(d, MLP(2, width=8, conditions=2, extra=4), 1.0),
}


@pytest.mark.parametrize("name", NOT_CANONICAL)
@pytest.mark.parametrize("use", WANTED)
def test_what_is_not_marked_as_canonical_is_refused(use, name, tmp_path):
    """Before anything is written, with both wrappers named."""
    with pytest.raises(TypeError, match=BOTH_WRAPPERS):
        WANTED[use](NOT_CANONICAL[name], tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_generator_is_not_read_with_a_bare_function(tmp_path):
    student().save(tmp_path)
    with pytest.raises(TypeError, match=BOTH_WRAPPERS):
        SigDEG.load(tmp_path, denoiser=lambda y, snr: y)


@pytest.mark.parametrize("use", sorted(WANTED.keys() - {"CanonicalSDE", "CorrectedDenoiser", "peer_samples"}))
def test_a_teacher_that_is_refused_is_named(use, tmp_path):
    with pytest.raises(TypeError, match=r"teacher must be a D\(y, snr\)"):
        WANTED[use](CanonicalSDE(SNRDenoiser(LAW.denoise_y)), tmp_path)


CANONICAL = {
    "mixture": SNRDenoiser(LAW.denoise_y),
    "wrapped": CanonicalDenoiser(LAW.denoiser(VP()), VP()),
    "network": NetworkDenoiser(MLP(2, width=8), 1.0),
}


@pytest.mark.parametrize("name", CANONICAL)
@pytest.mark.parametrize(
    "use",
    [
        lambda d: VP().reverse(d),
        lambda d: VP().reverse(d, 0.0),
        lambda d: CanonicalDenoiser(d, VP()),
        lambda d: SNRDenoiser(d),
        *(lambda d, kind=kind: kind(d, VP()) for kind in (EpsilonDenoiser, X0Denoiser, VDenoiser, ScoreDenoiser)),
    ],
)
def test_a_canonical_denoiser_is_no_denoiser_of_x_and_t(use, name):
    with pytest.raises(TypeError, match=r"must be a D\(x, t\), not a D\(y, snr\); got"):
        use(CANONICAL[name])


def test_a_function_of_another_eta_is_refused(tmp_path):
    """y means something else for every eta."""
    flow = SNRDenoiser(lambda y, snr: y, 0.5)
    assert CanonicalSDE(flow, eta=0.5).eta == 0.5
    for use in WANTED.values():
        with pytest.raises(ValueError, match=r"eta must be the (denoiser|teacher)'s, 0.5; got 1"):
            use(flow, tmp_path)


def test_the_wrapped_module_is_a_part():
    module = nn.Linear(2, 2)
    module.forward = lambda y, snr, *inputs: nn.functional.linear(y, module.weight) + sum(inputs)
    denoiser = SNRDenoiser(module)
    y, snr = torch.randn(5, 2, generator=torch.Generator().manual_seed(0)), torch.tensor(1.0)
    assert torch.equal(denoiser(y, snr), module(y, snr))
    assert torch.equal(denoiser(y, snr, 3.0), module(y, snr) + 3)
    assert [*denoiser.parameters()] == [*module.parameters()]
    assert not denoiser.eval().denoiser.training
    sde = CanonicalSDE(denoiser)
    assert [*sde.parameters()] == [*module.parameters()]
    other = SNRDenoiser(nn.Linear(2, 2))
    other.load_state_dict(denoiser.state_dict())
    assert torch.equal(other.denoiser.weight, module.weight)
    assert denoiser.double().denoiser.weight.dtype == torch.float64


def test_a_copy_has_parameters_of_its_own():
    denoiser = SNRDenoiser(nn.Bilinear(2, 1, 2), 0.5)
    twin = copy.deepcopy(denoiser)
    assert twin.eta == 0.5
    assert torch.equal(twin.denoiser.weight, denoiser.denoiser.weight)
    assert twin.denoiser.weight is not denoiser.denoiser.weight


def test_a_function_gives_what_the_exact_denoiser_gives():
    """Wrapped by hand, and from D(x, sigma), whose sigma is no SNR."""
    y = torch.randn(50, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    snr = torch.tensor(4.0, dtype=torch.float64)
    expected = LAW.denoise_y(y, snr)
    torch.testing.assert_close(SNRDenoiser(lambda y, snr: LAW.denoise_y(y, snr))(y, snr), expected)
    torch.testing.assert_close(CanonicalDenoiser(LAW.denoiser(EDM()), EDM())(y, snr), expected)
    assert (LAW.denoiser(EDM())(y, snr) - expected).abs().max() > 0.1

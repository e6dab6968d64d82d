"""Calibrated schemes have the moments of converged paths and follow them as near; what they cannot do is refused."""

import math
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from sdesig._intervals import paired_ratio
from sdesig.brownian import BrownianPath
from sdesig.digits import load_teacher, path_space
from sdesig.evaluation import Comparison, Sampler, calibrated_sampler
from sdesig.sampling import (
    IPNDM4,
    Calibrated,
    CanonicalSDE,
    DPMSolver2M,
    ERSDESolver3,
    GaussianReference,
    PathAverage,
    PathSpace,
    SNRDenoiser,
    StepGrid,
    StepMoments,
    calibrate,
)
from sdesig.sampling.calibration import matched
from sdesig.sde import Mixture
from sdesig.sigdeg import SigDEG
from sdesig.solvers import solve

F64 = torch.float64
VARIANCES = torch.tensor([[4.0, 0.3], [0.05, 0.002]], dtype=F64)
MEAN = torch.tensor([[1.0, -1.0], [0.5, 0.0]], dtype=F64)
SNR = (math.exp(-6), math.exp(8))
ANGLE = math.pi / 6
TURN = torch.tensor([[math.cos(ANGLE), -math.sin(ANGLE)], [math.sin(ANGLE), math.cos(ANGLE)]], dtype=F64)
BASIS = (TURN, TURN)
COORDINATES = GaussianReference(MEAN, VARIANCES, BASIS)
TEACHER = SNRDenoiser(lambda y, snr: posterior_mean(y, snr))
SPACE = PathSpace((2, 2), SNR, GaussianReference(MEAN, torch.zeros_like(VARIANCES), BASIS))
COUNTS = (3, 8)


def posterior_mean(y, snr):
    """E[x_0 | y] of N(MEAN, VARIANCES in the basis), y = snr x_0 + B."""
    residual = COORDINATES.to_basis(y - snr * MEAN)
    return MEAN + COORDINATES.from_basis(VARIANCES / (1 + VARIANCES * snr) * residual)


@pytest.fixture(scope="module")
def calibrated():
    return calibrate(TEACHER, SPACE, COUNTS, paths=256, fine_steps=128, progress=False)


def solved(scheme, space, steps, rows=20000, seed=7):
    """The states after every step, (steps + 1, rows, 2, 2), of fresh paths."""
    sde = CanonicalSDE(TEACHER, reference=space.reference)
    path = space.paths(range(10**6 + seed, 10**6 + seed + rows))
    return solve(sde, space.start(path), space.times(steps), scheme=scheme, path=path)


@pytest.mark.parametrize("steps", COUNTS)
def test_variances_are_those_of_the_law_after_every_step(calibrated, steps):
    """In closed form Var u = snr^2 c + snr in every coordinate: the standard deviation of 20000 paths has a standard
    error of .5 %, and that of the measured ratio is below 1 % here. Of the scheme alone some are off by more than
    a tenth."""
    u, plain = (solved(scheme, SPACE, steps) for scheme in (calibrated, PathAverage()))
    snr = SPACE.times(steps)[1:].reshape(-1, 1, 1)
    law = (snr**2 * VARIANCES + snr).sqrt()
    off, before = (found[1:].std(1) / law - 1 for found in (u, plain))
    assert off.abs().max() < 0.03
    assert before.abs().max() > 0.1
    assert (u[1:].mean(1) / law).abs().max() < 0.05  # zero; means over 256 paths have errors of up to .03


def test_paths_are_nearer(calibrated):
    """By 95 % intervals of paired ratios; in 3 steps by more than a tenth."""
    fine = solved(PathAverage(), SPACE, 256, rows=2000)[-1]
    for steps, limit in ((3, 0.9), (8, 1.0)):
        ours, plain = (
            (solved(s, SPACE, steps, rows=2000)[-1] - fine).flatten(1).norm(dim=1) for s in (calibrated, PathAverage())
        )
        assert paired_ratio(ours, plain)[2] < limit


def test_nothing_is_changed_where_the_scheme_is_exact():
    """Data of the reference's law: Q = 0, and both paths are the same."""
    found = calibrate(TEACHER, replace(SPACE, reference=COORDINATES), COUNTS, progress=False)
    for steps in COUNTS:
        assert torch.allclose(found.moments[steps].gain, torch.ones(steps, 2, 2, dtype=F64), atol=1e-9)
        assert found.moments[steps].shift.abs().max() < 1e-7


def test_states_in_the_coordinates_of_the_data(calibrated):
    """A space without a basis has the same paths in law; on the same noise, turned, the states are the same."""
    bare = replace(SPACE, reference=GaussianReference(MEAN, 0.0))
    sde, turned = (CanonicalSDE(TEACHER, reference=space.reference) for space in (bare, SPACE))
    times = SPACE.times(3)
    generator = torch.Generator().manual_seed(0)
    u = torch.randn(5, 2, 2, generator=generator, dtype=F64)
    memories = [calibrated.start(sde, times[0], u)] * 2
    states = [COORDINATES.from_basis(u), u]
    for k in range(3):
        noise = torch.randn(2, 5, 2, 2, generator=generator, dtype=F64)
        noises = [COORDINATES.from_basis(noise.flatten(0, 1)).reshape(noise.shape), noise]
        for i, own in enumerate((sde, turned)):
            states[i], memories[i] = calibrated.advance(
                own, times[k], times[k + 1], states[i], memories[i], (noises[i],)
            )
    assert torch.allclose(COORDINATES.to_basis(states[0]), states[1], atol=1e-9)


def test_probability_flow():
    """Its converged solutions are its own: variances of the ends come right, in 4 steps of iPNDM-4."""
    space = replace(SPACE, grid=StepGrid())
    found = calibrate(TEACHER, space, (4,), IPNDM4(), eta=0.0, paths=256, progress=False)
    comparison = Comparison(TEACHER, SPACE, batch=4000)
    samplers = [
        Sampler(key, key, (4,), scheme=scheme, eta=0.0) for key, scheme in (("plain", IPNDM4()), ("calibrated", found))
    ]
    x = comparison.follow([(sampler, 4) for sampler in samplers], range(4000))
    law = (VARIANCES + 1 / SNR[1]).sqrt()
    plain, ours = (COORDINATES.to_basis(x[key, 4] - MEAN).std(0) / law - 1 for key in ("plain", "calibrated"))
    assert ours.abs().max() < 0.06  # five standard errors
    assert plain.abs().max() > 0.1


def test_a_seed_has_its_sample_on_any_batch(calibrated):
    sampler = Sampler("calibrated", "calibrated", (3,), scheme=calibrated, referenced=True, digest=calibrated.digest)
    whole, parts = (Comparison(TEACHER, SPACE, batch=n) for n in (6, 2))
    x = whole.follow([(sampler, 3)], range(6))["calibrated", 3]
    own = torch.cat([parts.follow([(sampler, 3)], range(k, k + 2))["calibrated", 3] for k in (0, 2, 4)])
    assert torch.allclose(x, own, rtol=1e-12)


def test_free_step_and_the_digits():
    """On a chosen grid with a free step, float32, in batches of 64 paths: nearer to the paths in 4 steps, by a 95 %
    interval, and in 16, where little is left to mend, no more than 2 % farther."""
    teacher, space = load_teacher(), replace(path_space(), depth=2)
    assert space.grid.free > 0
    found = calibrate(teacher, space, (4, 16), progress=False, paths=192)
    comparison = Comparison(teacher, space, truth_steps=128, batch=400)
    plain = Sampler("plain", "plain", (4, 16), scheme=PathAverage(), referenced=True, grid=space.grid)
    ours = replace(plain, key="ours", label="ours", scheme=found)
    pairs = [(sampler, steps) for sampler in (plain, ours) for steps in (4, 16)]
    x = comparison.follow([*pairs, (comparison.truth, 128)], range(400))
    errors = {key: (value - x[comparison.truth.key, 128]).flatten(1).norm(dim=1) for key, value in x.items()}
    assert paired_ratio(errors["ours", 4], errors["plain", 4])[2] < 1.0
    assert paired_ratio(errors["ours", 16], errors["plain", 16])[0] < 1.02


def test_same_seed_same_numbers(calibrated):
    again = calibrate(TEACHER, SPACE, COUNTS, paths=256, fine_steps=128, progress=False)
    other = calibrate(TEACHER, SPACE, COUNTS, paths=256, fine_steps=128, seed=1, progress=False)
    assert again.digest == calibrated.digest != other.digest


class Holding(PathAverage):
    """A scheme that holds a module, and notes the modes in which it is asked."""

    def __init__(self):
        super().__init__()
        self.net, self.modes = nn.Dropout(), set()

    def advance(self, *arguments):
        self.modes.add(self.net.training)
        return super().advance(*arguments)


class Noted(nn.Module, PathAverage):
    """A scheme that is a module, and notes the modes in which it is asked."""

    def __init__(self):
        nn.Module.__init__(self)
        self.correction, self.modes = 0.2, set()

    def advance(self, *arguments):
        self.modes.add(self.training)
        return PathAverage.advance(self, *arguments)


@pytest.mark.parametrize("kind", [Noted, Holding])
def test_modules_of_schemes_are_in_evaluation_mode(kind):
    """While they are measured and while they are compared; then each has its own mode again."""
    scheme = kind()
    found = calibrate(TEACHER, SPACE, (3,), scheme, paths=16, progress=False)
    sampler = Sampler("calibrated", "calibrated", (3,), scheme=found, referenced=True)
    Comparison(TEACHER, SPACE).follow([(sampler, 3)], range(2))
    assert scheme.modes == {False}
    assert (scheme if kind is Noted else scheme.net).training


def test_generators():
    """A generator's cell: its samples are those of the solver cell that it starts as, calibrated."""
    torch.manual_seed(0)
    variances = torch.tensor([4.0, 0.01])
    law = Mixture(torch.ones(1), torch.zeros(1, 2), torch.diag(variances)[None])
    teacher, space = SNRDenoiser(law.denoise_y), PathSpace((2,), SNR, GaussianReference(0.0, 0.0))
    generator = SigDEG.from_teacher(teacher, space, depth=2, sigma_data=1.0)
    found = calibrate(teacher, generator.space, (3,), generator.cell, progress=False)
    plain = generator.sample(4000, 3).values
    ours = generator.sample(4000, 3, calibration=found).values
    off, before = (x.std(0) / (variances + 1 / SNR[1]).sqrt() - 1 for x in (ours, plain))
    assert before.abs().min() > 0.2
    assert off.abs().max() < 0.1
    with pytest.raises(ValueError, match="calibration must be of this generator's cell; it is of PathAverage"):
        generator.sample(1, 3, calibration=replace_scheme(found))
    with pytest.raises(ValueError, match="steps must be those that were calibrated"):
        generator.sample(1, 4, calibration=found)
    with pytest.raises(TypeError, match="calibration"):
        generator.sample(1, 3, calibration=found.moments)


def replace_scheme(calibrated):
    return Calibrated(PathAverage(), [*calibrated.moments.values()], calibrated.basis)


def test_matched_moments():
    """Of a multiple they are undone; of two independent sets of one law nearly nothing is left: without shrinking, the
    mean square of log gain would be 1/n."""
    generator = torch.Generator().manual_seed(0)
    truth, other = torch.randn(2, 400, 500, generator=generator, dtype=F64)
    shift, gain = matched(2 * truth + 3, truth)
    assert torch.allclose(gain, torch.full((500,), 0.5, dtype=F64))
    assert torch.allclose(shift, torch.full((500,), -1.5, dtype=F64))
    shift, gain = matched(other, truth)
    assert gain.log().square().mean() < 0.5 / 400
    assert shift.square().mean() < 0.5 * 2 / 400
    constant = torch.ones(4, 3, dtype=F64)
    assert all(value.isfinite().all() for value in matched(constant, constant))


def test_saved_and_loaded(calibrated, tmp_path):
    file = tmp_path / "calibration.safetensors"
    calibrated.save(file)
    found = Calibrated.load(file, PathAverage())
    assert found.digest == calibrated.digest
    assert repr(found) == "Calibrated(PathAverage(correction=0.2), steps=(3, 8))"
    assert torch.equal(solved(found, SPACE, 3, rows=4), solved(calibrated, SPACE, 3, rows=4))


def test_files_of_other_things(calibrated, tmp_path):
    file = tmp_path / "other.safetensors"
    COORDINATES.save(file)
    with pytest.raises(ValueError, match="it must hold eta, and times, shift and gain"):
        Calibrated.load(file, PathAverage())
    tensors = {name.replace("_3", "_4"): value.clone() for name, value in calibrated._tensors().items()}
    save_file(tensors, file)
    with pytest.raises(ValueError, match=r"of the numbers of steps that their names say, \[4, 8\]"):
        Calibrated.load(file, PathAverage())


def test_other_steps_are_refused(calibrated):
    with pytest.raises(ValueError, match=r"steps must be those that were calibrated, \(3, 8\) of one grid; step 1"):
        solved(calibrated, SPACE, 4, rows=2)
    with pytest.raises(ValueError, match="none of theirs"):
        solved(calibrated, replace(SPACE, snr=(SNR[0], 2 * SNR[1])), 3, rows=2)
    sde = CanonicalSDE(TEACHER, reference=SPACE.reference)
    path = BrownianPath(*SNR, (2, 2, 2), seeds=[0, 1], depth=2, clock=SPACE.clock, dtype=F64)
    longer = torch.cat([SPACE.times(3), torch.tensor([2 * SNR[1]], dtype=F64)])
    memory = calibrated.start(sde, longer[0], torch.zeros(2, 2, 2, dtype=F64))
    u, noise = torch.zeros(2, 2, 2, dtype=F64), torch.zeros(2, 2, 2, 2, dtype=F64)
    for k in range(3):
        u, memory = calibrated.advance(sde, longer[k], longer[k + 1], u, memory, (noise,))
    with pytest.raises(ValueError, match="step 4 from"):
        calibrated.advance(sde, longer[3], longer[4], u, memory, (noise,))
    assert calibrated.check(sde, u, path) == "additive"


def test_another_basis_is_refused(calibrated):
    for basis in ((TURN.mT, TURN), (torch.eye(2, dtype=F64),)):
        space = replace(SPACE, reference=GaussianReference(MEAN, torch.zeros_like(VARIANCES), basis))
        with pytest.raises(ValueError, match="the SDE's reference must have the basis of the calibration, or none"):
            solved(calibrated, space, 3, rows=2)


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"scheme": ERSDESolver3()}, ValueError, "scheme must follow the paths"),
        ({"scheme": "path_average"}, TypeError, "scheme"),
        ({"eta": 0.5}, ValueError, "eta must be"),
        ({"paths": 15}, ValueError, "paths"),
        ({"fine_steps": 0}, ValueError, "fine_steps"),
        ({"seed": -1}, ValueError, "seed"),
        ({"steps": ()}, ValueError, "steps must not be empty"),
        ({"steps": (4, 0)}, ValueError, r"steps\[1\]"),
        ({"steps": (4, 4)}, ValueError, "steps must be of different numbers of steps"),
        ({"steps": (7, 8), "space": replace(SPACE, cells=8)}, ValueError, "with different first steps; those of 7 and"),
        ({"steps": 5}, TypeError, "steps must be"),
        ({"scheme": IPNDM4()}, ValueError, "eta"),
        ({"space": None}, TypeError, "space"),
        ({"teacher": lambda y, snr: y}, TypeError, "teacher"),
        ({"teacher": lambda y, snr: y, "eta": 0.0}, TypeError, "teacher"),
    ],
)
def test_bad_arguments(change, error, says):
    def refuse(y, snr):
        raise AssertionError("asked")

    arguments = {"teacher": SNRDenoiser(refuse), "space": SPACE, "steps": (3,), "progress": False, **change}
    with pytest.raises(error, match=says):
        calibrate(**arguments)


def test_calibrations_that_cannot_be_told_apart(calibrated):
    one, other = calibrated.moments[3], calibrated.moments[8]
    with pytest.raises(ValueError, match="moments must be of one number of steps at least"):
        Calibrated(DPMSolver2M(), [])
    with pytest.raises(ValueError, match="those of 3 and of 8 steps are not"):
        Calibrated(
            DPMSolver2M(), [one, StepMoments(torch.cat([one.times[:2], other.times[2:]]), other.shift, other.gain)]
        )
    with pytest.raises(ValueError, match="those of 3 and of 3 steps are not"):
        Calibrated(DPMSolver2M(), [one, StepMoments(2 * one.times, one.shift, one.gain)])
    with pytest.raises(ValueError, match="times must be float64"):
        StepMoments(one.times[:-1], one.shift, one.gain)
    with pytest.raises(ValueError, match="shift must have the gain's shape"):
        StepMoments(one.times, one.shift[:2], one.gain)
    with pytest.raises(TypeError, match="gain"):
        StepMoments(one.times, one.shift, None)


def test_another_eta_or_event_is_refused(calibrated):
    flow = CanonicalSDE(SNRDenoiser(lambda y, snr: y, 0.0), reference=SPACE.reference, eta=0.0)
    sde, time = CanonicalSDE(TEACHER, reference=SPACE.reference), SPACE.times(3)[0]
    with pytest.raises(ValueError, match="the calibration is for eta = 1 and samples of shape"):
        calibrated.start(flow, time, torch.zeros(1, 2, 2, dtype=F64))
    with pytest.raises(ValueError, match="the calibration is for eta = 1 and samples of shape"):
        calibrated.start(sde, time, torch.zeros(1, 5, 2, 2, dtype=F64))


def test_files_of_samplers(tmp_path):
    """A file is read if its steps are the sampler's; weights are part of the digest."""
    file, sampler = tmp_path / "c.safetensors", Sampler("own", "own", (3,), scheme=PathAverage(), digest="A")
    found = calibrated_sampler(sampler, TEACHER, SPACE, file=file, paths=16, progress=False)
    again = calibrated_sampler(sampler, TEACHER, SPACE, file=file)
    assert again.digest == found.digest
    assert again.scheme.digest == found.scheme.digest
    assert calibrated_sampler(replace(sampler, digest="B"), TEACHER, SPACE, file=file).digest != found.digest
    for other in (replace(sampler, steps=(4,)), replace(sampler, grid=StepGrid((0.0, 0.4, 1.0)))):
        with pytest.raises(ValueError, match=r"file must have the calibration of own in . steps"):
            calibrated_sampler(other, TEACHER, SPACE, file=file)
    with pytest.raises(ValueError, match="sampler must have a scheme"):
        calibrated_sampler(Sampler("own", "own", (3,), draw=lambda y, n: y), TEACHER, SPACE)


def test_a_teacher_that_is_not_finite():
    with pytest.raises(FloatingPointError, match="the teacher's values must be finite"):
        calibrate(SNRDenoiser(lambda y, snr: y / 0), SPACE, (3,), progress=False)

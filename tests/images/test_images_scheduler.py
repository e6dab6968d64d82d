"""The path-average scheme as a scheduler of diffusers: what it computes, on which paths, and how pipelines call it."""

import copy
import importlib
import inspect
import pickle
import sys
from itertools import pairwise

import pytest

pytest.importorskip("diffusers")

import diffusers
import numpy as np
import torch
from images_tiny import TINY, normal, tiny_unet
from images_tiny import seeded as seeded_weights
from PIL import Image
from safetensors.torch import save_file
from test_images_latent import gaussian, quantized

import sdesig.images
from sdesig.brownian import BrownianPath
from sdesig.images.path_average_scheduler import PathAverageScheduler
from sdesig.images.teachers import TABLES
from sdesig.sampling import CanonicalDenoiser, CanonicalSDE, GaussianReference, PathAverage, SNRClock, SNRDenoiser
from sdesig.sde import Flow, FlowDenoiser, Mixture, TabulatedVP
from sdesig.solvers import solve
from sdesig.testing import check_gaussian, check_moments

ALPHAS = diffusers.DDPMScheduler().alphas_cumprod.double()
TABLE = TabulatedVP(ALPHAS)
LOW, HIGH = TABLE.snr_range
PREDICTIONS = {
    "epsilon": lambda x, d, alpha, sigma: (x - alpha * d) / sigma,
    "v_prediction": lambda x, d, alpha, sigma: (alpha * x - d) / sigma,
    "sample": lambda x, d, alpha, sigma: d,
}
every_eta = pytest.mark.parametrize("eta", [0.0, 0.5, 1.0, 1.4])


def seeded(seed=5):
    return torch.Generator().manual_seed(seed)


def levels_at(t):
    t = torch.as_tensor(t, dtype=torch.float64)
    return TABLE.alpha(t).item(), TABLE.sigma(t).item()


def model_of(law, prediction="epsilon"):
    """A network whose prediction is exact for images of a law with `denoise_y`."""

    def model(x, t):
        alpha, sigma = levels_at(t)
        y = alpha / sigma**2 * x.flatten(1)
        denoised = law.denoise_y(y, (alpha / sigma) ** 2).reshape(x.shape)
        return PREDICTIONS[prediction](x, denoised, alpha, sigma)

    return model


def loop(scheduler, model, x, steps=None, **options):
    """As pipelines call it."""
    if steps is not None:
        scheduler.set_timesteps(steps)
        x = x * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        x = scheduler.step(model(scheduler.scale_model_input(x, t), t), t, x, return_dict=False, **options)[0]
    return x


def path_of(shape, variance, power=1.0, dtype=torch.float64, ends=(LOW, HIGH)):
    """The path of a generator's images."""
    seeds = torch.randint(2**62, shape[:1], generator=seeded()).tolist()
    clock = SNRClock(variance, power)
    return BrownianPath(*ends, shape, seeds=seeds, clock=clock, cells=1280, dtype=dtype)


def error(found, expected):
    return (found - expected).square().mean().sqrt().item()


class Gaussian:
    """Data N(0, c I)."""

    def __init__(self, variance):
        self.variance = variance

    def denoise_y(self, y, snr):
        return self.variance * y / (1 + self.variance * snr)


def coordinate(x, snr, c, eta):
    """u of x_t: y = x exp(eta^2 lambda)/sigma and u = y/(1 + c snr)^p."""
    sigma = (1 + snr) ** -0.5
    return x * snr ** (eta**2 / 2) / sigma / (1 + c * snr) ** ((1 + eta**2) / 2)


# --- what it computes ------------------------------------------------------------------------------------------------


@every_eta
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_gaussian_data_are_exact_at_any_number_of_steps(prediction, eta):
    """With their own reference u_N = u_0 + M, the whole path's increment; at eta = 0 the flow scales the latents."""
    c, x = 0.6, normal(3, 1, 4, 4).double()
    scheduler = PathAverageScheduler(prediction_type=prediction, reference_variance=c, eta=eta)
    whole = path_of(x.shape, c, eta**2).partial_signature(LOW, HIGH).increment if eta else 0.0
    u = coordinate(x, LOW, c, eta) + whole
    expected = u / coordinate(torch.ones(()).double(), HIGH, c, eta)
    for steps in (1, 2, 9):
        found = loop(scheduler, model_of(Gaussian(c), prediction), x, steps, generator=seeded())
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    if eta == 0:
        scale = [alpha**2 * c + sigma**2 for alpha, sigma in (levels_at(0), levels_at(999))]
        torch.testing.assert_close(expected, x * (scale[0] / scale[1]) ** 0.5, rtol=1e-9, atol=1e-9)


WITHOUT_SIGNAL = {
    "SD 2.1 rescaled": diffusers.DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type="v_prediction",
        rescale_betas_zero_snr=True, timestep_spacing="trailing", clip_sample=False, set_alpha_to_one=False,
    ),
    "CogVideoX": diffusers.CogVideoXDPMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type="v_prediction",
        rescale_betas_zero_snr=True, snr_shift_scale=3.0, timestep_spacing="trailing", clip_sample=False,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WITHOUT_SIGNAL)
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_tables_that_end_without_signal(name, eta):
    """Gaussian data are exact on the levels of the model's own scheduler, from the SNR 1/6400 on."""
    theirs = WITHOUT_SIGNAL[name].alphas_cumprod.double()
    assert theirs[-1] < 1e-9 < theirs[-2]
    table = TabulatedVP(theirs[:-1])
    c, x = 0.6, normal(3, 1, 4, 4).double()
    scheduler = PathAverageScheduler.from_config(WITHOUT_SIGNAL[name].config, reference_variance=c, eta=eta)
    asked = []

    def model(x, t):
        asked.append(float(t))
        if t == 999:
            return 0 * x  # v = -E[x_0]
        t = torch.as_tensor(t, dtype=torch.float64)
        alpha, sigma = table.alpha(t), table.sigma(t)
        denoised = Gaussian(c).denoise_y(alpha / sigma**2 * x, (alpha / sigma) ** 2)
        return PREDICTIONS["v_prediction"](x, denoised, alpha, sigma)

    low, high = 1 / 6400, table.snr_range[1]
    whole = path_of(x.shape, c, ends=(low, high)).partial_signature(low, high).increment if eta else 0.0
    start = x * (1 + low) ** -0.5  # the latents are noise alone, of which x_t has sigma
    expected = (coordinate(start, low, c, eta) + whole) / coordinate(torch.ones(()).double(), high, c, eta)
    for steps in (1, 2, 9):
        found = loop(scheduler, model, x, steps, generator=seeded())
        torch.testing.assert_close(found, expected, rtol=2e-4, atol=2e-4)  # their table is of float32
    assert asked[-9] == 999.0
    assert max(asked[-8:]) < 998
    silent = torch.tensor([999.0])
    assert torch.equal(scheduler.add_noise(x, 2 * x, silent.expand(3)), 2 * x)


VELOCITY = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
FLOWS = {
    "SD3": diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
    "Flux": diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
    "Heun": diffusers.FlowMatchHeunDiscreteScheduler(),
    "Wan": diffusers.UniPCMultistepScheduler(flow_shift=3.0, **VELOCITY),
    "SANA": diffusers.DPMSolverMultistepScheduler(flow_shift=3.0, **VELOCITY),
}


def velocities_of(law):
    """A flow-matching network, exact for a law with `denoise_y`, of t from 0 to 1000."""

    def model(x, t):
        t = torch.as_tensor(t, dtype=torch.float64) / 1000
        if t == 1:
            return x - law.denoise_y(0 * x.flatten(1), 1e-20).reshape(x.shape)
        y = (1 - t) / t**2 * x.flatten(1)
        return (x - law.denoise_y(y, ((1 - t) / t) ** 2).reshape(x.shape)) / t

    return model


@pytest.mark.parametrize("name", FLOWS)
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0, 1.4])
def test_flow_matching_is_exact_for_gaussian_data(name, eta):
    """At any number of steps, from noise alone to x_t/alpha at the SNR 10^4."""
    c, low, high = 0.6, 1 / 6400, 1e4
    x = normal(3, 1, 4, 4).double()
    scheduler = PathAverageScheduler.from_config(FLOWS[name].config, reference_variance=c, eta=eta)
    whole = path_of(x.shape, c, eta**2, ends=(low, high)).partial_signature(low, high).increment if eta else 0.0
    # y = x snr^((1 + eta^2)/2) / alpha, of which alpha = 1 at the end, and x/alpha = noise/sqrt(snr) at the start
    first, last = (snr ** ((1 + eta**2) / 2) / (1 + c * snr) ** ((1 + eta**2) / 2) for snr in (low, high))
    expected = (first * x / low**0.5 + whole) / last
    for steps in (1, 2, 9):
        found = loop(scheduler, velocities_of(Gaussian(c)), x, steps, generator=seeded())
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
        assert scheduler.timesteps[0] == 1000
        assert (scheduler.timesteps.diff() < 0).all()


def test_flow_matching_follows_the_paths_of_the_package():
    """Another code on the same path: the canonical SDE with `Flow`, in many steps."""
    law = Mixture(torch.ones(3), 1.5 * normal(3, 6, seed=2), 0.2)
    x = normal(64, 2, 3)
    scheduler = PathAverageScheduler.from_config(FLOWS["SD3"].config, reference_variance=0.6)
    path = path_of(x.shape, 0.6, ends=(1 / 6400, 1e4), dtype=torch.float32)
    reference = GaussianReference(0.0, 0.6)
    flow = Flow()
    denoiser = CanonicalDenoiser(FlowDenoiser(lambda x, t: velocities_of(law)(x, 1000 * t[0]), flow), flow)
    sde = CanonicalSDE(denoiser, reference=reference)
    u = reference.to_reference(x / 6400**0.5, torch.tensor(1 / 6400))[0]
    last = solve(sde, u, path.grid(640), scheme="path_average", path=path, save="last")
    truth = reference.from_reference(last, torch.tensor(1e4)) / 1e4
    errors = [error(loop(scheduler, velocities_of(law), x, n, generator=seeded()), truth) for n in (10, 40, 160)]
    assert errors[2] < 0.02 < 0.5 < truth.std()
    assert errors[0] > 2 * errors[1] > 4 * errors[2]


EDMS = {
    "EDM": diffusers.EDMEulerScheduler(),
    "CosXL": diffusers.EDMEulerScheduler(sigma_max=120.0, sigma_data=1.0, prediction_type="v_prediction"),
    "Playground": diffusers.EDMDPMSolverMultistepScheduler(sigma_max=80.0, sigma_data=0.5),
    "SVD": diffusers.EulerDiscreteScheduler(
        sigma_min=0.002, sigma_max=700.0, timestep_type="continuous", prediction_type="v_prediction",
        use_karras_sigmas=True,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", EDMS)
def test_samples_that_are_scaled_as_by_the_models_own_scheduler(name):
    """What the network gets and what is made of its output, against diffusers' own code, at all of its noise levels."""
    theirs = EDMS[name]
    ours = PathAverageScheduler.from_config(theirs.config)._levels
    theirs.set_timesteps(12)
    z, output = normal(2, 1, 3, 3).double(), normal(2, 1, 3, 3, seed=2).double()
    for k, t in enumerate(theirs.timesteps):
        sigma, theirs._step_index, theirs.is_scale_input_called = theirs.sigmas[k].double(), k, True
        alpha, std = ours.alpha_sigma(ours.diffusion.time(1 / sigma**2))
        torch.testing.assert_close(theirs.scale_model_input(z, t), alpha * z, rtol=1e-5, atol=1e-6)
        assert ours.timestep(sigma).item() == pytest.approx(t.item(), rel=1e-5, abs=1e-5)
        assert ours.diffusion.snr(ours.time(t.double())).item() == pytest.approx(1 / sigma.item() ** 2, rel=1e-4)
        theirs._step_index = k
        if name == "Playground":
            expected = theirs.precondition_outputs(z, output, sigma)
        else:
            expected = theirs.step(output, t, z, return_dict=True).pred_original_sample
        found = ours.denoised(alpha * z, output, alpha.item(), std.item())
        torch.testing.assert_close(found, expected.double(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", EDMS)
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_edm_is_exact_for_gaussian_data(name, eta):
    """At any number of steps; what is returned is x_0 and the noise of the end, without a scale."""
    c, x = 0.6, normal(3, 1, 4, 4).double()
    theirs = EDMS[name].config
    scheduler = PathAverageScheduler.from_config(theirs, reference_variance=c, eta=eta)
    data, sign = theirs.get("sigma_data", 1.0), -1 if theirs["prediction_type"] == "v_prediction" else 1

    def model(x, t):
        s = np.exp(4 * float(t))
        z = x * (s**2 + data**2) ** 0.5
        c_skip, c_out = data**2 / (s**2 + data**2), sign * s * data / (s**2 + data**2) ** 0.5
        return (Gaussian(c).denoise_y(z / s**2, s**-2) - c_skip * z) / c_out

    low, high = theirs["sigma_max"] ** -2, 1e4
    whole = path_of(x.shape, c, eta**2, ends=(low, high)).partial_signature(low, high).increment if eta else 0.0
    power = (1 + eta**2) / 2
    # the latents are c_in z; y = z snr^power
    first, last = (snr**power / (1 + c * snr) ** power for snr in (low, high))
    expected = (first * x * (1 / low + data**2) ** 0.5 + whole) / last
    for steps in (1, 2, 9):
        found = loop(scheduler, model, x, steps, generator=seeded())
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", EDMS)
def test_edm_configurations_go_there_and_back(name, tmp_path):
    theirs = EDMS[name]
    PathAverageScheduler.from_config(theirs.config).save_pretrained(tmp_path)
    again = PathAverageScheduler.from_config(PathAverageScheduler.from_pretrained(tmp_path).config)
    assert again._levels.snr_range == PathAverageScheduler.from_config(theirs.config)._levels.snr_range
    back = type(theirs).from_config(again.config).config
    for key, value in theirs.config.items():
        assert key[0] == "_" or back[key] == value, key


class Shifted(Gaussian):
    """Data N(m, c I)."""

    def __init__(self, mean, variance):
        super().__init__(variance)
        self.mean = mean

    def denoise_y(self, y, snr):
        return (self.mean + self.variance * y) / (1 + self.variance * snr)


@pytest.mark.parametrize("name", ["SD3", "SD 2.1 rescaled"])
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_a_mean_that_is_seen_at_any_noise_is_kept(name, eta):
    """That of a channel of 128 x 128 pixels, .5 each, is sqrt(n) as large in units of its noise: 64, whose square root
    of the SNR is .8 at 1/6400. Means of 2000 samples, |z| < 5: 4 false alarms in 10^6 runs."""
    law = Shifted(64.0, 1475.0)
    x = normal(2000, 1, 1, 1, seed=9).double()
    if name == "SD3":
        config, model = FLOWS[name].config, velocities_of(law)
    else:
        config = WITHOUT_SIGNAL[name].config
        table = TabulatedVP(WITHOUT_SIGNAL[name].alphas_cumprod.double()[:-1])

        def model(x, t):
            t = torch.as_tensor(t, dtype=torch.float64)
            if t == 999:
                return torch.full_like(x, -law.mean)
            alpha, sigma = table.alpha(t), table.sigma(t)
            denoised = law.denoise_y(alpha / sigma**2 * x, (alpha / sigma) ** 2)
            return PREDICTIONS["v_prediction"](x, denoised, alpha, sigma)

    scheduler = PathAverageScheduler.from_config(config, reference_variance=1000.0, eta=eta)
    found = loop(scheduler, model, x, 60, generator=seeded())
    assert abs(found.mean() - law.mean) < 5 * (law.variance / len(x)) ** 0.5
    if eta > 0:  # the flow keeps what its start lacks, the data's variance at 1/6400
        assert found.var().item() == pytest.approx(law.variance, rel=5 * (2 / len(x)) ** 0.5)


@pytest.mark.parametrize("name", FLOWS)
def test_flow_configurations_go_there_and_back(name, tmp_path):
    theirs = FLOWS[name]
    scheduler = PathAverageScheduler.from_config(theirs.config)
    assert scheduler.config.prediction_type == "flow_prediction"
    scheduler.save_pretrained(tmp_path)
    again = PathAverageScheduler.from_pretrained(tmp_path)
    assert PathAverageScheduler.from_config(again.config).config.prediction_type == "flow_prediction"
    back = type(theirs).from_config(again.config).config
    for key, value in theirs.config.items():
        assert key[0] == "_" or back[key] == value, key


def test_what_flow_pipelines_call():
    scheduler = PathAverageScheduler.from_config(FLOWS["Flux"].config)
    scheduler.set_timesteps(8)
    times = scheduler.timesteps
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / 8, 8), device="cpu", mu=1.15)
    assert torch.equal(scheduler.timesteps, times)
    sample, noise = normal(2, 4), normal(2, 4, seed=3)
    for t in times[[0, 3]]:
        expected = (1 - t / 1000) * sample + t / 1000 * noise
        torch.testing.assert_close(scheduler.scale_noise(sample, t[None], noise), expected)
    assert len(scheduler.sigmas) == 9
    torch.testing.assert_close(1000 * scheduler.sigmas[:-1], times)
    for bad in ([1.0, 0.3], [], 3.0):
        with pytest.raises(ValueError, match="sigmas must be None or, with flow matching"):
            scheduler.set_timesteps(sigmas=bad)
    with pytest.raises(ValueError, match="sigmas must be None or, with flow matching"):
        scheduler.set_timesteps(4, sigmas=np.linspace(1.0, 1 / 8, 8))
    with pytest.raises(ValueError, match="sigmas must be None or, with flow matching"):
        PathAverageScheduler().set_timesteps(sigmas=[1.0, 0.5])


def test_keywords_of_from_config_are_checked_too():
    with pytest.raises(ValueError, match="must have prediction_type='flow_prediction'; got 'epsilon'"):
        PathAverageScheduler.from_config(FLOWS["SD3"].config, prediction_type="epsilon")
    video = diffusers.EulerDiscreteScheduler(prediction_type="v_prediction").config
    with pytest.raises(ValueError, match="must have use_flow_sigmas=True"):
        PathAverageScheduler.from_config(video, prediction_type="flow_prediction")
    made = PathAverageScheduler.from_config(video, timestep_type="continuous", sigma_min=0.002, sigma_max=700.0)
    assert made._levels.snr_range[0] == pytest.approx(700.0**-2)


@pytest.mark.parametrize(
    "config, match",
    [
        (diffusers.FlowMatchEulerDiscreteScheduler(invert_sigmas=True).config, "must have no invert_sigmas=True"),
        ({**diffusers.UniPCMultistepScheduler(**VELOCITY).config, "use_flow_sigmas": False}, "use_flow_sigmas=True"),
        ({**FLOWS["SD3"].config, "later_scale": 2.0}, r"must have no later_scale=2\.0"),
        ({**EDMS["EDM"].config, "later_scale": 2.0}, r"must have no later_scale=2\.0"),
        ({**EDMS["EDM"].config, "prediction_type": "sample"}, "prediction_type must be one of 'epsilon', 'v_pred"),
        ({**EDMS["SVD"].config, "prediction_type": "epsilon"}, "must have prediction_type='v_prediction' with timest"),
        ({**EDMS["SVD"].config, "sigma_min": None}, "must have sigma_min"),
    ],
)
def test_flows_and_edms_that_are_refused(config, match):
    with pytest.raises(ValueError, match=match):
        PathAverageScheduler.from_config(config)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_it_is_the_scheme_of_this_package_with_the_first_evaluation_at_the_start(eta, tmp_path):
    """Here each step asks the mixture itself, D(y, snr), and moves u; a reference with a spectrum comes from a file."""
    law = Mixture(torch.ones(3), normal(3, 6, seed=2), 0.2)
    basis = torch.linalg.qr(normal(3, 3, seed=4))[0]
    reference = GaussianReference(normal(2, 3), normal(2, 3, seed=3) ** 2, basis)
    reference.save(tmp_path / "reference.safetensors")

    def denoise(y, snr):
        """For y of any eta."""
        return law.denoise_y((y * snr ** ((1 - eta**2) / 2)).flatten(1), snr).reshape(y.shape)

    sde, scheme = CanonicalSDE(SNRDenoiser(denoise, eta), reference=reference, eta=eta), PathAverage(correction=0.0)
    x = normal(4, 2, 3)
    path = path_of(x.shape, reference.variance, eta**2, dtype=torch.float32) if eta else None
    file = str(tmp_path / "reference.safetensors")
    scheduler = PathAverageScheduler(eta=eta, reference_file=file, slack=0.0)
    for steps in (1, 6):
        grid = path_of(x.shape, 0.0).grid(steps)
        memory = None
        u = reference.to_reference(x * LOW ** (eta**2 / 2) * (1 + LOW) ** 0.5, LOW, eta)[0]
        for k, (start, end) in enumerate(pairwise(grid)):
            if eta:
                (noise,) = scheme.noise("additive", path.partial_signatures(torch.stack([start, end])))
            else:
                noise = torch.zeros(1, 1, *x.shape)
            if k:
                u, memory = scheme.advance(sde, start, end, u, memory, (noise[0],))
            else:
                memory = sde.drift(u, start), None
                u = u + sde.drift_clock.length(start, end).to(u) * memory[0] + noise[0, 0]
        expected = sde.noisy_data(u, HIGH) * levels_at(0)[0]
        found = loop(scheduler, model_of(law), x, steps, generator=seeded())
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_the_law_of_a_mixture():
    """Mean and covariance of 8000 samples, false-alarm rate 1e-6; with 30 steps the scheme's own error is less."""
    means = torch.tensor([[0.8, 0.4], [-0.6, 0.5], [0.1, -0.9]])
    law = Mixture(torch.tensor([0.5, 0.2, 0.3]), means, 0.01)
    x = normal(8000, 2, 1, 1)
    found = loop(PathAverageScheduler(), model_of(law), x, 30, generator=seeded()).flatten(1) / levels_at(0)[0]
    a, b = (found.double() - law.mean()).T
    covariance = law.covariance().double() + torch.eye(2) / HIGH
    expected = [0.0, 0.0, covariance[0, 0], covariance[0, 1], covariance[1, 1]]
    check_moments(torch.stack([a, b, a * a, a * b, b * b], 1), expected, false_alarm_rate=1e-6).assert_passed()


def test_what_a_step_shows():
    """The evaluation point at `timesteps`, and D there; the times are those at which the scheme asks."""
    law, scheduler, asked = Mixture(torch.ones(2), normal(2, 16).double(), 0.1), PathAverageScheduler(slack=0.0), []
    scheduler.set_timesteps(6)
    assert scheduler.timesteps[0] == 999
    scheduler.step(normal(2, 1, 4, 4), 999, normal(2, 1, 4, 4))
    assert repr(scheduler._run) == "PathAverageRun(before evaluation 1 of samples of shape (2, 1, 4, 4), eta=1)"
    scheduler.set_timesteps(6)
    assert scheduler.timesteps.dtype == torch.float32
    snrs = TABLE.snr(scheduler.timesteps.double())
    grid = path_of((1,), 0.0).grid(6)
    v, ends = (tau / (1 + 0.25 * tau) for tau in (snrs, grid))
    torch.testing.assert_close(v[1:], ends[1:-1] + ends[1:].diff() / 3, rtol=1e-4, atol=0)
    model, x = model_of(law), normal(2, 1, 4, 4).double()
    for t, snr in zip(scheduler.timesteps, snrs, strict=True):
        asked.append(x)
        result = scheduler.step(model(x, t), t, x, generator=seeded())
        y = x * snr.sqrt() * (1 + snr).sqrt()
        expected = law.denoise_y(y.flatten(1), snr).reshape(x.shape)
        torch.testing.assert_close(result.pred_original_sample, expected, rtol=1e-4, atol=1e-4)
        x = result.prev_sample
    assert len(asked) == len(scheduler.timesteps) == 6


# --- one path --------------------------------------------------------------------------------------------------------


def smooth_mixture():
    """Six smooth images and a little noise."""
    coarse = normal(6, 1, 3, 3, seed=0)
    means = torch.nn.functional.interpolate(coarse, size=(8, 8), mode="bicubic").clamp(-1, 1)
    return Mixture(torch.ones(6), means.flatten(1), 0.1**2)


@pytest.mark.filterwarnings("ignore:Should have t:UserWarning")  # torchsde's tree in DPMSolverSDEScheduler
@pytest.mark.parametrize("case, n", [("mixture", 64), ("unet", 2)])
@torch.no_grad()
def test_20_and_40_steps_agree_better_than_with_other_stochastic_schedulers(case, n):
    """DPMSolverSDEScheduler, whose path is the same too, asks the model twice a step; the UNet is as initialised."""
    torch.manual_seed(0)
    unet = diffusers.UNet2DModel(**TINY) if case == "unet" else None
    model = (lambda x, t: unet(x, t).sample) if unet else model_of(smooth_mixture())
    config = diffusers.DDPMScheduler(prediction_type="v_prediction" if unet else "epsilon").config
    multistep = diffusers.DPMSolverMultistepScheduler.from_config(config, algorithm_type="sde-dpmsolver++")
    x, differences = normal(n, 1, 8, 8, seed=3), []
    for scheduler, drawn in (
        (PathAverageScheduler.from_config(config), True),
        (diffusers.DPMSolverSDEScheduler.from_config(config, noise_sampler_seed=1), False),
        (multistep, True),
    ):
        images = [loop(scheduler, model, x, steps, **({"generator": seeded()} if drawn else {})) for steps in (20, 40)]
        differences.append(error(*images))
    ours, tree, multi = differences
    assert ours < 0.8 * tree
    assert ours < 0.3 * multi


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_an_image_alone_is_that_of_a_batch_to_the_bit(dtype):
    x, scheduler = normal(3, 2, 4, 4).to(dtype), PathAverageScheduler()

    def model(x, t):
        return torch.tanh(x)

    whole = loop(scheduler, model, x, 5, generator=[seeded(k) for k in range(3)])
    assert whole.dtype == dtype
    for k in range(3):
        assert torch.equal(loop(scheduler, model, x[k : k + 1], 5, generator=[seeded(k)]), whole[k : k + 1])
        assert torch.equal(loop(scheduler, model, x[k : k + 1], 5, generator=seeded(k)), whole[k : k + 1])
    assert not torch.equal(loop(scheduler, model, x[:1], 5, generator=seeded(1)), whole[:1])
    again = loop(scheduler, model, x, 5, generator=seeded(0))
    assert torch.equal(loop(scheduler, model, x, 5, generator=seeded(0)), again)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_without_generators_the_latents_decide(dtype):
    """As `DiTPipeline` calls it, with the latents of each image twice in a batch; nothing is drawn."""
    x, scheduler = normal(3, 2, 4, 4).to(dtype), PathAverageScheduler()

    def model(x, t):
        return torch.tanh(x)

    before = torch.get_rng_state()
    whole = loop(scheduler, model, torch.cat([x, x]), 5)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(*whole.chunk(2))
    for k in range(3):
        assert torch.equal(loop(scheduler, model, x[k : k + 1], 5), whole[k : k + 1])
    many = loop(scheduler, lambda x, t: x, normal(4000, 1, 1, 1).double(), 1)  # epsilon = x: no drift but the path
    check_gaussian((many / many.std()).flatten(1), torch.eye(1), false_alarm_rate=1e-6).assert_passed()
    shifted = loop(scheduler, lambda x, t: x, normal(4000, 1, 1, 1).double() + 1e-9, 1)
    assert abs(torch.corrcoef(torch.stack([many, shifted]).flatten(1))[0, 1]) < 0.1


def test_half_precision_rounds_only_what_the_model_sees():
    x, scheduler, model = normal(4, 1, 4, 4), PathAverageScheduler(), model_of(Gaussian(0.25))
    exact = loop(scheduler, model, x.bfloat16().float(), 10, generator=seeded())
    found = loop(scheduler, lambda x, t: model(x.float(), t).bfloat16(), x.bfloat16(), 10, generator=seeded())
    assert error(found, exact) < 0.01


def test_the_probability_flow_draws_nothing():
    generator, scheduler = seeded(), PathAverageScheduler(eta=0.0)
    before = generator.get_state()
    loop(scheduler, model_of(Gaussian(0.5)), normal(2, 1, 4, 4), 5, generator=generator)
    assert torch.equal(generator.get_state(), before)


def first_step(scheduler, value):
    """D of the first step where the model says `value`."""
    scheduler.set_timesteps(2)
    x = torch.ones(1, 1, 2, 2)
    return scheduler.step(
        torch.full_like(x, value), scheduler.timesteps[0], x, generator=seeded(0)
    ).pred_original_sample


def through_pickle(scheduler):
    return pickle.loads(pickle.dumps(scheduler))


def through_its_dictionary(scheduler):
    """As StableDiffusionPanoramaPipeline keeps one state per view."""
    other = PathAverageScheduler()
    other.__dict__.update(copy.deepcopy(scheduler.__dict__))
    return other


every_copy = pytest.mark.parametrize("make", [copy.copy, copy.deepcopy, through_pickle, through_its_dictionary])


@every_copy
def test_a_copy_of_a_used_scheduler_is_on_its_own(make):
    used = PathAverageScheduler.from_config(diffusers.DDPMScheduler().config)
    assert first_step(used, 7.0).flatten()[0].item() == pytest.approx(-944.44, abs=0.01)
    found = first_step(make(used), 0.5)
    assert found.flatten()[0].item() == pytest.approx(78.7068, abs=1e-4)
    assert torch.equal(found, first_step(PathAverageScheduler(), 0.5))


@every_copy
@pytest.mark.parametrize("eta", [0.0, 0.7])
def test_copies_go_on_from_the_middle_of_a_run(make, eta):
    """Two of them, and the original, step by step in turns with other models: each as if it were alone."""
    models = [model_of(Gaussian(variance)) for variance in (0.1, 0.5, 2.0)]
    x = normal(2, 1, 4, 4)

    def begun():
        scheduler = PathAverageScheduler(eta=eta)
        scheduler.set_timesteps(5)
        y = x
        for t in scheduler.timesteps[:2]:
            y = scheduler.step(models[0](y, t), t, y, generator=seeded(), return_dict=False)[0]
        return scheduler, y

    alone = []
    for model in models:
        scheduler, y = begun()
        for t in scheduler.timesteps[2:]:
            y = scheduler.step(model(y, t), t, y, return_dict=False)[0]
        alone.append(y)
    scheduler, y = begun()
    schedulers, states = [scheduler, make(scheduler), make(scheduler)], [y] * 3
    for t in scheduler.timesteps[2:]:
        for k, (each, model) in enumerate(zip(schedulers, models, strict=True)):
            states[k] = each.step(model(states[k], t), t, states[k], return_dict=False)[0]
    for found, expected in zip(states, alone, strict=True):
        assert torch.equal(found, expected)


def test_views_that_share_a_scheduler():
    """The loop of StableDiffusionPanoramaPipeline with views that do not overlap: each as if it were alone."""
    model, scheduler, x = model_of(Gaussian(0.5)), PathAverageScheduler(), normal(3, 1, 4, 4)
    scheduler.set_timesteps(4)
    states, views, generators = [copy.deepcopy(scheduler.__dict__)] * 3, [*x.split(1)], [seeded(k) for k in range(3)]
    for t in scheduler.timesteps:
        for k in range(3):
            scheduler.__dict__.update(states[k])
            views[k] = scheduler.step(model(views[k], t), t, views[k], generator=generators[k], return_dict=False)[0]
            states[k] = copy.deepcopy(scheduler.__dict__)
    for k, view in enumerate(views):
        alone = loop(PathAverageScheduler(), model, x[k : k + 1], 4, generator=seeded(k))
        torch.testing.assert_close(view, alone, rtol=0, atol=0)


# --- image to image, and callbacks -----------------------------------------------------------------------------------


@every_eta
def test_image_to_image_starts_at_an_evaluation_point(eta):
    """As diffusers' pipelines call it; for Gaussian data u_N - u_k = M_N - M(tau*_k), whatever came before."""
    c, x0 = 0.6, normal(1000, 1, 1, 3).double()
    scheduler = PathAverageScheduler(reference_variance=c, eta=eta)
    scheduler.set_timesteps(10)
    timesteps = scheduler.timesteps[4:]
    scheduler.set_begin_index(4)
    noisy = scheduler.add_noise(x0, normal(1000, 1, 1, 3, seed=9).double(), timesteps[:1].repeat(1000))
    results = []
    for again in range(2):  # the second time it finds the place by the timestep
        x = noisy
        for t in timesteps:
            x = scheduler.step(model_of(Gaussian(c))(x, t), t, x, generator=seeded(), return_dict=False)[0]
        results.append(x)
        scheduler.set_timesteps(10 if not again else 1)
    assert torch.equal(*results)
    snr = TABLE.snr(timesteps[0].double())
    moved = coordinate(results[0], HIGH, c, eta) - coordinate(noisy, snr, c, eta)
    if eta == 0:
        torch.testing.assert_close(moved, torch.zeros_like(moved), rtol=0, atol=1e-6)
        return
    variance = SNRClock(c, eta**2).length(snr, torch.tensor(HIGH)).item()
    check_gaussian(moved.flatten(1) / variance**0.5, torch.eye(3), false_alarm_rate=1e-6).assert_passed()


def test_noise_is_that_of_ddpm():
    x, noise, ddpm = normal(4, 1, 2, 2), normal(4, 1, 2, 2, seed=2), diffusers.DDPMScheduler()
    timesteps, scheduler = torch.tensor([0, 10, 500, 999]), PathAverageScheduler()
    for t in (timesteps, timesteps.float()):
        torch.testing.assert_close(scheduler.add_noise(x, noise, t), ddpm.add_noise(x, noise, timesteps))
    one = scheduler.add_noise(x, noise, torch.tensor([10]))
    torch.testing.assert_close(one, ddpm.add_noise(x, noise, torch.tensor([10])))
    assert scheduler.add_noise(x.half(), noise.half(), timesteps).dtype == torch.float16


def test_a_change_of_an_evaluation_point_moves_the_state_by_as_much():
    c, x, shift = 0.25, normal(2, 1, 4, 4).double(), normal(2, 1, 4, 4, seed=8).double()
    scheduler, model = PathAverageScheduler(), model_of(Gaussian(0.25))
    plain = loop(scheduler, model, x, 6, generator=seeded())
    scheduler.set_timesteps(6)
    changed = x
    for k, t in enumerate(scheduler.timesteps):
        if k == 3:
            changed = changed + shift
            snr = TABLE.snr(t.double())
        changed = scheduler.step(model(changed, t), t, changed, generator=seeded(), return_dict=False)[0]
    expected = coordinate(shift, snr, c, 1.0) / coordinate(torch.ones(()).double(), HIGH, c, 1.0)
    torch.testing.assert_close(changed - plain, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_change_moves_the_state_in_the_coordinates_of_the_reference(in_place, dtype, tmp_path):
    """Without the mean, of a difference; one in place, too. The model says D, a constant, so no other thing changes."""
    mean, c, basis = normal(1, 4, 4, seed=6), normal(1, 4, 4, seed=3) ** 2, torch.linalg.qr(normal(4, 4, seed=4))[0]
    mean, c, basis = (value.to(torch.promote_types(dtype, torch.float32)) for value in (mean, c, basis))
    GaussianReference(mean, c, basis).save(tmp_path / "reference.safetensors")
    scheduler = PathAverageScheduler(
        prediction_type="sample", eta=0.0, reference_file=str(tmp_path / "reference.safetensors")
    )
    x, shift, states = normal(2, 1, 4, 4).to(dtype), normal(2, 1, 4, 4, seed=8).to(dtype), []
    for changed in (False, True):
        scheduler.set_timesteps(4)
        y = x
        for k, t in enumerate(scheduler.timesteps):
            if k == 2 and changed:
                before = y.clone()
                y = y.add_(shift) if in_place else y + shift
                moved, snr = y.double() - before.double(), TABLE.snr(t.double())
            y = scheduler.step(torch.zeros_like(y), t, y, return_dict=False)[0]
            if k == 2:
                states.append(scheduler._run.u.double())
    c = c.double()
    growth = (1 + snr) ** 0.5 / (1 + c * snr) ** 0.5  # y/x at eta = 0, and y/u
    drift = -c * snr**0.5 * (1 + snr) ** 0.5  # Q = (1 + c snr)(D - mu) - c snr^(1/2) (y - a mu)
    length = SNRClock(c, 0.5).length(*path_of((1,), 0.0).grid(4)[2:4])
    expected = (growth + length * drift) * GaussianReference(0.0, c, basis.double()).to_basis(moved)
    torch.testing.assert_close(states[1] - states[0], expected, rtol=1e-4, atol=1e-4)


def test_predicted_variances_are_left_out():
    x, scheduler = normal(2, 2, 4, 4), PathAverageScheduler()
    plain = loop(scheduler, lambda x, t: x / 2, x, 3, generator=seeded())
    wide = loop(scheduler, lambda x, t: torch.cat([x / 2, 7 * x], 1), x, 3, generator=seeded())
    assert torch.equal(plain, wide)


# --- pipelines -------------------------------------------------------------------------------------------------------


def quiet(pipeline):
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_pipelines_of_images_and_saving_them(tmp_path):
    unet, scheduler = tiny_unet(), PathAverageScheduler(prediction_type="v_prediction", eta=0.9)
    ddpm = quiet(diffusers.DDPMPipeline(unet, scheduler))
    options = {"batch_size": 2, "num_inference_steps": 4, "output_type": "np"}
    images = ddpm(generator=seeded(), **options).images
    with torch.no_grad():
        generator = seeded()
        latents = torch.randn(2, 1, 8, 8, generator=generator)
        x = loop(scheduler, lambda x, t: unet(x, t).sample, latents, 4, generator=generator)
    expected = (x / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()
    assert (images == expected).all()
    assert images.std() > 0.1
    ddim = quiet(diffusers.DDIMPipeline(unet, diffusers.DDIMScheduler()))
    ddim.scheduler = PathAverageScheduler.from_config(scheduler.config)
    assert (ddim(generator=seeded(), **options).images == images).all()

    ddpm.save_pretrained(tmp_path)
    loaded = quiet(diffusers.DDPMPipeline.from_pretrained(tmp_path))
    assert isinstance(loaded.scheduler, PathAverageScheduler)
    assert (loaded(generator=seeded(), **options).images == images).all()


def test_the_class_must_be_imported_before_such_a_pipeline_is_loaded(tmp_path, monkeypatch):
    """diffusers imports no module because a folder names it (older ones do)."""
    diffusers.DDPMPipeline(tiny_unet(), PathAverageScheduler(eta=0.9)).save_pretrained(tmp_path)
    monkeypatch.delitem(sys.modules, PathAverageScheduler.__module__)
    kind = sdesig.images.PathAverageScheduler
    loaded = diffusers.DDPMPipeline.from_pretrained(tmp_path)
    assert type(loaded.scheduler) is kind
    assert loaded.scheduler.config.eta == 0.9


def check_that_generators_decide(draw):
    """An image alone is that of a batch, to rounding of the networks, and another generator gives another one."""
    both, alone = draw([0, 1]), draw([1])
    assert np.isfinite(both).all()
    assert np.abs(both[1:] - alone).max() < 1e-4
    assert np.abs(both[1] - both[0]).max() > 0.1
    torch.manual_seed(4)  # nothing is drawn from torch's own generator
    assert (draw([0, 1]) == both).all()


@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_dit_hands_on_no_generator(guidance):
    torch.manual_seed(0)
    transformer = diffusers.DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=1, sample_size=8
    )
    pipe = quiet(diffusers.DiTPipeline(seeded_weights(transformer), gaussian(), diffusers.DDIMScheduler()))
    pipe.scheduler = PathAverageScheduler.from_config(pipe.scheduler.config, reference_variance=1.0)
    options = {"guidance_scale": guidance, "num_inference_steps": 4, "output_type": "np"}
    check_that_generators_decide(
        lambda seeds: pipe([3 + k for k in seeds], generator=[*map(seeded, seeds)], **options).images
    )


def test_kandinsky_from_image_to_image():
    """Version 2.2, which asks the scheduler for the noise; its class needs no text encoder."""
    name = "diffusers.pipelines.kandinsky2_2.pipeline_kandinsky2_2_img2img"
    torch.manual_seed(0)
    unet = diffusers.UNet2DConditionModel(
        **{"in_channels": 4, "out_channels": 8, "sample_size": 8, "block_out_channels": (8, 16)},
        **{"layers_per_block": 1, "norm_num_groups": 4, "cross_attention_dim": 8, "attention_head_dim": 4},
        **{"down_block_types": ("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D")},
        **{"up_block_types": ("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D")},
        **{"mid_block_type": "UNetMidBlock2DSimpleCrossAttn", "resnet_time_scale_shift": "scale_shift"},
        **{"addition_embed_type": "image", "encoder_hid_dim": 8, "encoder_hid_dim_type": "image_proj"},
    )
    kind = importlib.import_module(name).KandinskyV22Img2ImgPipeline
    pipe = quiet(kind(unet=seeded_weights(unet), scheduler=diffusers.DDPMScheduler(), movq=quantized(vq_embed_dim=4)))
    pipe.scheduler = PathAverageScheduler.from_config(pipe.scheduler.config, reference_variance=1.0)
    images, embeds = [Image.new("RGB", (32, 32), name) for name in ("red", "navy")], normal(2, 8)

    def draw(seeds):
        given = {"image_embeds": embeds[seeds], "negative_image_embeds": 0 * embeds[seeds], "strength": 0.6}
        given |= {"height": 32, "width": 32, "num_inference_steps": 5, "output_type": "np"}
        return pipe(image=[images[k] for k in seeds], generator=[*map(seeded, seeds)], **given).images

    check_that_generators_decide(draw)


def test_latents_with_guidance():
    """The loop of StableDiffusionPipeline, whose model is asked for two predictions in half precision."""
    law, other = model_of(Gaussian(1.0)), model_of(Gaussian(0.5))
    config = diffusers.PNDMScheduler(beta_schedule="linear", skip_prk_steps=True, steps_offset=1).config
    scheduler = PathAverageScheduler.from_config(config, reference_variance=1.0)
    scheduler.set_timesteps(5, device=torch.device("cpu"))
    latents = normal(2, 4, 8, 8).half() * scheduler.init_noise_sigma
    generators = [seeded(1), seeded(2)]
    for t in scheduler.timesteps:
        both = scheduler.scale_model_input(torch.cat([latents] * 2), t)
        plain, guided = (model(part.float(), t).half() for model, part in zip((other, law), both.chunk(2), strict=True))
        noise_pred = plain + 1.0 * (guided - plain)
        latents = scheduler.step(noise_pred, t, latents, generator=generators, return_dict=False)[0]
    assert latents.dtype == torch.float16
    exact = loop(scheduler, law, normal(2, 4, 8, 8).half().float(), 5, generator=[seeded(1), seeded(2)])
    assert error(latents, exact) < 0.01
    assert len(scheduler.timesteps) == 5 * scheduler.order


BETAS = {"beta_start": 0.0015, "beta_end": 0.0195, "beta_schedule": "scaled_linear", "num_train_timesteps": 600}


@pytest.mark.parametrize("name", TABLES)
def test_any_scheduler_with_betas_lends_its_configuration(name, tmp_path):
    other = getattr(diffusers, name)(**BETAS, prediction_type="epsilon")
    other.save_pretrained(tmp_path / "other")
    x, t = normal(3, 1, 2, 2).double(), torch.tensor([0, 100, 599])
    alphas = other.alphas_cumprod[t].double().reshape(-1, 1, 1, 1)
    expected = alphas.sqrt() * x + (1 - alphas).sqrt() * (x + 1)
    for k, scheduler in enumerate(
        (
            PathAverageScheduler.from_config(other.config, eta=0.5),
            PathAverageScheduler.from_pretrained(tmp_path / "other", eta=0.5),
        )
    ):
        torch.testing.assert_close(scheduler.add_noise(x, x + 1, t), expected, rtol=1e-9, atol=1e-9)
        assert len(scheduler) == 600
        scheduler.save_pretrained(tmp_path / str(k))
        again = PathAverageScheduler.from_pretrained(tmp_path / str(k))
        assert again.config.eta == scheduler.config.eta == 0.5
        torch.testing.assert_close(again.add_noise(x, x + 1, t), expected, rtol=1e-9, atol=1e-9)
        assert torch.equal(type(other).from_config(scheduler.config).alphas_cumprod, other.alphas_cumprod)


def test_defaults_of_the_other_class_count():
    """DPMSolverSDEScheduler has betas up to .012, which its configuration marks as defaults."""
    config = diffusers.DPMSolverSDEScheduler().config
    assert PathAverageScheduler.from_config(config).config.beta_end == 0.012
    again = PathAverageScheduler.from_config(PathAverageScheduler.from_config(config, eta=0.5).config)
    assert (again.config.beta_end, again.config.eta) == (0.012, 0.5)
    former, unused = PathAverageScheduler.from_config(
        pretrained_model_name_or_path=config, return_unused_kwargs=True, another=3
    )
    assert (former.config.beta_end, unused["another"]) == (0.012, 3)


ARGUMENTS = {
    "AmusedScheduler": {"mask_token_id": 1},
    "VQDiffusionScheduler": {"num_vec_classes": 5},
    "RFD4ProteinaScheduler": {"schedule_mode": "log", "noise_mode": "1/t", "tsr_k": 1.0, "tsr_sigma": 1.0},
}
SCHEDULERS = {
    name: kind
    for name, kind in inspect.getmembers(diffusers, inspect.isclass)
    if issubclass(kind, diffusers.SchedulerMixin) and kind is not diffusers.SchedulerMixin
}
ACCEPTED = {
    *TABLES,
    *("DDIMInverseScheduler", "DPMSolverMultistepInverseScheduler"),
    *("CogVideoXDDIMScheduler", "CogVideoXDPMScheduler"),
}
"""All others lack betas, except those in `NAMED`."""
NAMED = {
    "LCMScheduler": "original_inference_steps=50",
    "TCDScheduler": "original_inference_steps=50",
    "RePaintScheduler": r"eta=0\.0",
    "CMStochasticIterativeScheduler": r"(s_noise|clip_denoised)=",
    "SCMScheduler": "sigma_min, as its",
    "CosineDPMSolverMultistepScheduler": "algorithm_type beside",
    "FlowMatchLCMScheduler": "upscale_mode='bicubic'",
    "HeliosDMDScheduler": "(stages|stage_range|gamma)=",
    "HeliosScheduler": "(stages|stage_range|gamma)=",
    "PiflowScheduler": "(eps|n_grid|final_step_size_scale|num_policy_substeps)=",
}
OF_FLOWS = {"FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler", "FlowMapEulerDiscreteScheduler"}
"""Flow maps have no key of their own."""
OF_EDM = {"EDMEulerScheduler", "EDMDPMSolverMultistepScheduler"}


def verdict(config):
    try:
        return PathAverageScheduler.from_config(config)
    except ValueError as error:
        return str(error)


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning", "ignore:invalid value:RuntimeWarning")
def test_every_scheduler_of_diffusers_by_its_keys(name, tmp_path):
    """Whether or not its configuration names a class, this or another: the table is its own, or a key is blamed."""
    other = SCHEDULERS[name](**ARGUMENTS.get(name, {}))
    other.save_pretrained(tmp_path)
    saved = SCHEDULERS[name].load_config(tmp_path)
    bare = {key: value for key, value in saved.items() if key[0] != "_"}
    configs = [other.config, saved, bare, {**saved, "_class_name": "DDIMScheduler"}, {**bare, "_class_name": "Mine"}]
    if name in ACCEPTED:
        x, t = normal(3, 1, 2, 2).double(), torch.tensor([0, 500, 999])
        alphas = other.alphas_cumprod[t].double().reshape(-1, 1, 1, 1)
        expected = alphas.sqrt() * x + (1 - alphas).sqrt() * (x + 1)
        for config in configs:
            made = PathAverageScheduler.from_config(config)
            torch.testing.assert_close(made.add_noise(x, x + 1, t), expected, rtol=1e-5, atol=1e-5)
    elif name in OF_EDM:
        for config in configs:
            assert PathAverageScheduler.from_config(config).config.sigma_data == 0.5
    elif name in OF_FLOWS:
        for config in configs:
            assert PathAverageScheduler.from_config(config).config.prediction_type == "flow_prediction"
    else:
        match = f"config must have (no )?{NAMED[name]}" if name in NAMED else "config must be .*with betas.*; it lacks "
        for config in configs:
            with pytest.raises(ValueError, match=match):
                PathAverageScheduler.from_config(config)


def test_the_shifted_table_of_cogvideo():
    config = diffusers.CogVideoXDDIMScheduler(prediction_type="v_prediction").config
    scheduler = PathAverageScheduler.from_config(config)
    zero, one = torch.zeros(1, 1), torch.ones(1, 1)
    alpha = scheduler.add_noise(one, zero, torch.tensor([500.0])).item()
    assert alpha**2 == pytest.approx(0.1129, abs=1e-4)
    assert scheduler.config.prediction_type == "v_prediction"


def test_an_exponential_table():
    """Of Heun's scheduler alone."""
    other = diffusers.HeunDiscreteScheduler(beta_schedule="exp")
    scheduler, t = PathAverageScheduler.from_config(other.config), torch.tensor([0, 300, 999])
    found = scheduler.add_noise(torch.ones(3, 1), torch.zeros(3, 1), t).flatten()
    torch.testing.assert_close(found.square(), other.alphas_cumprod[t], rtol=1e-5, atol=0)


def settings_of(scheduler):
    names = inspect.signature(type(scheduler).__init__).parameters
    return {name: value for name, value in scheduler.config.items() if name in names}


@pytest.mark.parametrize("first", sorted(ACCEPTED))
def test_a_configuration_goes_through_ours_unchanged(first):
    """X -> ours -> Y is X -> Y for all pairs, as X -> DDIM -> Y is; and through Y what is our own comes back."""
    config = SCHEDULERS[first](num_train_timesteps=20).config
    ours = PathAverageScheduler.from_config(config, eta=0.5, reference_variance=1.0)
    for second in sorted(ACCEPTED):
        direct, through = (SCHEDULERS[second].from_config(each) for each in (config, ours.config))
        assert settings_of(through) == settings_of(direct)
    back = PathAverageScheduler.from_config(through.config).config
    assert (back.eta, back.reference_variance, back.num_train_timesteps) == (0.5, 1.0, 20)


def test_the_spacing_of_pndm():
    ours = PathAverageScheduler.from_config(diffusers.PNDMScheduler().config)
    assert diffusers.EulerDiscreteScheduler.from_config(ours.config).config.timestep_spacing == "linspace"
    ours = PathAverageScheduler.from_config(diffusers.DEISMultistepScheduler().config)
    assert diffusers.DPMSolverMultistepScheduler.from_config(ours.config).config.algorithm_type == "dpmsolver++"
    given = PathAverageScheduler.from_config(diffusers.PNDMScheduler(timestep_spacing="trailing").config)
    assert diffusers.EulerDiscreteScheduler.from_config(given.config).config.timestep_spacing == "trailing"


def test_it_is_exported():
    assert sdesig.images.PathAverageScheduler.__name__ == "PathAverageScheduler"
    with pytest.raises(AttributeError, match="no attribute 'PathAverage'"):
        _ = sdesig.images.PathAverage


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options, error, match",
    [
        ({"prediction_type": "flow"}, ValueError, "prediction_type must be one of 'epsilon', 'v_prediction'"),
        ({"eta": -0.1}, ValueError, "eta must be a finite number >= 0; got -0.1"),
        ({"eta": 2.0}, ValueError, r"needs eta < sqrt\(3\); the SDE's is 2.0"),
        ({"cells": 0}, ValueError, r"cells must be in \[1, 1073741824\]; got 0"),
        ({"reference_variance": -1.0}, ValueError, "reference_variance must be a finite number >= 0; got -1.0"),
        ({"beta_schedule": "steep"}, ValueError, "beta_schedule must be one that diffusers has; 'steep' is not"),
        ({"beta_end": "0.02"}, TypeError, "beta_end must be a real number; got '0.02'"),
        ({"num_train_timesteps": 0}, ValueError, "num_train_timesteps must be >= 2; got 0"),
        ({"trained_betas": "none"}, ValueError, "trained_betas must be a sequence of numbers; got 'none'"),
        ({"sigma_max": 700.0}, ValueError, "sigma_data must be given with sigma_min and sigma_max; got None and 700.0"),
        ({"sigma_data": 1.0, "sigma_max": 0.005}, ValueError, "sigma_max must be a finite number > 0.01; got 0.005"),
        ({"snr_shift_scale": 0.0}, ValueError, "snr_shift_scale must be a finite number > 0; got 0.0"),
        ({"rescale_betas_zero_snr": True}, ValueError, "prediction_type must be 'v_prediction' or 'sample' with betas"),
        ({"trained_betas": [0.1, 0.5, 1.0]}, ValueError, "leave no signal at the last timestep"),
        ({"reference_file": "none.safetensors"}, FileNotFoundError, "none.safetensors does not exist"),
    ],
)
def test_arguments_that_are_refused(options, error, match):
    with pytest.raises(error, match=match):
        PathAverageScheduler(**options)


@pytest.mark.parametrize(
    "scheduler, match",
    [
        (diffusers.EulerDiscreteScheduler(timestep_type="continuous"), "must have prediction_type='v_prediction'"),
        (diffusers.UniPCMultistepScheduler(use_flow_sigmas=True), "must have use_flow_sigmas=False"),
        (diffusers.EulerDiscreteScheduler(sigma_min=0.01, sigma_max=9.0), r"must have no sigma_m..=\d"),
        (diffusers.DDIMScheduler(rescale_betas_zero_snr=True), "leave no signal at the last timestep"),
        (diffusers.UniPCMultistepScheduler(prediction_type="flow_prediction"), "must have use_flow_sigmas=True"),
    ],
)
def test_configurations_of_other_models_are_refused(scheduler, match, tmp_path):
    scheduler.save_pretrained(tmp_path)
    for config in (scheduler.config, type(scheduler).load_config(tmp_path)):
        with pytest.raises(ValueError, match=match):
            PathAverageScheduler.from_config(config)


def test_keys_that_nobody_knows_are_refused_unless_they_are_off():
    config = {**diffusers.DDPMScheduler().config, "use_later_idea": False, "later_scale": None}
    assert PathAverageScheduler.from_config(config).config.eta == 1.0
    with pytest.raises(ValueError, match=r"config must have no later_scale=2\.0: it is not among the keys"):
        PathAverageScheduler.from_config({**config, "later_scale": 2.0})


def test_references_that_do_not_fit(tmp_path):
    x, file = normal(2, 1, 4, 4), tmp_path / "reference.safetensors"
    for reference, error, match in (
        (GaussianReference(torch.zeros(1, 3, 4), 0.5), ValueError, r"mean must broadcast against .*\(1, 4, 4\)"),
        (GaussianReference(torch.zeros(1, 4, 4), 0.5), TypeError, "must be torch.float64 on cpu, like the states"),
    ):
        reference.save(file)
        scheduler = PathAverageScheduler(reference_file=str(file))
        scheduler.set_timesteps(2)
        with pytest.raises(error, match=match):
            scheduler.step(x, 999, x if error is ValueError else x.double())
    save_file({"variance": torch.ones(1)}, file)
    with pytest.raises(ValueError, match="must hold mean, variance, basis_0"):
        PathAverageScheduler(reference_file=str(file))
    file.write_bytes(b"pickle")
    with pytest.raises(ValueError, match="is not a complete safetensors file"):
        PathAverageScheduler(reference_file=str(file))


@pytest.mark.parametrize(
    "changes, error, match",
    [
        ({"timestep": 998}, ValueError, "timestep must be one of the scheduler's timesteps; got 998"),
        ({"generator": [seeded()] * 3}, ValueError, "one for each of 2 images; got a list of 3"),
        ({"generator": 5}, TypeError, "generator must be a torch.Generator; got 5"),
        ({"generator": [seeded(), None]}, TypeError, "generator must be a torch.Generator; got None"),
        ({"model_output": normal(2, 3, 4, 4)}, ValueError, r"the sample's shape \(2, 1, 4, 4\); got \(2, 3, 4, 4\)"),
        ({"model_output": normal(1, 1, 4, 4)}, ValueError, r"the sample's shape \(2, 1, 4, 4\); got \(1, 1, 4, 4\)"),
        ({"sample": torch.ones(2, 1, 4, 4, dtype=torch.int64)}, TypeError, "sample must have a real floating-point"),
        ({"etas": 1.0}, TypeError, "step takes no etas"),
    ],
)
def test_steps_that_are_refused(changes, error, match):
    scheduler = PathAverageScheduler()
    scheduler.set_timesteps(4)
    arguments = {"model_output": normal(2, 1, 4, 4), "timestep": 999, "sample": normal(2, 1, 4, 4)}
    with pytest.raises(error, match=match):
        scheduler.step(**{**arguments, **changes})
    scheduler.step(**arguments, generator=seeded())  # nothing has started


@pytest.mark.parametrize("begin", [None, 1])
def test_steps_come_one_after_another(begin):
    scheduler, x = PathAverageScheduler(), normal(2, 1, 4, 4)
    scheduler.set_timesteps(5)
    times = scheduler.timesteps
    if begin is not None:
        scheduler.set_begin_index(begin)
        with pytest.raises(ValueError, match=f"timestep must be {times[1]}, that of step 1, .* got {times[0]}"):
            scheduler.step(x, times[0], x, generator=seeded())
    now = begin or 0
    x = scheduler.step(x, times[now], x, generator=seeded()).prev_sample
    for wrong, name in ((times[now], "the same"), (times[now + 2].item(), "a later one"), (12.5, "none")):
        with pytest.raises(
            ValueError, match=f"timestep must be {times[now + 1]}, that of step {now + 1}, .* of this run"
        ):
            pytest.fail(name) if scheduler.step(x, wrong, x) else None
    with pytest.raises(ValueError, match=r"sample must have the run's shape \(2, 1, 4, 4\); got \(1, 1, 4, 4\)"):
        scheduler.step(x[:1], times[now + 1], x[:1])
    with pytest.raises(TypeError, match="timestep must be a real number"):
        scheduler.step(x, times[:2], x)
    plain = scheduler.step(x, times[now + 1 : now + 2], x)  # nothing was changed by what was refused
    again = PathAverageScheduler()
    again.set_timesteps(5)
    y = normal(2, 1, 4, 4)
    for t in times[now : now + 2]:
        y = again.step(y, t, y, generator=seeded()).prev_sample
    assert torch.equal(plain.prev_sample, y)


def test_steps_need_timesteps():
    scheduler, x = PathAverageScheduler(cells=2**3), normal(1, 1, 4, 4)
    with pytest.raises(RuntimeError, match="set_begin_index needs set_timesteps"):
        scheduler.set_begin_index(0)
    with pytest.raises(RuntimeError, match="step needs set_timesteps"):
        scheduler.step(x, 999, x)
    with pytest.raises(ValueError, match=r"num_inference_steps must be in \[1, 8\]; got 9"):
        scheduler.set_timesteps(9)
    loop(scheduler, lambda x, t: x, x, 8)
    with pytest.raises(RuntimeError, match="step needs set_timesteps before the first step of every run"):
        scheduler.step(x, 0, x)
    scheduler.set_timesteps(3)
    with pytest.raises(ValueError, match=r"begin_index must be in \[0, 2\]; got 3"):
        scheduler.set_begin_index(3)


@pytest.mark.parametrize("config", [None, "folder"])
def test_configurations_are_dictionaries(config):
    with pytest.raises(TypeError, match="config must be a dictionary, a scheduler's configuration"):
        PathAverageScheduler.from_config(config)

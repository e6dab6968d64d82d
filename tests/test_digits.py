"""The digits, and the teacher, classifier, reference and grid that are shipped with them."""

import math

import numpy as np
import pytest
import torch

from experiments.digits.classifier import train_classifier
from experiments.digits.pipeline import train_pipeline
from sdesig._intervals import paired_ratio
from sdesig.digits import (
    EVENT,
    FOLDER,
    PIPELINE,
    SNR,
    DigitClassifier,
    load_classifier,
    load_digits,
    load_grid,
    load_pipeline,
    load_teacher,
    path_space,
    reference,
)
from sdesig.digits.classifier import FEATURES
from sdesig.images import load_teacher as load_diffusers_teacher
from sdesig.sampling import GaussianReference
from sdesig.sigdeg import SigDEG

SHIPPED = ("plain", "depth-1", "depth-2")


@pytest.fixture(scope="module")
def digits():
    return load_digits()


# --- data ------------------------------------------------------------------------------------------------------------


def test_images_and_labels(digits):
    images, labels = digits
    assert (images.shape, images.dtype) == ((1797, 64), torch.float32)
    assert (labels.shape, labels.dtype) == ((1797,), torch.int64)
    assert images.shape[1:] == EVENT
    assert (images.min(), images.max()) == (-1, 1)
    assert torch.equal(torch.unique(images), torch.linspace(-1, 1, 17))
    assert torch.unique(labels).tolist() == list(range(10))


def test_every_digit_is_about_as_frequent(digits):
    """As the data's description has it: 174 to 183 of each."""
    counts = torch.bincount(digits[1])
    assert counts.tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_noise_left_is_less_than_half_a_grey_level():
    assert (1 / math.sqrt(SNR[0]), 1 / math.sqrt(SNR[1])) == (pytest.approx(20), pytest.approx(0.05))
    assert 1 / math.sqrt(SNR[1]) < 2 / 16 / 2


# --- teacher ---------------------------------------------------------------------------------------------------------


def noisy(images, sigma):
    """y = tau x + sqrt(tau) eps at tau = 1/sigma^2."""
    tau = torch.tensor(1 / sigma**2, dtype=torch.float64)
    eps = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    return tau.float() * (images + sigma * eps), tau


def denoising_errors(denoised, images):
    return (denoised - images).norm(dim=1) / 8


@pytest.mark.parametrize("sigma, bound", [(0.5, 0.9), (1.0, 0.95)])
def test_the_teacher_denoises_better_than_any_linear_map(digits, sigma, bound):
    """Than the conditional mean of the reference, Q = 0; on the same noise, with the ratio's interval below."""
    images, _ = digits
    y, tau = noisy(images, sigma)
    with torch.no_grad():
        found = load_teacher()(y, tau)
    law = reference()
    gain = law.variance / (1 + law.variance * tau)
    linear = law.mean + law.from_basis(gain * law.to_basis(y - tau * law.mean))
    assert denoising_errors(linear, images).mean() < 0.8 * sigma
    value, _, high = paired_ratio(denoising_errors(found, images), denoising_errors(linear, images))
    assert high < bound, (value, high)


def test_the_teacher_fits_the_digits():
    teacher = load_teacher()
    assert teacher.event == EVENT
    assert not teacher.training
    assert sum(p.numel() for p in teacher.parameters()) < 500_000


# --- reference -------------------------------------------------------------------------------------------------------


def test_the_shipped_basis_is_orthonormal():
    (basis,) = reference().basis
    assert basis.shape == (64, 64)
    torch.testing.assert_close(basis.T @ basis, torch.eye(64), rtol=0, atol=1e-5)


def test_the_shipped_reference_is_that_of_the_data(digits):
    """Eigenvectors have signs, and mix where variances are equal: what must agree is the covariance."""
    images, _ = digits
    shipped, fitted = reference(), GaussianReference.fit(images, "pca")
    torch.testing.assert_close(shipped.mean, fitted.mean, rtol=0, atol=1e-6)
    torch.testing.assert_close(shipped.variance, fitted.variance, rtol=1e-4, atol=1e-6)
    implied, other = (r.basis[0] * r.variance @ r.basis[0].T for r in (shipped, fitted))
    torch.testing.assert_close(implied, other, rtol=0, atol=1e-5)
    torch.testing.assert_close(implied.double(), torch.cov(images.T.double()), rtol=0, atol=1e-5)
    shipped.check_event(images)


@pytest.mark.parametrize("kind", ["none", "scalar", "coordinates"])
def test_other_references_are_fitted(digits, kind):
    found, expected = reference(kind), GaussianReference.fit(digits[0], kind)
    assert torch.equal(found.mean, expected.mean)
    assert torch.equal(found.variance, expected.variance)
    assert found.basis == ()
    assert bool((found.variance == 0).all()) == (kind == "none")


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="kind must be one of"):
        reference("full")


# --- grid ------------------------------------------------------------------------------------------------------------


def test_the_grid_increases_and_is_not_even():
    grid = load_grid()
    assert (np.diff(grid.quantiles) > 0).all()
    assert (grid.quantiles[0], grid.quantiles[-1]) == (0.0, 1.0)
    assert np.abs(grid.positions(8) - np.linspace(0, 1, 9)).max() > 0.02


def test_the_grid_has_a_thousand_cells_for_the_demo():
    """`PathSpace` has 2^10 cells; 100 steps are drawn there."""
    assert path_space().grid == load_grid()
    assert len(path_space().times(100)) == 101


# --- classifier ------------------------------------------------------------------------------------------------------


def test_the_classifier_knows_the_digits(digits):
    images, labels = digits
    with torch.no_grad():
        logits, features = load_classifier()(images), load_classifier().features(images)
    assert (logits.argmax(1) == labels).double().mean() > 0.97
    assert features.shape == (1797, FEATURES)
    assert torch.linalg.matrix_rank(torch.cov(features.T.double())) == FEATURES


def test_a_classifier_saves_and_loads(digits, tmp_path):
    images, _ = digits
    torch.manual_seed(0)
    made = DigitClassifier()
    made.save(tmp_path)
    again = DigitClassifier.load(tmp_path)
    assert not again.training
    assert torch.equal(again(images[:5]), made(images[:5]))


def test_training_a_classifier(digits):
    """Sixty iterations: far above chance on what was held out, and a function of the seed that leaves torch's alone."""
    images, labels = digits
    state = torch.get_rng_state()
    one, same, other = (train_classifier(images[:1500], labels[:1500], iterations=60, seed=s) for s in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert not one.training
    assert (one(images[1500:]).argmax(1) == labels[1500:]).double().mean() > 0.6
    assert torch.equal(one.head.weight, same.head.weight)
    assert not torch.equal(one.head.weight, other.head.weight)


# --- pipeline --------------------------------------------------------------------------------------------------------


@pytest.fixture
def quiet(diffusers):
    diffusers.utils.logging.disable_progress_bar()
    yield
    diffusers.utils.logging.enable_progress_bar()


def test_the_pipeline_draws_digits(diffusers, quiet):
    """The classifier is as sure of them as of the data, but for one in ten: of what is no digit it is rarely sure."""
    pipeline = load_pipeline()
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = diffusers.DDIMScheduler.from_config(pipeline.scheduler.config)
    drawn = pipeline(200, torch.Generator().manual_seed(0), num_inference_steps=50, output_type="np").images
    images = 2 * torch.from_numpy(drawn).reshape(200, 64) - 1
    with torch.no_grad():
        sure = load_classifier()(images).softmax(1).amax(1) > 0.9
        labels = load_classifier()(images).argmax(1)
    assert sure.double().mean() > 0.75
    assert torch.bincount(labels, minlength=10).min() >= 5


def test_the_pipeline_is_a_teacher(quiet):
    teacher = load_diffusers_teacher(PIPELINE)
    assert teacher.event == (1, 8, 8)
    assert sum(p.numel() for p in teacher.parameters()) < 120_000


@pytest.mark.usefixtures("diffusers")
def test_training_a_pipeline(digits):
    """Thirty iterations, of which the average has seen little: nearer to the noise than zero is, whose error is 1."""
    torch.manual_seed(0)
    pipeline = train_pipeline(30)
    noise, t = torch.randn(256, 1, 8, 8), torch.full((256,), 500)
    x = pipeline.scheduler.add_noise(digits[0][:256].reshape(-1, 1, 8, 8), noise, t)
    with torch.no_grad():
        assert (pipeline.unet(x, t).sample - noise).square().mean() < 0.97


# --- sizes -----------------------------------------------------------------------------------------------------------


def size_of(folder):
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def test_what_is_shipped_is_small():
    assert size_of(FOLDER / "teacher") < 2e6
    assert size_of(FOLDER / "classifier") < 1e5
    assert size_of(PIPELINE) < 5e5
    assert sum(file.stat().st_size for file in FOLDER.iterdir() if file.is_file()) < 1e5


@pytest.mark.parametrize("name", SHIPPED)
def test_students_are_small(name):
    """Where they are there: the package is complete with them."""
    folder = FOLDER / "students" / name
    if not (folder / "config.json").exists():
        pytest.skip(f"{folder} is not there")
    assert size_of(folder) < 5e6
    made = SigDEG.load(folder)
    assert (made.space.event, made.space.depth) == (EVENT, 4)
    assert made.space.snr == pytest.approx(SNR)
    assert (made.kind, made.depth) == {"plain": ("plain", 2), "depth-1": ("solver", 1), "depth-2": ("solver", 2)}[name]

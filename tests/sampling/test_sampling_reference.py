"""The Gaussian reference in the basis of the cosine transform, against scipy's transform and laws that are known."""

import numpy as np
import pytest
import torch
from scipy import fft

from sdesig import digits
from sdesig.sampling.gaussian_reference import GaussianReference

F64 = torch.float64


def normal(*shape, seed=0, dtype=F64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def coloured(n, height, width, seed=0):
    """RGB images of which each colour is a mixture of three, with a spectrum that falls."""
    mixing = torch.tensor([[1.0, 0.3, 0.0], [0.8, -0.5, 0.2], [0.5, 0.1, 0.7]], dtype=F64)
    fall = 1 / (1 + torch.arange(height, dtype=F64)[:, None] + 2 * torch.arange(width, dtype=F64))
    waves = fall * normal(n, 3, height, width, seed=seed)
    spatial = torch.from_numpy(fft.idctn(waves.numpy(), axes=(2, 3), norm="ortho"))
    return torch.einsum("ij,njhw->nihw", mixing, spatial) + 0.3


@pytest.mark.parametrize("shape", [(6, 5), (1, 4, 7), (3, 5, 4), (8, 8)])
def test_coordinates_are_those_of_scipy(shape):
    """scipy.fft.dctn over the pixels; over the channels whatever orthogonal matrix was found."""
    data = normal(20, *shape)
    reference = GaussianReference.fit(data, "dct")
    expected = fft.dctn(data.numpy(), axes=(-2, -1), norm="ortho")
    if len(shape) == 3:
        expected = np.einsum("nchw,cd->ndhw", expected, reference.basis[0].numpy())
    np.testing.assert_allclose(reference.to_basis(data), expected, atol=1e-12)
    np.testing.assert_allclose(reference.from_basis(reference.to_basis(data)), data, atol=1e-12)
    np.testing.assert_allclose(reference.variance, expected.var(0, ddof=1), rtol=1e-10)
    np.testing.assert_allclose(reference.mean, data.numpy().mean(0), atol=1e-12)
    assert reference.variance.shape == shape


def test_channels_are_decorrelated():
    """Their covariance, averaged over pixels, is diagonal in the basis, by numpy; it is not in the colours."""
    data = coloured(400, 6, 5)
    reference = GaussianReference.fit(data, "dct")

    def covariance(images):
        centred = (images - images.mean(0)).numpy().transpose(1, 0, 2, 3).reshape(3, -1)
        return centred @ centred.T / centred.shape[1]

    before, after = covariance(data), covariance(reference.to_basis(data))
    assert abs(before[0, 1]) > 0.3 * before[0, 0]
    np.testing.assert_allclose(after, np.diag(np.linalg.eigvalsh(before)), atol=1e-12 * before[0, 0])
    assert len(reference.basis) == 3


def test_the_spectrum_of_a_known_law():
    """Independent cosine coefficients of standard deviations s: variances s^2.

    An estimate from n samples has a relative standard deviation sqrt(2/n); the largest of 30 passes 5 of those with
    a probability of 2e-5.
    """
    n, stds = 4000, torch.linspace(0.1, 3.0, 30, dtype=F64).reshape(5, 6)
    data = torch.from_numpy(fft.idctn((stds * normal(n, 5, 6)).numpy(), axes=(1, 2), norm="ortho")) - 1
    reference = GaussianReference.fit(data, "dct")
    assert ((reference.variance / stds**2 - 1).abs() < 5 * (2 / n) ** 0.5).all()
    assert ((reference.mean + 1).abs() < 5 * 3 / n**0.5).all()


def test_it_knows_more_than_a_variance_per_pixel():
    """Of Gaussians with given diagonals in some basis, the one nearest to the data has the least sum of log variances:
    by far that of the cosines for images with a falling spectrum."""
    data = coloured(500, 8, 8)
    spectrum, pixels = (GaussianReference.fit(data, kind).variance.log().mean() for kind in ("dct", "coordinates"))
    assert spectrum < pixels - 1


def test_float32_images_keep_their_dtype():
    data = coloured(50, 8, 6).float()
    reference = GaussianReference.fit(data, "dct")
    reference.check_event(data)
    exact = GaussianReference.fit(data.double(), "dct")
    np.testing.assert_allclose(reference.variance, exact.variance, rtol=1e-6)


@pytest.mark.parametrize("shape", [(10, 4), (10, 2, 3, 4, 4)])
def test_only_images_have_a_spectrum(shape):
    with pytest.raises(ValueError, match=r"data must be images, \(n, \[channels,\] height, width\), for 'dct'; got"):
        GaussianReference.fit(normal(*shape), "dct")


def turned(dim, dtype=F64):
    """An orthogonal matrix."""
    return torch.linalg.qr(normal(dim, dim, seed=3))[0].to(dtype)


@pytest.mark.parametrize("made", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("now", [torch.float32, torch.float64])
def test_a_basis_is_orthogonal_to_the_precision_that_it_was_made_in(made, now):
    """A matrix of 64 numbers squared is off by its rounding, which a wider dtype does not take back."""
    basis = turned(64, made).to(now)
    assert torch.equal(GaussianReference(0.0, 1.0, basis).basis[0], basis)


def test_the_shipped_basis_as_float64():
    shipped = digits.reference("pca")
    wide = GaussianReference(shipped.mean.double(), shipped.variance.double(), [b.double() for b in shipped.basis])
    assert wide.basis[0].dtype == F64


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, F64])
@pytest.mark.parametrize("dim", [2, 64])
def test_a_basis_that_is_not_orthogonal_is_refused_in_every_dtype(dtype, dim):
    """Off by .1 and by a factor of 1.5, which all dtypes can tell; in float64 also by 1e-6."""
    sheared, scaled, nearly = (torch.eye(dim, dtype=F64) for _ in range(3))
    sheared[0, 1], scaled[1, 1], nearly[0, 1] = 0.1, 1.5, 1e-6
    matrices = [turned(dim) @ sheared, sheared, scaled] + ([turned(dim) @ nearly] if dtype == F64 else [])
    for matrix in matrices:
        with pytest.raises(ValueError, match=r"basis\[0\] must be orthogonal"):
            GaussianReference(0.0, 1.0, matrix.to(dtype))

"""The diffusion of a discrete table: exact at its entries, log-linear between them, refused beyond its ends."""

import math

import numpy as np
import pytest
import torch

from sdesig.sampling import CanonicalDenoiser
from sdesig.sde import VP, Mixture, TabulatedVP


def linear(steps=1000, dtype=np.float64):
    """Ho et al. 2020: beta from 1e-4 to .02."""
    return np.cumprod(1 - np.linspace(1e-4, 0.02, steps, dtype=dtype), dtype=dtype)


def cosine(steps=1000):
    """Nichol and Dhariwal 2021, eq. 17, beta clipped at .999."""
    bar = np.cos((np.arange(steps + 1) / steps + 0.008) / 1.008 * math.pi / 2) ** 2
    return np.cumprod(1 - np.minimum(1 - bar[1:] / bar[:-1], 0.999))


TABLES = {
    "linear": linear(),
    "linear in float32": linear(dtype=np.float32),
    "cosine": cosine(),
    "short": np.array([0.9, 0.5, 0.2]),
}
every_table = pytest.mark.parametrize("table", TABLES.values(), ids=TABLES.keys())


def made(table):
    return TabulatedVP(torch.from_numpy(table))


def log_snr_of(table):
    a = table.astype(np.float64)
    return np.log(a) - np.log1p(-a)


@every_table
def test_at_the_indices_it_is_the_table(table):
    """To 1e-14, of the values of the table as float64."""
    diffusion, t = made(table), torch.arange(len(table), dtype=torch.float64)
    exact = torch.from_numpy(table).double()
    torch.testing.assert_close(diffusion.alpha(t), exact.sqrt(), rtol=1e-14, atol=0)
    torch.testing.assert_close(diffusion.sigma(t), (1 - exact).sqrt(), rtol=1e-14, atol=0)
    torch.testing.assert_close(diffusion.snr(t), exact / (1 - exact), rtol=3e-14, atol=0)
    assert (diffusion.t_min, diffusion.t_max) == (0.0, len(table) - 1)
    ends = (exact / (1 - exact))[[-1, 0]].tolist()
    assert diffusion.snr_range == pytest.approx(ends, rel=1e-13)


@every_table
def test_between_them_log_snr_is_linear_and_variance_is_kept(table):
    diffusion = made(table)
    t = torch.rand(500, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * diffusion.t_max
    expected = torch.from_numpy(np.interp(t.numpy(), np.arange(len(table)), log_snr_of(table)))
    torch.testing.assert_close(diffusion.log_snr(t), expected, rtol=1e-12, atol=1e-12)
    alpha, sigma = diffusion.alpha(t), diffusion.sigma(t)
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(t), rtol=1e-14, atol=0)
    torch.testing.assert_close(2 * (alpha / sigma).log(), expected, rtol=1e-12, atol=1e-12)


@every_table
def test_time_is_the_inverse_of_snr(table):
    diffusion = made(table)
    t = torch.rand(500, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * diffusion.t_max
    t[:3] = torch.tensor([0.0, 1.0, diffusion.t_max])
    torch.testing.assert_close(diffusion.time(diffusion.snr(t)), t, rtol=1e-11, atol=1e-11)
    single = diffusion.time(diffusion.snr(t).float())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), t, rtol=1e-4, atol=1e-4)
    snr = diffusion.snr_range[0] ** 0.3 * diffusion.snr_range[1] ** 0.7
    assert diffusion.snr(diffusion.time(snr)).item() == pytest.approx(snr, rel=1e-12)


@every_table
def test_drift_and_diffusion_are_those_of_the_marginals(table):
    """f = d log(alpha)/dt and g^2 = d(sigma^2)/dt - 2 f sigma^2, by central differences inside of the cells."""
    diffusion, h = made(table), 1e-4
    t = torch.arange(len(table) - 1, dtype=torch.float64) + 0.3

    def slope(f):
        return (f(t + h) - f(t - h)) / (2 * h)

    f = diffusion.drift_coefficient(t)
    torch.testing.assert_close(f, slope(lambda t: diffusion.alpha(t).log()), rtol=1e-5, atol=1e-9)
    g2 = slope(lambda t: diffusion.sigma(t) ** 2) - 2 * f * diffusion.sigma(t) ** 2
    torch.testing.assert_close(diffusion.squared_diffusion(t), g2, rtol=1e-5, atol=1e-9)
    assert diffusion.drift_coefficient(diffusion.t_max) < 0


def test_the_linear_table_is_the_continuous_schedule_in_1000_steps():
    """Index i is the time (i + 1)/1000. Steps of finite size make the difference: beta^2/2 at the end, .066 in sum."""
    diffusion, t = made(linear()), torch.arange(1000, dtype=torch.float64)
    continuous = VP().log_snr((t + 1) / 1000)
    assert (diffusion.log_snr(t) - continuous).abs().max() < 0.1
    middle = t[10:-1] + 0.5
    f = diffusion.drift_coefficient(middle) * 1000
    torch.testing.assert_close(f, VP().drift_coefficient((middle + 1) / 1000), rtol=0.05, atol=0)


def test_a_denoiser_is_the_same_in_canonical_variables():
    """The exact one of a mixture, as D(x, t) of this diffusion, against its own D(y, snr)."""
    mixture, diffusion = Mixture.circle(1.5, 0.2, dtype=torch.float64), made(linear())
    y = torch.randn(20, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)

    def denoiser(x, t):
        alpha, sigma = diffusion.alpha(t), diffusion.sigma(t)
        return mixture.denoise_y(alpha / sigma**2 * x, alpha**2 / sigma**2)

    for snr in (1e-3, 0.7, 50.0):
        found = CanonicalDenoiser(denoiser, diffusion)(snr**0.5 * y, snr)
        torch.testing.assert_close(found, mixture.denoise_y(snr**0.5 * y, torch.tensor(snr)), rtol=1e-9, atol=1e-9)


def test_a_table_of_zero_terminal_snr_ends_before():
    diffusion = TabulatedVP([0.9, 0.5, 0.2, 0.0])
    assert diffusion.t_max == 2
    assert diffusion.snr_range[0] == pytest.approx(0.25)
    with pytest.raises(ValueError, match=r"t must be in \[0, 2\) .*; got 3"):
        diffusion.alpha(3.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_both_ends_belong_to_it(dtype):
    diffusion = made(linear())
    ends = torch.tensor([0.0, 999.0], dtype=dtype)
    assert diffusion.alpha(ends).dtype == dtype
    expected = torch.from_numpy(linear()[[0, -1]]).sqrt().to(dtype)
    torch.testing.assert_close(diffusion.alpha(ends), expected, rtol=1e-6, atol=0)
    low, high = diffusion.snr_range
    assert diffusion.time(low * (1 - 1e-7)) == 999
    assert diffusion.time(high * (1 + 1e-7)) == 0
    torch.testing.assert_close(diffusion.time(torch.tensor([high, low], dtype=dtype)), ends, rtol=1e-6, atol=1e-6)


SHORT = TabulatedVP([0.9, 0.5, 0.2])


@pytest.mark.parametrize(
    "call, error, match",
    [
        (lambda: SHORT.alpha(2.1), ValueError, r"t must be in \[0, 2\) for TabulatedVP\(3 entries\); got 2.1"),
        (lambda: SHORT.sigma(-0.01), ValueError, r"t must be in \[0, 2\).*; got -0.01"),
        (lambda: SHORT.log_snr(torch.tensor([1.0, math.nan])), ValueError, "t must be in .*; got nan"),
        (lambda: SHORT.alpha("1"), TypeError, "t must be a real number"),
        (lambda: SHORT.time(0.24), ValueError, r"snr must be in \[0.25, 9\], the range of .*; got 0.24"),
        (lambda: SHORT.time(torch.tensor([1.0, 9.1])), ValueError, r"snr must be in \[0.25, 9\].*; got 9.1"),
        (lambda: SHORT.time(0.0), ValueError, "snr must be a finite number > 0"),
        (lambda: TabulatedVP([0.9]), ValueError, r"two positive entries or more, in one row; got shape \(1,\)"),
        (lambda: TabulatedVP([0.9, 0.0]), ValueError, r"two positive entries or more.*got shape \(1,\)"),
        (lambda: TabulatedVP([0.0, 0.0]), ValueError, r"two positive entries or more.*got shape \(0,\)"),
        (lambda: TabulatedVP([[0.9, 0.5]]), ValueError, r"in one row; got shape \(1, 2\)"),
        (lambda: TabulatedVP([0.9, 0.0, 0.5]), ValueError, r"must be in \(0, 1\); entry 1 is 0"),
        (lambda: TabulatedVP([1.0, 0.5]), ValueError, r"must be in \(0, 1\); entry 0 is 1"),
        (lambda: TabulatedVP([0.9, math.nan]), ValueError, r"must be in \(0, 1\); entry 1 is nan"),
        (lambda: TabulatedVP([0.9, 0.9]), ValueError, "must be strictly decreasing; entry 1 is 0.9"),
        (lambda: TabulatedVP([0.5, 0.9]), ValueError, "must be strictly decreasing; entry 1 is 0.9"),
    ],
)
def test_refusals(call, error, match):
    with pytest.raises(error, match=match):
        call()

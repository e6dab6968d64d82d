"""Sample a diffusion model by the path-average scheme, one Brownian path per seed. Copy this file; it needs only torch.

    x = sample(model, alphas_cumprod, (3, 32, 32), seeds=range(8), steps=20, c=0.25)

model(x, t) predicts the noise, or v, at x_t = sqrt(abar) x_0 + sqrt(1 - abar) eps; t is a real number from 0 to T - 1.
The SNR tau = abar/(1 - abar) is the time, and N(mean, c) a rough guess of the data's law, one c or one per coordinate:
    y = x_t sqrt(abar)/(1 - abar),    u = (y - tau mean)/(1 + c tau),    v = tau/(1 + c tau),
    Q = (1 + c tau)(D - mean) - c (y - tau mean),    D = E[x_0 | x_t],    du = Q dv + dM,    M a Brownian motion in v.
"""

from itertools import pairwise

import torch


def length(start, end, c):
    """v(end) - v(start), the variance of M between two SNRs, without cancellation."""
    return (end - start) / ((1 + c * start) * (1 + c * end))


def evaluation_snr(start, end, c):
    """The SNR at which a third of the step has passed in v, for the mean of c."""
    part = (1 + c * start) * length(start, end, c) / 3
    return (start + part) / (1 - c * part)


def step(Q, u, last, start, end, W, H, c):
    """u and Q after a step from SNR start to end, with one evaluation; last: the Q of the step before, at first 0.

    W is the increment of M, N(0, h), and W/2 + H its average over the step less its value at the start, H ~ N(0, h/12).
    """
    tau = evaluation_snr(start, end, torch.as_tensor(c).double().mean().cpu())
    drift = Q(u + length(start, tau, c) * last + W / 2 + H, tau)
    return u + length(start, end, c) * drift + W, drift


def brownian(generators, shape, snrs, ends, c, like):
    """(start, end, W, H) of each step, which has the cells ends[n] to ends[n + 1]; cells end at the SNRs `snrs`.

    Every cell draws its own (W, H) in turn, whatever the steps are, so that a seed has one path at every number of
    steps. Cells are joined exactly: a step's W is the sum, and `area`, h (W/2 + H), the integral over its cells.
    """
    for first, last in pairwise(ends):
        W = area = torch.zeros_like(like)
        for start, end in pairwise(snrs[first : last + 1]):
            h = length(start, end, c)
            noise = torch.stack([torch.randn(2, *shape, generator=g, dtype=like.dtype) for g in generators]).to(like)
            w, H = h**0.5 * noise[:, 0], (h / 12) ** 0.5 * noise[:, 1]
            W, area = W + w, area + h * (W + w / 2 + H)
        yield snrs[first], snrs[last], W, area / length(snrs[first], snrs[last], c) - W / 2


@torch.no_grad()
def sample(model, alphas_cumprod, shape, seeds, steps, c=1.0, mean=0.0, predicts="epsilon", cells=256, like=None):
    """(len(seeds), *shape): data, with the little noise N(0, 1/tau) that the last SNR leaves.

    A sample depends on its seed, on `shape`, `c` and `cells`, and on nothing else in its batch. predicts: "epsilon" or
    "v". cells: of the path, even in log-SNR; at least `steps`. like: a tensor of the dtype and device to compute in.
    """
    like = torch.zeros(()) if like is None else like
    log_snr = torch.logit(torch.as_tensor(alphas_cumprod).double().cpu())  # of a table that falls inside (0, 1)
    snrs = torch.linspace(log_snr[-1].item(), log_snr[0].item(), cells + 1, dtype=torch.float64).exp()
    ends = [round(n * cells / steps) for n in range(steps + 1)]
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def Q(u, tau):
        y = u * (1 + c * tau) + tau * mean
        alpha, sigma = (tau / (1 + tau)) ** 0.5, (1 / (1 + tau)) ** 0.5
        x = y * sigma**2 / alpha
        above = int(torch.searchsorted(-log_snr, -tau.log()).clamp(1, len(log_snr) - 1))  # log-SNR is linear between
        t = above - (tau.log() - log_snr[above]) / (log_snr[above - 1] - log_snr[above])
        output = model(x, t.to(like))
        D = (x - sigma * output) / alpha if predicts == "epsilon" else alpha * x - sigma * output
        return (1 + c * tau) * (D - mean) - c * (y - tau * mean)

    noise = torch.stack([torch.randn(shape, generator=g, dtype=like.dtype) for g in generators]).to(like)
    u, last = (snrs[0] / (1 + c * snrs[0])) ** 0.5 * noise, torch.zeros_like(noise)
    for start, end, W, H in brownian(generators, shape, snrs, ends, c, u):
        u, last = step(Q, u, last, start, end, W, H, c)
    return u * (1 + c * snrs[-1]) / snrs[-1] + mean

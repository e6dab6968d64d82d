"""The Gaussian reference: its clocks, and its variables of the canonical reverse SDE, `CanonicalSDE`.

A Gaussian reference N(mu, c) for the data turns dy = D da + dM into the same equation with v = tau/(1 + c tau) for the
SNR and Q for D. With y and D centred by a mu and mu,

    u = y / (1 + c tau)^((1 + eta^2)/2),    Q = (1 + c tau) D - c tau^((1 - eta^2)/2) y,
    du = Q db + dM,    b = v^((1 + eta^2)/2),    <M> = v^(eta^2).

Q is the same function of (x, t) for every eta, vanishes when the data are N(mu, c), and is a martingale at eta = 1. In
an orthonormal basis c may differ between coordinates: each coordinate of u then has its own v.

Range: the maps are products of powers, so their relative error is a few rounding units in any dtype while tau and y
stay representable (in float32, |log tau| < 80). Digits go in two differences only. v(tau_2) - v(tau_1) when
c tau >> 1: use `step_length`. Q: its rounding error is a few units times c tau |D|, which step lengths of order
1/(c tau) make harmless in u.
"""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdesig._checks import check_choice, check_floating, check_real, check_step, per_sample, readable, unread
from sdesig._devices import filled, plus, to_device
from sdesig._files import read_tensors, reading, tensor_digest, write_tensors
from sdesig.brownian.clock import Times

REFERENCES = ("none", "scalar", "coordinates", "pca", "dct")
"""Kinds of references for `GaussianReference.fit`."""


def drift_power(eta: float) -> float:
    """(1 + eta^2)/2, the power of the SNR that is the drift clock."""
    return 1.0 if eta == 1.0 else 0.5 * (1 + check_real("eta", eta, minimum=0.0) ** 2)


def drift_clock(snr: Tensor | float, eta: float = 1.0) -> Tensor:
    """a = snr^((1 + eta^2)/2), or b from v in the place of the SNR; the shape of `snr`."""
    return check_step("snr", snr) ** drift_power(eta)


def noise_clock(snr: Tensor | float, eta: float = 1.0) -> Tensor:
    """<M> = snr^(eta^2), with v in the place of the SNR for the reference variables; the shape of `snr`."""
    return check_step("snr", snr) ** (check_real("eta", eta, minimum=0.0) ** 2)


def clock_length(start: Times, end: Times, c: Times) -> Times:
    """v(end) - v(start) = (end - start)/((1 + c start)(1 + c end)), v = t/(1 + c t): free of cancellation.

    The last bits of the paths of a seed depend on its rounding, so it must not change.
    """
    return (end - start) / ((1.0 + c * start) * (1.0 + c * end))


def _outer(times: Tensor, c: Tensor) -> Tensor:
    """Times with an axis for each of a variance, to compute with it; one time on the CPU needs none."""
    if times.ndim == 0 and times.device.type == "cpu":
        return times
    return to_device(times, c.device).reshape(*times.shape, *[1] * c.ndim)


@dataclass(frozen=True, eq=False)
class SNRClock:
    """The clock of reverse diffusions, whose time is the signal-to-noise ratio; the master grid is uniform in log t.

    With a Gaussian reference of variance c the path is that of the martingale M of du = Q dv + dM, the reverse SDE in
    the variables of `sdesig.sampling.gaussian_reference`, and <M> = v = t/(1 + c t): times remain SNRs, and
    h = v(t) - v(s) = (t - s)/((1 + c s)(1 + c t)), free of cancellation. c = 0 is the canonical form dy = D dt + dB. A
    stochasticity eta other than 1 has <M> = v^power with power = eta^2.

    Args:
        variance: c >= 0, a float or a tensor broadcastable to one value (one variance per coordinate).
        power: > 0.

    Raises:
        ValueError, TypeError: a negative or non-finite variance, a power that is not > 0, or (from a path) t0 <= 0.
    """

    variance: float | Tensor = 0.0
    power: float = 1.0

    def __post_init__(self) -> None:
        check_real("power", self.power, minimum=0.0, strict=True)
        if not isinstance(self.variance, Tensor):
            check_real("variance", self.variance, minimum=0.0)
        elif readable(self.variance) and not bool((torch.isfinite(self.variance) & (self.variance >= 0)).all()):
            raise ValueError(f"variance must be finite and >= 0 everywhere; got {self.variance}")

    @property
    def variances(self) -> Tensor | None:
        """The variance, if there is one for each coordinate and the power is 1."""
        return self.variance if isinstance(self.variance, Tensor) and self.power == 1.0 else None

    def check(self, t0: float, t1: float) -> None:
        """Raise ValueError unless 0 < t0 and t1/t0 is finite."""
        if t0 <= 0:
            raise ValueError(f"t0 must be > 0 for an SNRClock (its grid is uniform in log t); got {t0}")
        if t1 / t0 == math.inf:
            raise ValueError(f"t1/t0 must be a finite number for an SNRClock; got {t1} and {t0}")

    def position(self, t: np.ndarray | float, t0: float, t1: float) -> np.ndarray:
        """The position log(t/t0) / log(t1/t0) of a time."""
        return np.log(np.asarray(t) / t0) / np.log(t1 / t0)

    def time(self, position: np.ndarray | float, t0: float, t1: float) -> np.ndarray:
        """The time t0^(1-x) t1^x at a position x, exact at both ends."""
        position = np.asarray(position)
        inner = t0 * np.exp(position * np.log(t1 / t0))
        return np.where(position == 0.0, t0, np.where(position == 1.0, t1, inner))

    def length(self, s: Times, t: Times) -> Times:
        """v(t)^power - v(s)^power, from v(t) - v(s) = (t - s) / ((1 + c s)(1 + c t))."""
        c = self.variance
        if isinstance(c, Tensor):
            c = c.to(torch.float64)
            s, t = (_outer(torch.as_tensor(x, dtype=torch.float64), c) for x in (s, t))
        length = clock_length(s, t, c)
        if self.power == 1.0:
            return length
        v = s / (1.0 + c * s)
        xp: Any = torch if isinstance(length, Tensor) else np
        return v**self.power * xp.expm1(self.power * xp.log1p(length / v))

    def identity(self) -> dict[str, object]:
        """The clock's name, reference variance and power."""
        c = self.variance
        variance = c.tolist() if isinstance(c, Tensor) else float(c)
        return {"name": "snr", "variance": variance, "power": float(self.power)}


def _cosines(size: int) -> Tensor:
    """The orthonormal DCT-II as a matrix in float64; column j is the cosine of frequency j."""
    index = torch.arange(size, dtype=torch.float64)
    matrix = (math.pi / size * torch.outer(index + 0.5, index)).cos() * math.sqrt(2 / size)
    matrix[:, 0] = math.sqrt(1 / size)
    return matrix


def _coordinates(name: str, value: float | Tensor, minimum: float) -> Tensor:
    if not isinstance(value, Tensor):
        return torch.tensor(check_real(name, value, minimum=minimum), dtype=torch.float64)
    bad = ~(torch.isfinite(check_floating(name, value)) & (value >= minimum))
    if bool(bad.any()):
        raise ValueError(f"{name} must be finite and >= {minimum:g}; it contains {value[bad].flatten()[0].item()}")
    return value


def _made_in(values: Tensor) -> torch.dtype:
    """The coarsest dtype that represents all of some float64 values: the precision that they were rounded to."""
    coarse = (torch.bfloat16, torch.float16, torch.float32)
    return next((dtype for dtype in coarse if bool((values.to(dtype).double() == values).all())), torch.float64)


def _orthogonal(name: str, matrix: Tensor) -> Tensor:
    if check_floating(name, matrix).ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"{name} must be a square matrix; got shape {tuple(matrix.shape)}")
    wide = matrix.double()  # no product of lower precision, which a GPU may be allowed
    defect = (wide.mT @ wide - torch.eye(len(matrix)).to(wide)).abs().max().item()
    made = _made_in(wide)
    unit = torch.finfo(made if made == torch.float64 else torch.float32).eps
    if not defect <= max(100 * len(matrix) * unit, 2 * torch.finfo(made).eps):
        raise ValueError(f"{name} must be orthogonal; its columns' inner products are off by {defect:.3g}")
    return matrix


class GaussianReference:
    """N(mean, variance): the Gaussian that the data are compared with. The module's docstring has the formulas.

    y, D and the mean are in the coordinates of the data; u, v, Q and the variance in those of the basis. Tensors given
    here should have the states' dtype and device. An SNR is one number, on the CPU, which mixes with states of any
    device, or (batch,) on any; v, which has the axes of the variance, is where the variance is.

    Args:
        mean: mu, a float or a tensor that broadcasts against an event.
        variance: c >= 0, likewise. With c = 0, (u, v, Q) are the centred canonical variables (y, tau, D).
        basis: None for the coordinates of the data, or orthogonal matrices, one for each of an event's last axes; their
            columns are the basis. A principal-component analysis of vectors is one matrix, a two-dimensional cosine
            transform of images two, a third before them mixes the channels. A tensor stands for a sequence of one.

    Raises:
        TypeError, ValueError: unless mean and variance are finite, variance >= 0, and the basis orthogonal, to the
            rounding of the precision that its numbers were made in: a float32 basis may come as float64.
    """

    def __init__(
        self, mean: float | Tensor, variance: float | Tensor, basis: Tensor | Sequence[Tensor] | None = None
    ) -> None:
        self.mean = _coordinates("mean", mean, -math.inf)
        self.variance = _coordinates("variance", variance, 0.0)
        matrices = (basis,) if isinstance(basis, Tensor) else tuple(basis or ())
        self.basis = tuple(_orthogonal(f"basis[{i}]", matrix) for i, matrix in enumerate(matrices))

    @classmethod
    def fit(cls, data: Tensor, kind: str) -> GaussianReference:
        """The reference of a kind that fits data best, in their dtype: their mean, and by `kind`

        - "none": variance 0;
        - "scalar": one variance, the mean over the coordinates;
        - "coordinates": a variance per coordinate;
        - "pca": principal components, of vectors only;
        - "dct": a variance per coordinate of the two-dimensional cosine transform, which is the power spectrum, of
          images (height, width) or (channels, height, width). Channels are decorrelated first: they are turned to the
          principal components of their covariance, the mean over the pixels.

        Args:
            data: (n >= 2, *event).

        Raises:
            TypeError, ValueError: an unknown kind, data of another shape.
        """
        check_choice("kind", kind, REFERENCES)
        if check_floating("data", data).ndim < 2 or len(data) < 2:
            raise ValueError(f"data must have shape (n >= 2, *event); got {tuple(data.shape)}")
        values = data.double()
        mean, variance = values.mean(0).to(data), values.var(0)
        if kind == "pca":
            if data.ndim != 2:
                raise ValueError(f"data must be vectors, (n, dim), for 'pca'; got {tuple(data.shape)}")
            variances, basis = torch.linalg.eigh(torch.cov(values.T))
            return cls(mean, variances.clamp(min=0).to(data), basis.to(data))
        if kind == "dct":
            if data.ndim not in (3, 4):
                raise ValueError(
                    f"data must be images, (n, [channels,] height, width), for 'dct'; got {tuple(data.shape)}"
                )
            centred = values - values.mean(0)
            matrices = [_cosines(size) for size in data.shape[-2:]]
            if data.ndim == 4:
                channels = centred.transpose(0, 1).flatten(1)
                matrices.insert(0, torch.linalg.eigh(channels @ channels.T).eigenvectors)
            basis = [matrix.to(values) for matrix in matrices]
            spectrum = cls(0.0, 0.0, basis).to_basis(centred).var(0)
            return cls(mean, spectrum.to(data), [matrix.to(data) for matrix in basis])
        if kind == "coordinates":
            return cls(mean, variance.to(data))
        return cls(mean, variance.mean().item() if kind == "scalar" else 0.0)

    @classmethod
    def load(cls, file: str | Path, event: Sequence[int] | None = None) -> GaussianReference:
        """Read a file of `save`, for samples of a shape if one is given.

        Raises:
            FileNotFoundError, TypeError, ValueError: no such file, not safetensors, other tensors, another event.
        """
        tensors = read_tensors(Path(file))
        basis = [f"basis_{k}" for k in range(len(tensors) - 2)]
        with reading(Path(file), "is not one of a reference"):
            if tensors.keys() != {"mean", "variance", *basis}:
                raise ValueError(f"it must hold mean, variance, basis_0, ...; it holds {', '.join(sorted(tensors))}")
            reference = cls(tensors["mean"], tensors["variance"], [tensors[name] for name in basis])
            if event is not None:
                reference.check_fits(tuple(event), torch.float32, torch.device("cpu"))
            return reference

    def save(self, file: str | Path) -> None:
        """Write mean, variance and basis to a safetensors file."""
        basis = {f"basis_{k}": matrix for k, matrix in enumerate(self.basis)}
        write_tensors(Path(file), {"mean": self.mean, "variance": self.variance, **basis})

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Mean, variance and the matrices of the basis."""
        return self.mean, self.variance, *self.basis

    @property
    def digest(self) -> str:
        """The sha256 of the values of mean, variance and basis."""
        return tensor_digest(self.tensors)

    @property
    def shapes(self) -> list[torch.Size]:
        """The shapes of mean, variance and the matrices of the basis."""
        return [value.shape for value in self.tensors]

    def to(self, device: torch.device | str) -> GaussianReference:
        """The same reference on a device; a scalar variance stays on the CPU."""
        variance = self.variance if self.variance.ndim == 0 else self.variance.to(device)
        return self.with_tensors(self.mean.to(device), variance, [matrix.to(device) for matrix in self.basis])

    def with_tensors(self, mean: Tensor, variance: Tensor, basis: Sequence[Tensor]) -> GaussianReference:
        """The same reference with its tensors on another device or in another dtype. They are not checked again."""
        moved = copy.copy(self)
        moved.mean, moved.variance, moved.basis = mean, variance, tuple(basis)
        return moved

    @functools.cached_property
    def mean_variance(self) -> float:
        """The mean of c over the coordinates; read once, for an accelerator is waited for."""
        return self.variance.double().mean().item()

    def check_event(self, u: Tensor) -> None:
        """Raise unless mean, variance and basis fit the events of u, (batch, *event): its shape, dtype and device."""
        self.check_fits(tuple(u.shape[1:]), u.dtype, u.device)

    def check_fits(self, event: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> None:
        """Raise unless mean, variance and basis fit events of a shape, in a dtype and on a device."""
        for name, value in (("mean", self.mean), ("variance", self.variance)):
            padded = (1,) * (len(event) - value.ndim) + tuple(value.shape)
            if len(padded) != len(event) or any(m not in (1, n) for m, n in zip(padded, event, strict=True)):
                raise ValueError(
                    f"{name} must broadcast against an event of shape {event}; it has {tuple(value.shape)}"
                )
        sizes = tuple(len(matrix) for matrix in self.basis)
        if sizes != event[len(event) - len(sizes) :]:
            raise ValueError(f"basis must be a matrix for each of the last axes of an event {event}; it has {sizes}")
        for value in self.tensors:
            if value.ndim and (value.dtype != dtype or value.device != device):
                states, found = f"{dtype} on {device}", f"{value.dtype} on {value.device}"
                raise TypeError(f"mean, variance and basis must be {states}, like the states; one is {found}")

    def to_basis(self, x: Tensor) -> Tensor:
        """Coordinates in the basis of x, (batch, *event); the same shape."""
        return self._rotate(x, self.basis)

    def from_basis(self, coordinates: Tensor) -> Tensor:
        """Inverse of `to_basis`."""
        return self._rotate(coordinates, [matrix.mT for matrix in self.basis])

    def snr_clock(self, power: float = 1.0) -> SNRClock:
        """The clock in which a variance of v^power passes; that of a path of M for power = eta^2."""
        c = self.variance
        with unread():  # the variance was checked when the reference was made
            return SNRClock(c.item() if c.ndim == 0 else c, power)

    def start(self, noise: Tensor, snr: Tensor | float, eta: float = 1.0) -> Tensor:
        """u at the first SNR, N(0, <M>), from N(0, I): its law if the data are the reference, else up to O(tau)."""
        tau = per_sample(check_step("snr", snr), check_floating("noise", noise))
        with unread():
            return noise_clock(tau / (1 + self.variance * tau), eta).sqrt() * noise

    def clock(self, snr: Tensor | float) -> Tensor:
        """v = tau/(1 + c tau), shape snr.shape + variance.shape."""
        tau = self._outer("snr", snr)
        return tau / (1 + self.variance * tau)

    def step_length(self, start: Tensor | float, end: Tensor | float) -> Tensor:
        """v(end) - v(start) = (end - start)/((1 + c start)(1 + c end)) for two SNRs of one shape; shape of `clock`."""
        tau_1, tau_2 = self._outer("start", start), self._outer("end", end)
        length = clock_length(tau_1.double(), tau_2.double(), self.variance.double())  # a product beyond float32
        return length.to((tau_1 * self.variance).dtype)

    def to_reference(self, y: Tensor, snr: Tensor | float, eta: float = 1.0) -> tuple[Tensor, Tensor]:
        """(u, v) from y, shape (batch, *event), and snr, () or (batch,): u is shaped as y, v as in `clock`."""
        _, a, _ = self._scales("y", y, snr, eta)
        return self.displacement(self._centred(y, a), snr, eta), self.clock(snr)

    def displacement(self, change: Tensor, snr: Tensor | float, eta: float = 1.0) -> Tensor:
        """The change of u that a change of y makes, (batch, *event)."""
        _, _, growth = self._scales("change", change, snr, eta)
        return self.to_basis(change) / growth ** drift_power(eta)

    def from_reference(self, u: Tensor, snr: Tensor | float, eta: float = 1.0) -> Tensor:
        """y from u and the SNR (v may differ between coordinates, so it is no argument): inverse of `to_reference`."""
        _, a, growth = self._scales("u", u, snr, eta)
        return self._centred(self.from_basis(u * growth ** drift_power(eta)), -a)

    def drift(self, denoised: Tensor, y: Tensor, snr: Tensor | float, eta: float = 1.0) -> Tensor:
        """Q = (1 + c tau)(D - mu) - c tau^((1 - eta^2)/2) (y - a mu), shape (batch, *event), from D and y."""
        excess, a, growth = self._scales("y", y, snr, eta)
        turned = growth * self.to_basis(self._centred(denoised, 1.0))
        return plus(turned, -excess / a, self.to_basis(self._centred(y, a)))

    def _outer(self, name: str, snr: Tensor | float) -> Tensor:
        """The SNR with one trailing axis per axis of the variance; if there is one, on the variance's device."""
        tau, c = check_step(name, snr), self.variance
        if c.ndim == 0:
            return tau
        ones = (1,) * c.ndim
        return to_device(tau.reshape(tau.shape + ones), c.device) if tau.ndim else filled(tau, ones, c.device)

    def _scales(self, name: str, state: Tensor, snr: Tensor | float, eta: float) -> tuple[Any, Any, Any]:
        """c tau, the drift clock a = tau^((1 + eta^2)/2), and 1 + c tau, shaped to multiply a state.

        Of a float they are floats, those with c where it is one number.
        """
        check_floating(name, state)
        tau: Any
        if isinstance(snr, float):
            tau = check_real("snr", snr, minimum=0.0, strict=True)
            excess = (self.variance if self.variance.ndim else self.mean_variance) * tau
        else:
            tau = per_sample(check_step("snr", snr), state)
            excess = self.variance * tau
        return excess, tau ** drift_power(eta), 1 + excess

    def _centred(self, x: Tensor, factor: Tensor | float) -> Tensor:
        """x without a multiple of the mean; x itself where it is known to be zero."""
        if self.mean.ndim == 0 and self.mean.device.type == "cpu" and not self.mean.item():
            return x
        return x - factor * self.mean

    def _rotate(self, x: Tensor, matrices: Sequence[Tensor]) -> Tensor:
        for axis, matrix in enumerate(matrices, start=x.ndim - len(matrices)):
            x = torch.tensordot(x, matrix, ([axis], [0])).movedim(-1, axis)
        return x

    def __repr__(self) -> str:
        variance = f"{self.variance.item():g}" if self.variance.ndim == 0 else f"of shape {tuple(self.variance.shape)}"
        basis = f", basis of sizes {tuple(map(len, self.basis))}" if self.basis else ""
        return f"GaussianReference(variance {variance}{basis})"

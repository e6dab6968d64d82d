"""The two cells of Sig-DEG: one step of the generator, as a scheme with parameters.

A cell is a `ReverseScheme`: `solve` and `run_steps` run it like any other scheme, on a path of the martingale M in the
clock of the Gaussian reference. It sees the first `depth` Legendre coefficients xi_k of M on the step.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from sdesig._checks import check_denoised, check_integer, check_real, per_sample
from sdesig._devices import like, per_row, to_device
from sdesig._evaluating import evaluating
from sdesig.brownian import BrownianPath
from sdesig.sampling.canonical import CanonicalSDE, ReverseScheme, SNRDenoiser, check_snr_denoiser
from sdesig.sampling.path_average import CORRECTION, PathAverage, evaluation_snr
from sdesig.sde.base import SDELike
from sdesig.sigdeg.network_denoiser import ModelDenoiser
from sdesig.sigdeg.networks import Network, zeros
from sdesig.signature.partial_signature import PartialSignature
from sdesig.signature.words import Word

CONDITIONS = 2
"""Number of conditions that describe a step to a network, see `step_conditions`."""

SPEED = 10.0
"""Adam moves all weights alike; by this factor the few numbers of a step move faster than a network does."""

Student = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""D(y, snr, conditions, extra): a denoiser that is also told the step, (CONDITIONS,), and (batch, extra, *event)."""


def step_conditions(start: Tensor, end: Tensor) -> Tensor:
    """(log start, log end - log start)/8 for the two SNRs of a step: float32, (2,)."""
    log_start, log_end = start.log(), end.log()
    return (torch.stack([log_start, log_end - log_start]) / 8).float()


def gate(conditions: Tensor) -> Tensor:
    """(1 - snr_n/snr_{n+1})^2, from the conditions of a step: the share of the learned change that applies to it.

    It vanishes with the step. Where steps are short a generator therefore is the path-average scheme, however it was
    trained, and one network serves few steps and many.
    """
    return torch.expm1(-8 * conditions[1]).square()


class Cell(nn.Module, ReverseScheme):
    """The base class of both cells: a student, the depth, and the noise of a step.

    Args:
        denoiser: the student, with depth + 1 extra inputs.
        depth: number of Legendre coefficients that the cell sees, >= 1.
        sigma_data: standard deviation of the data, > 0: the unit of what the network is shown.
    """

    def __init__(self, denoiser: Student, depth: int, sigma_data: float) -> None:
        super().__init__()
        self.depth = check_integer("depth", depth, 1)
        self.sigma_data = check_real("sigma_data", sigma_data, minimum=0.0, strict=True)
        self.denoiser = denoiser

    def words(self, structure: str) -> tuple[Word, ...]:
        """(0, ..., 0, 1), the deepest of the Gaussian words of this depth."""
        return ((*[0] * (self.depth - 1), 1),)

    def check(self, sde: SDELike, y0: Tensor, path: BrownianPath) -> str:
        """The noise structure, checked as for every reverse scheme; raise ValueError also unless eta = 1."""
        structure = super().check(sde, y0, path)
        if isinstance(sde, CanonicalSDE) and sde.eta != 1:
            raise ValueError(f"{type(self).__name__} needs eta = 1; the SDE's is {sde.eta:g}")
        return structure

    def noise(self, structure: str, signatures: PartialSignature) -> tuple[Tensor, ...]:
        """sqrt(h), (n, 1 or batch, *event or ones), and xi_0, ..., xi_{depth-1}, (n, depth, batch, *event)."""
        h = signatures.h.reshape(-1, *[1] * len(signatures.shape[1:])) if signatures.h.ndim == 0 else signatures.h
        return (
            h.expand(len(signatures), *h.shape[1:]).sqrt().to(signatures.dtype),
            signatures.truncate(self.depth).coefficients.movedim(0, 1),
        )

    def set_trainable(self, *, only_coefficients: bool = False) -> None:
        """Choose the parameters that are trained: all but a teacher's weights, or `StepCoefficients` alone."""
        for name, value in self.named_parameters():
            fixed = ".base." in name
            value.requires_grad_(not fixed and (not only_coefficients or name.startswith("coefficients.")))

    @abstractmethod
    def memory_at(self, sde: CanonicalSDE, before: Tensor, start: Tensor, u: Tensor, generator: torch.Generator) -> Any:
        """A memory as the previous step would have left it, given only the state u at its end.

        Args:
            sde: the reverse diffusion, with the teacher for its denoiser.
            before, start: SNRs at the ends of the previous step.
            u: the state at `start`.
            generator: draws a point of the path within that step, given u.
        """

    @abstractmethod
    def untrained(
        self, sde: CanonicalSDE, start: Tensor, end: Tensor, u: Tensor, memory: Any, noise: tuple[Tensor, ...]
    ) -> tuple[Tensor, Any]:
        """The step of `advance` before any training, with the SDE's own denoiser, the teacher, for the student."""

    def _extra(self, sde: CanonicalSDE, values: Tensor, estimate: Tensor) -> Tensor:
        """The extra inputs of a student, (batch, depth + 1, *event), in the coordinates of the data.

        They are the xi_k or multiples of them, given as (depth, batch, *event) in those of the basis, and the last
        estimate D_{n-1} - mu, (batch, *event), in units of sigma_data.
        """
        turned = [sde.reference.from_basis(value) for value in values]
        return torch.stack([*turned, estimate / self.sigma_data], 1)


class StepCoefficients(nn.Module):
    """Learned coefficients of a step, functions of its two ends, which start as those of the path-average scheme:

        u* = u_n + m [v(tau*) - v_n] Q_{n-1} + sqrt(h) sum_k w_k xi_k,    u_{n+1} = u_n + h (a Q_n + b Q_{n-1}) + dM

    with tau* where a fraction p of the step has passed. At the start p = 1/3, m = 1, a = 1 + kappa g, b = -kappa g and
    w = (1/2, -1/sqrt(12), 0, ...), with the `gate` g; what is learned is multiplied by it.

    Args:
        depth: number of weights w_k.
        correction: kappa of the path-average scheme.
    """

    solver: Tensor
    corrected: Tensor

    def __init__(self, depth: int, correction: float = CORRECTION, width: int = 32) -> None:
        super().__init__()
        weights = [1 / 2, -math.sqrt(1 / 12), *[0.0] * depth][:depth]
        kappa = self.correction = PathAverage(correction).correction
        self.register_buffer("solver", torch.tensor([1.0, 1.0, 0.0, *weights]), persistent=False)
        self.register_buffer("corrected", torch.tensor([0.0, kappa, -kappa, *[0.0] * depth]), persistent=False)
        self.network = nn.Sequential(
            nn.Linear(CONDITIONS, width),
            nn.SiLU(),
            nn.Linear(width, width),
            nn.SiLU(),
            zeros(nn.Linear(width, depth + 4)),
        )

    def forward(self, conditions: Tensor) -> tuple[Tensor, Tensor]:
        """p, in (0, 2/3), float64, and (m, a, b, w_0, ..., w_{depth-1}), for the conditions of one step."""
        change = SPEED * gate(conditions) * self.network(conditions.to(self.solver))
        return (1 + 0.99 * torch.tanh(change[0].double())) / 3, self.untrained(conditions) + change[1:]

    def untrained(self, conditions: Tensor) -> Tensor:
        """(m, a, b, w_0, ..., w_{depth-1}) at the start, where p = 1/3."""
        return self.solver + gate(conditions) * self.corrected


class SolverCell(Cell):
    """The path-average step with a student for the denoiser, and its correction within the step, where it is learned:

        Q_n = (1 + c tau*)(D_phi - mu) - c (y* - tau* mu)

    with the step of `StepCoefficients`. D_phi is asked at y*, the canonical form of its u*. It is also shown the ends
    of the step, what every xi_k moves the network's own input by, and the last estimate (D_{n-1} - mu)/sigma_data, the
    recurrence.

    Args:
        denoiser, depth, sigma_data: see `Cell`.
        correction: kappa of `PathAverage`. At depth >= 2 the cell starts as that scheme, but for when it corrects.
    """

    def __init__(self, denoiser: Student, depth: int, sigma_data: float, correction: float = CORRECTION) -> None:
        super().__init__(denoiser, depth, sigma_data)
        self.coefficients = StepCoefficients(depth, correction)

    def start(self, sde: SDELike, t: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Q_{-1} = 0 and D_{-1} - mu = 0."""
        return torch.zeros_like(y), torch.zeros_like(y)

    def advance(
        self, sde: CanonicalSDE, start: Tensor, end: Tensor, u: Tensor, memory: Any, noise: tuple[Tensor, ...]
    ) -> tuple[Tensor, Any]:
        """The step of `StepCoefficients`; the memory is (Q_{n-1}, D_{n-1} - mu)."""
        # An example, untrained, with one coordinate, c = mu = 0, sigma_data = 1: from SNR 1 to 4, so h = 3, from u = 1
        # with the memory (0.5, 0.5) and xi = (1, 0). Then tau* = 1 + 3/3 = 2, y* = u* = 1 + 0.5 (2 - 1) + sqrt(3)/2 =
        # 2.366. The student is shown y*, tau*, the conditions (0, log 4)/8, and extra inputs sqrt(3/(2 (1 + 2))) xi =
        # (0.707, 0) and 0.5. If it answers D = 0.8, then Q = 0.8. With kappa = 0.2 and the gate (1 - 1/4)^2 the next
        # state is 1 + 3 [Q + 0.1125 (Q - 0.5)] + sqrt(3) = 5.233, and the memory is (0.8, 0.8).
        root, coefficients = noise
        conditions = to_device(step_conditions(start, end), u.device)

        def student(y: Tensor, time: Tensor) -> Tensor:
            tau = time.to(u)
            growth = root * (1 + sde.reference.variance * tau) * torch.rsqrt(tau * (1 + self.sigma_data**2 * tau))
            extra = self._extra(sde, growth * coefficients, memory[1])
            return check_denoised(self.denoiser(y, time, conditions.to(u), extra), y)

        fraction, numbers = self.coefficients(conditions)
        return self._step(sde, start, end, u, memory[0], noise, fraction, numbers, student)

    def untrained(
        self, sde: CanonicalSDE, start: Tensor, end: Tensor, u: Tensor, memory: Any, noise: tuple[Tensor, ...]
    ) -> tuple[Tensor, Any]:
        """The path-average step, as far as this depth has it; the memory as in `advance`."""
        numbers = self.coefficients.untrained(to_device(step_conditions(start, end), u.device))
        return self._step(sde, start, end, u, memory[0], noise, 1 / 3, numbers, sde.denoiser)

    def _step(
        self,
        sde: CanonicalSDE,
        start: Tensor,
        end: Tensor,
        u: Tensor,
        drift: Tensor,
        noise: tuple[Tensor, ...],
        fraction: float | Tensor,
        numbers: Tensor,
        denoiser: Callable[[Tensor, Tensor], Tensor],
    ) -> tuple[Tensor, Any]:
        """The step with p and the other numbers of `StepCoefficients`, asking D(y, snr); `drift` is Q_{n-1}."""
        root, coefficients = noise
        before, now, again, *weights = numbers.to(u)
        time = evaluation_snr(sde, start, end, fraction)  # where p is learned, on the device
        point = u + before * like(sde.drift_clock.length(start, time), u) * drift
        point = point + root * torch.tensordot(torch.stack(weights), coefficients, 1)
        y = sde.reference.from_reference(point, time)
        denoised = denoiser(y, time).to(u)
        found = sde.reference.drift(denoised, y, time)
        moved = sde.moved(start, end, u, now * found + again * drift, root * coefficients[0])
        return moved, (found, denoised - sde.reference.mean.to(u))

    def memory_at(
        self, sde: CanonicalSDE, before: Tensor, start: Tensor, u: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """The denoiser's estimate where the path-average scheme would have asked for it."""
        time = evaluation_snr(sde, before, start, 1 / 3)
        y = _earlier(sde, time, start, u, generator)
        denoised = sde.denoiser(y, time).to(u)
        return sde.reference.drift(denoised, y, time), denoised - sde.reference.mean.to(u)


class PlainCell(Cell):
    """The form of the paper: a network from the state, the step and its partial signature to the next state.

        u_{n+1} = u_n + h Q_n + dM,    Q_n = (1 + c tau_n)(D_phi - mu) - c (y_n - tau_n mu)

    D_phi is asked at the state itself, y_n, and is shown what a `SolverCell` shows it, with xi_k as they are. No other
    solver is inside: with a teacher for D_phi this is Euler's scheme (SDE-DPM-Solver++(1) without a reference), and
    what a long step lacks is learned (Sig-DEG, arXiv 2508.16939, in the reference's variables).

    Args:
        denoiser, depth, sigma_data: see `Cell`.
    """

    def start(self, sde: SDELike, t: Tensor, y: Tensor) -> Tensor:
        """D_{-1} - mu = 0."""
        return torch.zeros_like(y)

    def advance(
        self, sde: CanonicalSDE, start: Tensor, end: Tensor, u: Tensor, memory: Any, noise: tuple[Tensor, ...]
    ) -> tuple[Tensor, Any]:
        """u + h Q_n + dM, with Q_n from the network; the memory is D_{n-1} - mu."""
        root, coefficients = noise
        y = sde.reference.from_reference(u, start)
        extra = self._extra(sde, coefficients, memory)
        denoised = check_denoised(self.denoiser(y, start, like(step_conditions(start, end), u), extra), y).to(u)
        moved = sde.moved(start, end, u, sde.reference.drift(denoised, y, start), root * coefficients[0])
        return moved, denoised - sde.reference.mean.to(u)

    def untrained(
        self, sde: CanonicalSDE, start: Tensor, end: Tensor, u: Tensor, memory: Any, noise: tuple[Tensor, ...]
    ) -> tuple[Tensor, Any]:
        """Euler's step, u + h Q_n + dM; the memory as in `advance`."""
        root, coefficients = noise
        y = sde.reference.from_reference(u, start)
        denoised = sde.denoiser(y, start).to(u)
        moved = sde.moved(start, end, u, sde.reference.drift(denoised, y, start), root * coefficients[0])
        return moved, denoised - sde.reference.mean.to(u)

    def memory_at(
        self, sde: CanonicalSDE, before: Tensor, start: Tensor, u: Tensor, generator: torch.Generator
    ) -> Tensor:
        """The denoiser's estimate at the start of that step."""
        y = _earlier(sde, before, start, u, generator)
        return sde.denoiser(y, before).to(u) - sde.reference.mean.to(u)


def _earlier(sde: CanonicalSDE, time: Tensor, start: Tensor, u: Tensor, generator: torch.Generator) -> Tensor:
    """y at an earlier SNR, given u at `start`: whatever the data, y_s given y_t is N(s/t y_t, s (t - s)/t)."""
    share = (time / start).item()
    noise = torch.randn(u.shape, generator=generator, dtype=u.dtype, device=u.device)
    y = sde.reference.from_reference(u, start)
    return share * y + (start.item() * share * (1 - share)) ** 0.5 * noise


class StudentDenoiser(nn.Module):
    """A teacher's network with weights W + g W', W' learned from zero and g the `gate`, and more inputs.

    It is always in evaluation mode: without dropout, with the statistics of the teacher's normalizations.

    Args:
        teacher: a `ModelDenoiser`, whose weights W stay as they are; or one that is widened already.
        extra: number of extra inputs.
        rank: W' = B A of this rank, >= 1, with A and B trained, for every matrix of which that leaves less than half to
            be learned (LoRA, arXiv 2106.09685); a convolution is the matrix (outputs, inputs times its window).
            None: all of W' is trained.
    """

    def __init__(self, teacher: ModelDenoiser, extra: int, rank: int | None = None) -> None:
        super().__init__()
        wide = teacher if teacher.network.extra == extra else teacher.widened(CONDITIONS, extra)
        self.base = wide.requires_grad_(False).eval()
        self.rank = None if rank is None else check_integer("rank", rank, 1)
        self.factors = nn.ParameterDict()
        changes = []
        for k, value in enumerate(self.base.parameters()):
            rows, columns = len(value), value[0].numel() if value.ndim > 1 else 0
            if rank is None or 2 * rank * (rows + columns) >= rows * columns:
                changes.append(torch.zeros_like(value))
                continue
            changes.append(value.new_zeros(rows, rank))
            self.factors[str(k)] = torch.randn(rank, columns).to(value) / columns**0.5
        self.change = nn.ParameterList(changes)

    def train(self, mode: bool = True) -> StudentDenoiser:
        """Set the training mode, but for the teacher's network, which stays in evaluation mode."""
        super().train(mode)
        self.base.eval()
        return self

    @property
    def network(self) -> Network:
        """The teacher's network, with more inputs."""
        return self.base.network

    def forward(self, y: Tensor, snr: Tensor, conditions: Tensor, extra: Tensor) -> Tensor:
        """D_phi(y, snr), shape (batch, *event)."""
        share, weights = gate(conditions), {}
        for k, (name, value) in enumerate(self.base.named_parameters()):
            change = self.change[k]
            if str(k) in self.factors:
                change = (change @ self.factors[str(k)]).view_as(value)
            weights[name] = torch.addcmul(value, share, change)
        return torch.func.functional_call(self.base, weights, (y, snr, conditions, extra))


class CorrectedDenoiser(nn.Module):
    """D(y, snr) + g c_out F: any denoiser, which stays as it is, and a network F that learns a correction.

    With the `gate` g, and EDM's scalings c_in, c_noise and c_out (`sdesig.sde.denoisers.EDMDenoiser`). F is also shown
    D, and its last layer starts at zero.

    Args:
        denoiser: D(y, snr), in evaluation mode while it is asked. Its parameters, if it has any, are neither trained
            nor saved.
        network: F, with `CONDITIONS` conditions and one extra input more than the cell gives.
        sigma_data: standard deviation of the data, > 0.
    """

    def __init__(self, denoiser: SNRDenoiser, network: Network, sigma_data: float) -> None:
        super().__init__()
        self._denoiser = (check_snr_denoiser("denoiser", denoiser),)  # in a tuple: not a part of this module
        self.network = network
        network.zero_last()
        self.sigma_data = sigma_data

    def forward(self, y: Tensor, snr: Tensor, conditions: Tensor, extra: Tensor) -> Tensor:
        """D_phi(y, snr), shape (batch, *event)."""
        with evaluating(self._denoiser[0]):
            base = self._denoiser[0](y, snr).to(y)
        tau = per_sample(snr, y)
        signal = self.sigma_data**2 * tau
        noise = per_row(-0.125 * snr.log(), y)
        shown = torch.cat([extra, (base / self.sigma_data)[:, None]], 1)
        correction = self.network(y * torch.rsqrt(tau * (1 + signal)), noise, conditions, shown)
        return base + gate(conditions) * self.sigma_data * torch.rsqrt(1 + signal) * correction

"""Noise levels of models of diffusers, in the variables of their pipelines: x = alpha x_0 + sigma eps at a timestep."""

from __future__ import annotations

import torch
from torch import Tensor

from sdesig._checks import check_choice, check_integer, check_real
from sdesig.images.teachers import PREDICTIONS
from sdesig.sde import EDM, Diffusion, EpsilonDenoiser, Flow, FlowDenoiser, TabulatedVP, VDenoiser, X0Denoiser

FIRST_SNR, LAST_SNR = 1 / 80**2, 1e4
"""Where a run begins if the model's last timestep has no signal, and where one without a table ends."""


class NoiseLevels:
    """What a scheduler needs to know of a model.

    Attributes:
        diffusion: the schedule.
        snr_range: first and last SNR of a run.
        unit: timesteps are times of the diffusion, times this.
        silent: the model's last timestep, if it has no signal: it is asked there, with the latents.
        divided: whether samples are returned as x/alpha, because alpha is not 1 at the end.
    """

    diffusion: Diffusion
    snr_range: tuple[float, float]
    unit = 1.0
    silent: float | None = None
    divided = True
    _denoiser: type[EpsilonDenoiser | VDenoiser | X0Denoiser | FlowDenoiser]

    def timestep(self, t: Tensor) -> Tensor:
        """The timestep at a time of the diffusion."""
        return self.unit * t

    def time(self, timestep: Tensor) -> Tensor:
        """The inverse."""
        return timestep / self.unit

    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """alpha and sigma at a time of the diffusion."""
        return self.diffusion.alpha(t), self.diffusion.sigma(t)

    def alpha_sigma_at(self, timestep: Tensor) -> tuple[Tensor, Tensor]:
        """alpha and sigma at a timestep, whole or not, also one without signal."""
        silent = torch.zeros_like(timestep, dtype=torch.bool) if self.silent is None else timestep >= self.silent
        inside = self.diffusion.time(torch.tensor(self.snr_range[0], dtype=torch.float64))
        alpha, sigma = self.alpha_sigma(torch.where(silent, inside, self.time(timestep)))
        return alpha.masked_fill(silent, 0.0), sigma.masked_fill(silent, 1.0)

    def denoised(self, x: Tensor, prediction: Tensor, alpha: float, sigma: float) -> Tensor:
        """D of a sample and of what the model said there."""
        return self._denoiser.denoised(x, prediction, alpha, sigma)


class TableLevels(NoiseLevels):
    """Variance preserving, by a table, whose indices are the timesteps.

    Args:
        alphas_cumprod: float64. The last entry may be zero, where the model does not predict noise.
        prediction_type: "epsilon", "v_prediction", "sample" or "original_sample".

    Raises:
        ValueError: predicted noise where there is no signal, a table of other kind.
    """

    divided = False

    def __init__(self, alphas_cumprod: Tensor, prediction_type: str) -> None:
        self._denoiser = PREDICTIONS[prediction_type]
        self.diffusion = table = TabulatedVP(alphas_cumprod)
        self.snr_range = table.snr_range
        if bool(alphas_cumprod[-1] == 0):
            if prediction_type == "epsilon":
                raise ValueError(
                    "prediction_type must be 'v_prediction' or 'sample' with betas that leave no signal at the last "
                    "timestep, where noise says nothing of the data; got 'epsilon'"
                )
            self.silent = float(len(alphas_cumprod) - 1)
            self.snr_range = max(self.snr_range[0], FIRST_SNR), self.snr_range[1]


class FlowLevels(NoiseLevels):
    """Flow matching: timesteps are the t of `Flow` times their number."""

    diffusion = Flow()
    snr_range = FIRST_SNR, LAST_SNR
    _denoiser = FlowDenoiser

    def __init__(self, num_train_timesteps: int) -> None:
        self.unit = self.silent = float(check_integer("num_train_timesteps", num_train_timesteps, 2))


class EDMLevels(NoiseLevels):
    """EDM's, in the variables that the network sees; timesteps are log(t)/4.

    Karras et al. 2022 (arXiv 2206.00364), table 1: x = c_in z of the sample z = x_0 + t eps. With alpha = c_in and
    sigma = t c_in their D = c_skip z + c_out F is sigma_data^2 alpha x + sigma_data sigma F; of "v_prediction" F has
    the other sign.

    Args:
        sigma_data, sigma_min, sigma_max: > 0, in the order of the last two.
        prediction_type: "epsilon" or "v_prediction".

    Raises:
        TypeError, ValueError: other arguments.
    """

    def __init__(self, sigma_data: float, sigma_min: float, sigma_max: float, prediction_type: str) -> None:
        self._sigma_data = check_real("sigma_data", sigma_data, minimum=0.0, strict=True)
        check_choice("prediction_type", prediction_type, ("epsilon", "v_prediction"))
        self._sign = 1.0 if prediction_type == "epsilon" else -1.0
        check_real("sigma_max", sigma_max, minimum=LAST_SNR**-0.5, strict=True)
        self.diffusion = EDM(sigma_min, sigma_max)
        low, high = (self.diffusion.snr(t).item() for t in (sigma_max, sigma_min))
        self.snr_range = low, min(high, LAST_SNR)

    def timestep(self, t: Tensor) -> Tensor:
        """log(t)/4."""
        return t.log() / 4

    def time(self, timestep: Tensor) -> Tensor:
        """The inverse."""
        return torch.exp(4 * timestep)

    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """c_in and t c_in."""
        c_in = torch.rsqrt(t**2 + self._sigma_data**2)
        return c_in, t * c_in

    def denoised(self, x: Tensor, prediction: Tensor, alpha: float, sigma: float) -> Tensor:
        """c_skip z + c_out F."""
        return self._sigma_data * (self._sigma_data * alpha * x + self._sign * sigma * prediction)

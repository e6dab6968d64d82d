"""The noise levels of a model of diffusers, in the variables of its pipeline: x = alpha x_0 + sigma eps at a timestep.

The three kinds have alpha = sqrt(snr)/n and sigma = 1/n with another norm n(snr), and other timesteps.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from sdesig._checks import check_choice, check_integer, check_real
from sdesig.images.diffusers_config import FLOW_PREDICTION
from sdesig.images.teachers import PREDICTIONS
from sdesig.sde import EDM, Flow, FlowDenoiser, TabulatedVP

FIRST_SNR, LAST_SNR = 1 / 80**2, 1e4
"""Where a run begins if the model's last timestep has no signal, and where one without a table ends."""


class NoiseLevels(ABC):
    """What a scheduler needs to know of a model.

    Attributes:
        snr_range: first and last SNR of a run.
        silent: the model's last timestep, if it has no signal: it is asked there, with the latents.
        divided: whether samples are returned as x/alpha, because alpha is not 1 at the end.
    """

    snr_range: tuple[float, float]
    silent: float | None = None
    divided = True

    @abstractmethod
    def timestep(self, snr: Tensor) -> Tensor:
        """The timestep at which the SNR is `snr`, in float64."""

    @abstractmethod
    def snr(self, timestep: Tensor) -> Tensor:
        """The inverse, for timesteps at which there is signal."""

    @abstractmethod
    def norm(self, snr: Tensor) -> Tensor:
        """n(snr)."""

    @abstractmethod
    def denoised(self, x: Tensor, prediction: Tensor, alpha: float, sigma: float) -> Tensor:
        """D of a sample and of what the model said there."""

    def alpha_sigma(self, snr: Tensor) -> tuple[Tensor, Tensor]:
        """alpha and sigma at an SNR."""
        norm = self.norm(snr)
        return snr.sqrt() / norm, 1 / norm

    def alpha_sigma_at(self, timestep: Tensor) -> tuple[Tensor, Tensor]:
        """alpha and sigma at a timestep, whole or not, also one without signal."""
        silent = torch.zeros_like(timestep, dtype=torch.bool) if self.silent is None else timestep >= self.silent
        inside = self.timestep(torch.tensor(self.snr_range[0], dtype=torch.float64))
        alpha, sigma = self.alpha_sigma(self.snr(torch.where(silent, inside, timestep)))
        return alpha.masked_fill(silent, 0.0), sigma.masked_fill(silent, 1.0)


class TableLevels(NoiseLevels):
    """Variance preserving, by a table: n = sqrt(1 + snr), and timesteps are its indices.

    Args:
        alphas_cumprod: float64. The last entry may be zero, where the model does not predict noise.
        prediction_type: "epsilon", "v_prediction", "sample" or "original_sample".

    Raises:
        ValueError: another prediction type, predicted noise where there is no signal, a table of other kind.
    """

    divided = False

    def __init__(self, alphas_cumprod: Tensor, prediction_type: str) -> None:
        check_choice("prediction_type", prediction_type, (*PREDICTIONS, FLOW_PREDICTION))
        self._predicts = PREDICTIONS[prediction_type]
        self._table = TabulatedVP(alphas_cumprod)
        self.snr_range = self._table.snr_range
        if bool(alphas_cumprod[-1] == 0):
            if prediction_type == "epsilon":
                raise ValueError(
                    "prediction_type must be 'v_prediction' or 'sample' with betas that leave no signal at the last "
                    "timestep, where noise says nothing of the data; got 'epsilon'"
                )
            self.silent = float(len(alphas_cumprod) - 1)
            self.snr_range = max(self.snr_range[0], FIRST_SNR), self.snr_range[1]

    def timestep(self, snr: Tensor) -> Tensor:
        """Between the indices too."""
        return self._table.time(snr)

    def snr(self, timestep: Tensor) -> Tensor:
        """The SNR between the indices too."""
        return self._table.snr(timestep)

    def norm(self, snr: Tensor) -> Tensor:
        """sqrt(1 + snr)."""
        return torch.sqrt(1 + snr)

    def denoised(self, x: Tensor, prediction: Tensor, alpha: float, sigma: float) -> Tensor:
        """By the prediction type."""
        return self._predicts.denoised(x, prediction, alpha, sigma)


class FlowLevels(NoiseLevels):
    """Flow matching (`Flow`): n = 1 + sqrt(snr), and timesteps are t times their number."""

    snr_range = FIRST_SNR, LAST_SNR

    def __init__(self, num_train_timesteps: int) -> None:
        self.silent = float(check_integer("num_train_timesteps", num_train_timesteps, 2))

    def timestep(self, snr: Tensor) -> Tensor:
        """num_train_timesteps/(1 + sqrt(snr))."""
        assert self.silent is not None
        return self.silent * Flow().time(snr)

    def snr(self, timestep: Tensor) -> Tensor:
        """((1 - t)/t)^2."""
        assert self.silent is not None
        return Flow().snr(timestep / self.silent)

    def norm(self, snr: Tensor) -> Tensor:
        """1 + sqrt(snr)."""
        return 1 + snr.sqrt()

    def denoised(self, x: Tensor, prediction: Tensor, alpha: float, sigma: float) -> Tensor:
        """x - sigma u."""
        return FlowDenoiser.denoised(x, prediction, alpha, sigma)


class EDMLevels(NoiseLevels):
    """EDM's, in the variables that the network sees: n = sqrt(1 + sigma_data^2 snr), timesteps log(s)/4, s^2 = 1/snr.

    Karras et al. 2022 (arXiv 2206.00364), table 1: x = c_in z of the sample z = x_0 + s eps. With alpha = c_in and
    sigma = s c_in their D = c_skip z + c_out F is sigma_data^2 alpha x + sigma_data sigma F; of "v_prediction" F has
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
        low, high = (EDM(sigma_min, sigma_max).snr(s).item() for s in (sigma_max, sigma_min))
        self.snr_range = low, min(high, LAST_SNR)

    def timestep(self, snr: Tensor) -> Tensor:
        """log(s)/4."""
        return -snr.log() / 8

    def snr(self, timestep: Tensor) -> Tensor:
        """1/s^2."""
        return torch.exp(-8 * timestep)

    def norm(self, snr: Tensor) -> Tensor:
        """sqrt(1 + sigma_data^2 snr)."""
        return torch.sqrt(1 + self._sigma_data**2 * snr)

    def denoised(self, x: Tensor, prediction: Tensor, alpha: float, sigma: float) -> Tensor:
        """c_skip z + c_out F."""
        return self._sigma_data * (self._sigma_data * alpha * x + self._sign * sigma * prediction)

"""The path-average scheme as a scheduler of diffusers: training-free, one evaluation of the model a step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers import ConfigMixin, SchedulerMixin
from diffusers.configuration_utils import register_to_config
from diffusers.schedulers.scheduling_ddpm import DDPMSchedulerOutput
from torch import Tensor

from sdesig._checks import check_choice, check_floating, check_integer, check_real
from sdesig.brownian import BrownianPath, SNRClock
from sdesig.distillation.reference import read_reference, reference_on
from sdesig.images.path_average_run import PathAverageRun
from sdesig.images.seeds import draw_seeds
from sdesig.images.teachers import PREDICTIONS, TABLES, check_levels, scheduler_of
from sdesig.sde import CanonicalDenoiser, CanonicalSDE, GaussianReference, TabulatedVP
from sdesig.sde.canonical import from_canonical, to_canonical
from sdesig.solvers.path_average import check_eta, evaluation_snr

_IGNORED = {"eta", "use_clipped_model_output"}


class PathAverageScheduler(SchedulerMixin, ConfigMixin):
    """Samples of a variance-preserving model by `sdesig.solvers.PathAverage`; the image of a seed is one for all steps.

    The latents and one seed per image, drawn from the generators at the first step, fix a Brownian path. More steps
    follow the same path more closely: 20 and 40 steps give almost the same image.

    - What a step returns is the next evaluation point u*, as x_t at the time `timesteps[i]` of tau*, and not the state,
      which stays inside. The last step returns the state: x_t at the first timestep of the table, with the little noise
      that is there, as all samples of this package. Callbacks see evaluation points; a change that they make to one
      moves the state by as much. `pred_original_sample` is D = E[x_0 | x_t], never clipped nor thresholded.
    - Pipelines hand their latents, N(0, I), to the model at once. So the first evaluation is at the start of the first
      step, which is u_1 = u_0 + h Q(u_0) + dM; all later steps are path-average steps. Q is zero for Gaussian data of
      the reference's law, and there the first step is exact too; else its error comes from what a model at the lowest
      SNR can tell of the data beyond that law, which is next to nothing.
    - Steps are even in log-SNR from the last timestep of the table to the first. A start in between (`set_begin_index`,
      or the first timestep that `step` gets) takes the latents as x_t of an evaluation point, goes from there to the
      end of its step in the same way, and follows the same law.
    - A list of generators gives one seed from each, so that an image does not depend on its batch; one generator gives
      all; None means torch's global one.
    - Computed in float32, or float64 for such samples, on the samples' device; returned in their dtype.

    `PathAverageScheduler.from_config(pipeline.scheduler.config)` takes the table and prediction type of any scheduler
    with betas. A pipeline saved with it loads again by `from_pretrained`, where `from sdesig.images import
    PathAverageScheduler` has been run before: diffusers imports no foreign module for a folder. `DDIMPipeline` turns
    what it is made with into a DDIMScheduler: set `pipeline.scheduler` instead.

    Args:
        num_train_timesteps, beta_start, beta_end, beta_schedule, trained_betas: the table, as of a `DDPMScheduler`.
        prediction_type: "epsilon", "v_prediction" or "sample".
        rescale_betas_zero_snr: must be False.
        eta: stochasticity of the reverse SDE, see `CanonicalSDE`: 0 <= eta < sqrt(3), 0 is the probability flow. The
            eta that DDIMPipeline hands to `step` is DDIM's, and is ignored.
        reference_variance: c >= 0 of a Gaussian reference N(0, c); 1 suits latents of about unit variance.
        reference_file: safetensors file of `sdesig.distillation.reference.write_reference`, in its place. It is not
            copied by `save_pretrained`.
        levels: the path lives on 2^levels cells, which bounds the number of steps.

    Raises:
        FileNotFoundError, TypeError, ValueError: arguments out of range; betas that leave no signal at the end; a file
            that is no reference.
    """

    _compatibles: ClassVar[list[str]] = list(TABLES)
    order = 1
    init_noise_sigma = 1.0

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: str = "linear",
        trained_betas: Sequence[float] | None = None,
        prediction_type: str = "epsilon",
        rescale_betas_zero_snr: bool = False,
        eta: float = 1.0,
        reference_variance: float = 0.25,
        reference_file: str | None = None,
        levels: int = 10,
    ) -> None:
        check_choice("prediction_type", prediction_type, tuple(PREDICTIONS))
        check_eta(check_real("eta", eta, minimum=0.0))
        self._levels = check_integer("levels", levels, 1, 30)
        betas = {name: self.config[name] for name in ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule")}
        table = scheduler_of({"_class_name": "DDPMScheduler", **betas, "trained_betas": trained_betas}).alphas_cumprod
        if rescale_betas_zero_snr or not bool((table > 0).all()):
            raise ValueError("betas must leave signal at the last timestep; rescale_betas_zero_snr must be False")
        self._table = TabulatedVP(table)
        reference = GaussianReference(0.0, check_real("reference_variance", reference_variance, minimum=0.0))
        if reference_file is not None:
            reference = read_reference(Path(reference_file))
        self._denoiser = PREDICTIONS[prediction_type](self._told, self._table)
        self._sde = self._sde_of(reference)
        self.num_inference_steps: int | None = None
        self.timesteps = torch.zeros(0)

    @classmethod
    def from_config(cls, config: Any = None, return_unused_kwargs: bool = False, **kwargs: Any) -> Any:
        """As of every scheduler, from the configuration of any with betas.

        Raises:
            TypeError, ValueError: a configuration of another kind, or one that the class does not take.
        """
        if not isinstance(config, Mapping):
            raise TypeError(f"config must be a dictionary, a scheduler's configuration; got {config!r}")
        name = config.get("_class_name", "scheduler")
        if name not in ("scheduler", cls.__name__, *TABLES) or "beta_schedule" not in config:
            raise ValueError(
                f"config must be that of a scheduler with betas, one of {', '.join(TABLES)}: PathAverageScheduler "
                f"samples variance-preserving models only, not EDM, variance exploding or flow; got a {name} with "
                f"{', '.join(sorted(key for key in config if key[0] != '_'))}"
            )
        check_levels(name, config)
        # Values that were defaults of the other class count: this class may have other defaults.
        given = {key: value for key, value in config.items() if key != "_use_default_values"}
        return super().from_config(given, return_unused_kwargs=return_unused_kwargs, **kwargs)

    def set_timesteps(self, num_inference_steps: int, device: torch.device | str | None = None) -> None:
        """The times of evaluation, real numbers in float32, and a new run.

        Raises:
            TypeError, ValueError: not a number from 1 to 2^levels.
        """
        steps = check_integer("num_inference_steps", num_inference_steps, 1, 2**self._levels)
        low, high = self._table.snr_range
        path = BrownianPath(low, high, (1,), seeds=[0], clock=SNRClock(), levels=self._levels)
        self._grid = path.grid(steps)
        fraction = 1 / 2 - self._sde.eta**2 / 6
        inner = [evaluation_snr(self._sde, self._grid[k], self._grid[k + 1], fraction) for k in range(1, steps)]
        self._snrs = torch.stack([self._grid[0], *inner])
        self.timesteps = self._table.time(self._snrs).float().to(device)
        self.num_inference_steps = steps
        self._begin: int | None = None
        self._run: PathAverageRun | None = None

    def set_begin_index(self, begin_index: int = 0) -> None:
        """The number of the timestep to start at, as image-to-image pipelines do; 0 <= begin_index < steps."""
        if self.num_inference_steps is None:
            raise RuntimeError("set_begin_index needs set_timesteps before it")
        self._begin = check_integer("begin_index", begin_index, 0, self.num_inference_steps - 1)

    def scale_model_input(self, sample: Tensor, timestep: Any = None) -> Tensor:
        """The sample: evaluation points are in the scale that the model knows."""
        return sample

    def step(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        return_dict: bool = True,
        **ignored: Any,
    ) -> DDPMSchedulerOutput | tuple[Tensor, Tensor]:
        """One step; what it returns is described in the class.

        Args:
            model_output: at the sample, (batch, *event); of twice as many channels (learned variances), the first half.
            timestep: that of the sample; the first call finds its place by it, unless there is a `begin_index`.
            sample: the latents in the first call, later what the last one returned; (batch, *event).
            generator: one, or one per image; used by the first call only, and not at eta = 0.
            return_dict: False for (prev_sample, pred_original_sample).
            ignored: DDIM's `eta` and `use_clipped_model_output`.

        Raises:
            RuntimeError: no `set_timesteps` before, or no steps left.
            TypeError, ValueError: arguments of other shapes or types, a timestep that is none of `timesteps`.
        """
        if ignored.keys() - _IGNORED:
            raise TypeError(f"step takes no {', '.join(sorted(ignored.keys() - _IGNORED))}")
        if self.num_inference_steps is None or (self._run and self._run.number == self.num_inference_steps):
            raise RuntimeError("step needs set_timesteps before the first step of every run")
        check_floating("sample", sample)
        if check_floating("model_output", model_output).ndim > 1 and model_output.shape[1] == 2 * sample.shape[1]:
            model_output = model_output[:, : sample.shape[1]]
        if model_output.shape != sample.shape:
            raise ValueError(
                f"model_output must have the sample's shape {tuple(sample.shape)}; got {tuple(model_output.shape)}"
            )
        x = sample.to(torch.promote_types(sample.dtype, torch.float32))
        if self._run is None:
            self._run = self._start(x, timestep, generator)
        snr, reference, eta = self._snrs[self._run.number], self._run.sde.reference, self._run.sde.eta
        y, point = self._reference_variables(x)
        self._output = model_output.to(x)
        denoised = self._denoiser(x, self._table.time(snr))
        point, snr = self._run.advance(snr, point, reference.drift(denoised, y, snr, eta))
        returned = from_canonical(self._table, reference.from_reference(point, snr, eta), snr, eta)[0].to(sample)
        if self._run.number < self.num_inference_steps:
            self._run.expected = self._reference_variables(returned.to(x))[1]
        denoised = denoised.to(sample)
        return DDPMSchedulerOutput(returned, denoised) if return_dict else (returned, denoised)

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """x_t = alpha x_0 + sigma noise, shape (batch, *event), at timesteps (batch,) or (1,), whole or not."""
        t = timesteps.detach().cpu().double()
        alpha, sigma = (
            level.to(original_samples).reshape(-1, *[1] * (original_samples.ndim - 1))
            for level in (self._table.alpha(t), self._table.sigma(t))
        )
        return alpha * original_samples + sigma * noise

    def __len__(self) -> int:
        return self.config["num_train_timesteps"]

    def _told(self, x: Tensor, t: Tensor) -> Tensor:
        """The network of the denoiser: what the model said in this step."""
        return self._output

    def _sde_of(self, reference: GaussianReference) -> CanonicalSDE:
        eta = float(self.config["eta"])
        return CanonicalSDE(CanonicalDenoiser(self._denoiser, self._table, eta), reference=reference, eta=eta)

    def _start(self, x: Tensor, timestep: float | Tensor, generator: Any) -> PathAverageRun:
        """The run of a batch from the step of the begin index, else of the timestep."""
        begin, times = self._begin, self.timesteps.tolist()
        if begin is None:
            if float(timestep) not in times:
                raise ValueError(f"timestep must be one of the scheduler's timesteps; got {timestep}")
            begin = times.index(float(timestep))
        sde = self._sde
        if self.config["reference_file"] is not None:
            sde = self._sde_of(reference_on(sde.reference, x.device))
        sde.reference.check_event(x)
        path = None
        if sde.eta > 0:
            options: dict[str, Any] = {"levels": self._levels, "dtype": x.dtype, "device": x.device}
            seeds = draw_seeds(generator, len(x))
            path = BrownianPath(*self._table.snr_range, tuple(x.shape), seeds=seeds, clock=sde.clock, **options)
        return PathAverageRun(sde, path, self._grid, begin)

    def _reference_variables(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """y and u of x_t at the next evaluation."""
        assert self._run is not None
        snr, sde = self._snrs[self._run.number], self._run.sde
        y, _ = to_canonical(self._table, x, self._table.time(snr), sde.eta)
        return y, sde.reference.to_reference(y, snr, sde.eta)[0]

"""The path-average scheme as a scheduler of diffusers: training-free, one evaluation of the model a step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers import ConfigMixin, SchedulerMixin
from diffusers.configuration_utils import register_to_config
from diffusers.schedulers.scheduling_ddpm import DDPMSchedulerOutput
from torch import Tensor

from sdesig._checks import check_choice, check_floating, check_integer, check_real, unread
from sdesig._devices import beside, plus
from sdesig._random import draw_seeds, seeds_of
from sdesig.brownian import BrownianPath
from sdesig.images.diffusers_config import (
    FLOW_PREDICTION,
    OF_MODELS,
    OWN,
    check_edm_config,
    check_flow_config,
    check_table_config,
    is_edm,
    is_flow,
)
from sdesig.images.diffusers_unet import import_diffusers
from sdesig.images.noise_levels import EDMLevels, FlowLevels, NoiseLevels, TableLevels
from sdesig.images.teachers import PREDICTIONS, TABLES
from sdesig.sampling import CanonicalSDE, GaussianReference, PathAverage, PathSpace, SNRDenoiser
from sdesig.sampling.path_average import check_eta, evaluation_fraction, evaluation_snr
from sdesig.sampling.path_space import in_todays_words

_IGNORED = {"eta", "use_clipped_model_output"}
_SCHEME = PathAverage(correction=0.0)
_NO_SIGNAL = 1e-30


@dataclass(frozen=True, eq=False, repr=False)
class PathAverageRun:
    """The scheme on one batch, before one of its evaluations, in the variables u of the SDE's reference.

    It never changes: schedulers that are copied share one, and go on by themselves.

    Attributes:
        sde: on the device of the samples; only its reference, clocks and eta are used, for the pipeline asks the model.
        path: None for the probability flow.
        shape: shape of the samples, (batch, *event).
        number: number of the next evaluation.
        u, increment: state and increment of the noise of its step, (batch, *event), None before the first.
        given: its sample, as the last step gave it away.
    """

    sde: CanonicalSDE
    path: BrownianPath | None
    shape: tuple[int, ...]
    number: int
    u: Tensor | None = None
    increment: Tensor | None = None
    given: Tensor | None = None

    def __repr__(self) -> str:
        return f"PathAverageRun(before evaluation {self.number} of samples of shape {self.shape}, eta={self.sde.eta:g})"


class PathAverageScheduler(SchedulerMixin, ConfigMixin):
    """Samples a diffusion or flow model by `sdesig.sampling.PathAverage`; a seed has one path, at all step counts.

    The latents and one seed per image, drawn from the generators at the first step, fix a Brownian path. More steps
    follow the same path more closely, and most images change little from 20 to 40 steps. Not all: a path that passes
    between two images may end at either.

    - What a step returns is the next evaluation point u*, as x_t at the time `timesteps[i]` of tau*, and not the state,
      which stays inside. The last step returns the state: x_t at the first timestep of the table, with the little noise
      that is there, as all samples of this package. Callbacks see evaluation points; a change that they make to one
      moves the state by as much. `pred_original_sample` is D = E[x_0 | x_t], never clipped nor thresholded.
    - Pipelines hand their latents, N(0, I), to the model at once. So the first evaluation is at the start of the first
      step, which is u_1 = u_0 + h Q(u_0) + dM; all later steps are path-average steps. Q is zero for Gaussian data of
      the reference's law, and there the first step is exact too; else its error comes from what a model at the lowest
      SNR can tell of the data beyond that law, which is next to nothing.
    - Where the last time has no signal (flow matching; tables of zero terminal SNR) the model is asked there, with the
      latents, and says the mean of the data, from which the first step goes on. It begins at the SNR 1/6400, with the
      data's mean for the signal that there is in them.
    - Steps are even in log-SNR from the last timestep of the table to the first. Those of flows and of EDM's kind end
      at the SNR 10^4, and what is returned there is x_t/alpha. How a flow's times are shifted, or EDM's spaced, makes
      no difference to such steps.
    - A start in between (`set_begin_index`, or the first timestep that `step` gets) takes the latents as x_t of an
      evaluation point, goes from there to the end of its step in the same way, and follows the same law.
    - A list of generators gives one seed from each, so that an image does not depend on its batch; one generator gives
      all. Where a pipeline hands on no generator (those of DiT, LDM, Stable Diffusion 3 and Flux do not), the seed of
      an image is a hash of its latents: the same latents give the same image, and what drew them decides.
    - Timesteps are real numbers. A pipeline that looks up a table of its own by them cannot be run (of Kandinsky 2.1
      the one from image to image), nor with any other scheduler that has such timesteps.
    - Computed in float32, or float64 for such samples, on the samples' device; returned in their dtype.

    `PathAverageScheduler.from_config(pipeline.scheduler.config)` takes the table and prediction type of any scheduler
    with betas, and the model of a flow-matching one, or of one with EDM's noise levels. It goes by the keys: one that
    says something of the model and is not honoured here is refused. A copy, shallow or deep, of a scheduler goes on by
    itself, also from the middle of a run. A pipeline saved with it loads again by `from_pretrained`, where `from
    sdesig.images import PathAverageScheduler` has been run before: diffusers imports no foreign module for a folder.
    `DDIMPipeline` turns what it is made with into a DDIMScheduler: set `pipeline.scheduler` instead.

    Args:
        num_train_timesteps, beta_start, beta_end, beta_schedule, trained_betas: the table, as for a `DDPMScheduler`, or
            for a `HeunDiscreteScheduler` where the schedule is "exp".
        prediction_type: "epsilon", "v_prediction" or "sample"; "flow_prediction" for noise less data of a model of flow
            matching, which has no table: its timesteps are num_train_timesteps times the t of `Flow`.
        rescale_betas_zero_snr: whether the table is rescaled so that its last timestep has no signal (Lin et al. 2024,
            arXiv 2305.08891, algorithm 1), for a model that predicts v or the sample.
        snr_shift_scale: by how much the SNRs of the table are divided, > 0, before it is rescaled, as CogVideoX's
            schedulers do.
        sigma_data, sigma_min, sigma_max: where the first is given, the model has EDM's preconditioning (`EDMDenoiser`),
            and these noise levels (default .002 and 80) instead of a table; it is "epsilon" or, with F of the other
            sign, "v_prediction". Samples are c_in z all along, what the network sees.
        eta: stochasticity of the reverse SDE, see `CanonicalSDE`: 0 <= eta < sqrt(3), 0 is the probability flow. The
            eta that DDIMPipeline hands to `step` is DDIM's, and is ignored.
        reference_variance: c >= 0 of a Gaussian reference N(0, c); 1 suits latents of about unit variance.
        reference_file: safetensors file that `GaussianReference.save` wrote, in its place. It is not copied by
            `save_pretrained`.
        cells: cells of the master grid of the path, which bound the number of steps.
        slack: how far a step may end from its place, see `PathSpace`.

    Raises:
        FileNotFoundError, TypeError, ValueError: arguments out of range; a model that predicts noise with a table that
            ends without signal; a file that is no reference.
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
        snr_shift_scale: float = 1.0,
        sigma_data: float | None = None,
        sigma_min: float | None = None,
        sigma_max: float | None = None,
        eta: float = 1.0,
        reference_variance: float = 0.25,
        reference_file: str | None = None,
        cells: int = 1280,
        slack: float = 0.05,
    ) -> None:
        check_choice("prediction_type", prediction_type, (*PREDICTIONS, FLOW_PREDICTION))
        check_eta(check_real("eta", eta, minimum=0.0))
        shift = check_real("snr_shift_scale", snr_shift_scale, minimum=0.0, strict=True)
        table = _table(num_train_timesteps, beta_start, beta_end, beta_schedule, trained_betas)
        self._levels: NoiseLevels
        if sigma_data is None and not sigma_min is sigma_max is None:
            raise ValueError(f"sigma_data must be given with sigma_min and sigma_max; got {sigma_min} and {sigma_max}")
        if sigma_data is not None:
            least, most = 0.002 if sigma_min is None else sigma_min, 80.0 if sigma_max is None else sigma_max
            self._levels = EDMLevels(sigma_data, least, most, prediction_type)
        elif prediction_type == FLOW_PREDICTION:
            self._levels = FlowLevels(num_train_timesteps)
        else:
            table = table / (shift + (1 - shift) * table)
            if rescale_betas_zero_snr:
                alphas = table.sqrt()
                table = ((alphas - alphas[-1]) / (1 - alphas[-1] / alphas[0])) ** 2
            self._levels = TableLevels(table, prediction_type)
        reference = GaussianReference(0.0, check_real("reference_variance", reference_variance, minimum=0.0))
        if reference_file is not None:
            reference = GaussianReference.load(Path(reference_file))
        self._sde = self._sde_of(reference)
        one = GaussianReference(0.0, 0.0)  # of which the times of steps do not depend
        self._space = PathSpace((1,), self._levels.snr_range, one, cells, slack=slack)
        self._mark()
        self.num_inference_steps: int | None = None
        self.timesteps = torch.zeros(0)

    @classmethod
    def from_config(cls, config: Any = None, return_unused_kwargs: bool = False, **kwargs: Any) -> Any:
        """A scheduler made from the configuration of another one, see the class.

        Another scheduler made of the configuration that results is what it would be if made of `config` itself: what
        was a default of the other class counts here, where this class may have another, and stays marked as one.

        Raises:
            TypeError, ValueError: a configuration of another kind, or one that the class does not take.
        """
        config = kwargs.pop("pretrained_model_name_or_path", config)  # as it was called once
        if not isinstance(config, Mapping):
            raise TypeError(f"config must be a dictionary, a scheduler's configuration; got {config!r}")
        if set(OWN) - {"cells", "slack"} <= config.keys():  # our own, maybe made earlier
            config = in_todays_words(config)
        whole = {**config, **{key: value for key, value in kwargs.items() if key in OF_MODELS}}
        if is_edm(whole):
            check_edm_config("config", whole)
            config = {"sigma_data": 1.0, **config}  # of Stable Video Diffusion's, which does not say it
        elif is_flow(whole):
            check_flow_config("config", whole)
            config = {**config, "prediction_type": FLOW_PREDICTION, "use_flow_sigmas": True}
        else:
            check_table_config("config", whole, ("snr_shift_scale",))
        defaults, own = set(config.get("_use_default_values", ())), cls._get_init_keys(cls)
        given = {key: value for key, value in config.items() if key in own or key not in defaults}
        given.pop("_use_default_values", None)
        made = super().from_config(given, return_unused_kwargs=return_unused_kwargs, **kwargs)
        scheduler = made[0] if return_unused_kwargs else made
        scheduler._mark(*(defaults & own - kwargs.keys()))
        return made

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: torch.device | str | None = None,
        sigmas: Sequence[float] | None = None,
        mu: float | None = None,
    ) -> None:
        """Choose the times of evaluation, `timesteps`, real numbers in float32, and begin a new run.

        Args:
            num_inference_steps: evaluations of the model.
            device: of `timesteps`.
            sigmas: of flow matching, as the pipelines of Flux hand them over, 1 to 1/n in even steps: their number
                alone counts.
            mu: by how much such pipelines shift the times, which makes no difference.

        Raises:
            TypeError, ValueError: not a number from 1 to `cells`, other sigmas.
        """
        if sigmas is not None:
            found = torch.as_tensor(sigmas, dtype=torch.float64)
            n = len(found) if found.ndim == 1 and isinstance(self._levels, FlowLevels) else 0
            even = torch.linspace(1.0, 1 / max(n, 1), n, dtype=torch.float64)
            if n == 0 or num_inference_steps not in (None, n) or not torch.allclose(found, even, rtol=0, atol=1e-4):
                raise ValueError(
                    "sigmas must be None or, with flow matching, num_inference_steps values, even from 1 to 1/n; got "
                    f"{sigmas}"
                )
            num_inference_steps = n
        steps = check_integer("num_inference_steps", num_inference_steps, 1, self._space.cells)
        grid = self._space.times(steps)
        inner = evaluation_snr(self._sde, grid[1:-1], grid[2:], evaluation_fraction(self._sde.eta))
        snrs = torch.cat([grid[:1], inner, grid[-1:]])
        times = self._levels.diffusion.time(snrs)
        alphas, stds = self._levels.alpha_sigma(times)
        times = self._levels.timestep(times)
        scales = (alphas / stds) ** (self._sde.eta**2) / stds  # y/x, see `sdesig.sampling.canonical`
        if self._levels.silent is not None:  # the latents are noise there, of variance 1
            times[0], scales[0], alphas[0], stds[0] = self._levels.silent, scales[0] * stds[0], 0.0, 1.0
        if self._levels.divided:
            scales[-1] *= alphas[-1]
        timesteps = times[:-1].float()
        # as floats: they stay on the CPU, and mix with samples of any device
        self._grid, self._snrs, self._scales, self._times = (
            values.tolist() for values in (grid, snrs, scales, timesteps)
        )
        self._alphas_sigmas = list(zip(alphas.tolist(), stds.tolist(), strict=True))
        self.timesteps = timesteps.to(device)
        if isinstance(self._levels, FlowLevels):
            self.sigmas = torch.cat([timesteps / self._levels.unit, torch.zeros(1)])  # which WanPipeline reads
        self.num_inference_steps = steps
        self._begin: int | None = None
        self._run: PathAverageRun | None = None

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Start at the timestep of this number, as image-to-image pipelines do; 0 <= begin_index < steps."""
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
        """Take one step, from an evaluation of the model to the sample of the next one; see the class.

        Args:
            model_output: at the sample, (batch, *event); of twice as many channels (learned variances), the first half.
            timestep: that of the sample. The first call finds its place by it, unless there is a `begin_index`; those
                that follow must go through `timesteps` in their order.
            sample: the latents in the first call, later what the last one returned; (batch, *event).
            generator: one, or one per image; used by the first call only, and not at eta = 0. Without one the seeds are
                hashes of the latents.
            return_dict: False for (prev_sample, pred_original_sample).
            ignored: DDIM's `eta` and `use_clipped_model_output`.

        Raises:
            RuntimeError: no `set_timesteps` before, or no steps left.
            TypeError, ValueError: arguments of other shapes or types, another timestep than the next one, another shape
                than in the first call.
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
        x, time = sample.to(torch.promote_types(sample.dtype, torch.float32)), self._number(timestep)
        run = self._run or self._start(x, self._place(timestep, time), generator)
        if time != self._times[run.number]:
            raise ValueError(
                f"timestep must be {self.timesteps[run.number]}, that of step {run.number}, which is the next one of "
                f"this run; got {timestep}"
            )
        if tuple(sample.shape) != run.shape:
            raise ValueError(f"sample must have the run's shape {run.shape}; got {tuple(sample.shape)}")
        denoised = self._levels.denoised(x, model_output.to(x), *self._alphas_sigmas[run.number])
        with unread():
            run, u = self._advance(run, x, denoised)
            u = run.sde.reference.from_reference(u, self._snrs[run.number], run.sde.eta)
        returned, denoised = (u / self._scales[run.number]).to(sample), denoised.to(sample)
        self._run = replace(run, given=returned.clone())  # what callbacks are given they may change in place
        return DDPMSchedulerOutput(returned, denoised) if return_dict else (returned, denoised)

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """x_t = alpha x_0 + sigma noise, shape (batch, *event), at timesteps (batch,) or (1,), whole or not.

        Between the last two of a table that ends without signal there are none.
        """
        alpha, std = (
            level.to(original_samples).reshape(-1, *[1] * (original_samples.ndim - 1))
            for level in self._levels.alpha_sigma_at(timesteps.detach().cpu().double())
        )
        return alpha * original_samples + std * noise

    def scale_noise(self, sample: Tensor, timestep: Tensor, noise: Tensor) -> Tensor:
        """`add_noise`, as flow-matching pipelines call it."""
        return self.add_noise(sample, noise, timestep)

    def __len__(self) -> int:
        return self.config["num_train_timesteps"]

    def _mark(self, *defaults: str) -> None:
        """Mark these values as defaults, too, and none of our own: all others drop what is marked, so it would get lost
        on the way through another class."""
        marked = {*self.config.get("_use_default_values", ()), *defaults} - {*OWN}
        self.register_to_config(_use_default_values=sorted(marked))

    def _sde_of(self, reference: GaussianReference) -> CanonicalSDE:
        eta = float(self.config["eta"])
        return CanonicalSDE(SNRDenoiser(_asked_by_the_pipeline, eta), reference=reference, eta=eta)

    def _number(self, timestep: float | Tensor) -> float:
        """A timestep as a float. One of `timesteps` is known by its place: a look at it would wait for the device."""
        if not isinstance(timestep, Tensor) or timestep.numel() != 1:
            return check_real("timestep", timestep)
        own = self.timesteps
        if (timestep.dtype, timestep.device) == (own.dtype, own.device):
            number, rest = divmod(timestep.data_ptr() - own.data_ptr(), own.element_size())
            if rest == 0 and 0 <= number < len(self._times):
                return self._times[number]
        return check_real("timestep", timestep.item())

    def _place(self, timestep: float | Tensor, time: float) -> int:
        """The number of a run's first step: the begin index, or that of the timestep, of this time."""
        if self._begin is not None:
            return self._begin
        if time not in self._times:
            raise ValueError(f"timestep must be one of the scheduler's timesteps; got {timestep}")
        return self._times.index(time)

    def _start(self, x: Tensor, begin: int, generator: Any) -> PathAverageRun:
        """The run of a batch from a step on."""
        sde = self._sde
        if self.config["reference_file"] is not None:
            sde = self._sde_of(sde.reference.to(x.device))
        sde.reference.check_event(x)
        path = None
        if sde.eta > 0:
            path = BrownianPath(
                self._grid[0],
                self._grid[-1],
                tuple(x.shape),
                seeds=seeds_of(x) if generator is None else draw_seeds(generator, len(x)),
                clock=sde.clock,
                cells=self._space.cells,
                dtype=x.dtype,
                device=x.device,
            )
        return PathAverageRun(sde, path, tuple(x.shape), begin)

    def _advance(self, run: PathAverageRun, x: Tensor, denoised: Tensor) -> tuple[PathAverageRun, Tensor]:
        """The run after an evaluation, D at the sample x, and u at the next one; after the last, u at the end."""
        sde, number, reference = run.sde, run.number, run.sde.reference
        snr, scale, (start, end) = self._snrs[number], self._scales[number], self._grid[number : number + 2]
        y = scale * x
        if number == 0 and self._levels.silent is not None:  # asked without signal, where y = 0: D is the data's mean
            drift = reference.drift(denoised, torch.zeros_like(x), _NO_SIGNAL, sde.eta)
            y = plus(y, snr ** ((1 + sde.eta**2) / 2), denoised)
        else:
            drift = reference.drift(denoised, y, snr, sde.eta)
        if run.given is None:
            u, increment = reference.to_reference(y, snr, sde.eta)[0], self._noise(run, number, x)[0]
            if run.path is not None:
                whole, part = (run.path.clock.length(first, end) for first in (start, snr))
                increment = increment * beside(torch.as_tensor(part / whole).sqrt(), x)
            start = snr
        else:
            assert run.u is not None
            assert run.increment is not None
            # with what a callback changed in the sample, which is nothing as a rule
            u = plus(run.u, scale, reference.displacement(x - run.given.to(x), snr, sde.eta))
            increment = run.increment
        u, number = sde.moved(start, end, u, drift, increment), number + 1
        if number == self.num_inference_steps:
            return replace(run, number=number), u
        noise, after = self._noise(run, number, x), self._grid[number + 1]
        point = _SCHEME.evaluation_point(sde, end, self._snrs[number], after, u, drift, (noise,))
        return replace(run, number=number, u=u, increment=noise[0].clone()), point

    def _noise(self, run: PathAverageRun, number: int, x: Tensor) -> Tensor:
        """What the scheme takes of the path in a step, (depth, *shape)."""
        if run.path is None:
            return x.new_zeros(1, *x.shape)
        return _SCHEME.noise("additive", run.path.partial_signatures(self._grid[number : number + 2]))[0][0]


def _asked_by_the_pipeline(y: Tensor, snr: Tensor) -> Tensor:
    """The denoiser of the scheduler's SDE, which nothing here asks."""
    raise RuntimeError("the pipeline asks the model, and hands to step what it says")


def _table(steps: int, start: float, end: float, schedule: str, betas: Sequence[float] | None) -> Tensor:
    """alphas_cumprod, float64; raise TypeError or ValueError for what is no table."""
    check_integer("num_train_timesteps", steps, 2)
    for name, value in (("beta_start", start), ("beta_end", end)):
        check_real(name, value)
    kind = "HeunDiscreteScheduler" if schedule == "exp" else "DDPMScheduler"
    try:
        scheduler = getattr(import_diffusers(), kind)(steps, start, end, schedule, trained_betas=betas)
    except NotImplementedError:
        raise ValueError(f"beta_schedule must be one that diffusers has; {schedule!r} is not implemented") from None
    except (RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"trained_betas must be a sequence of numbers; got {betas!r} ({error})") from None
    return scheduler.alphas_cumprod.double()

"""A distilled generator as a pipeline of diffusers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Sized
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sdesig._checks import check_choice, check_integer
from sdesig._random import draw_seeds
from sdesig.evaluation import Row, to_uint8
from sdesig.images.diffusers_unet import import_diffusers
from sdesig.images.latent import KINDS, Autoencoder
from sdesig.images.model_card import check_results
from sdesig.images.pipeline_files import Parts, read_pipeline, upload_pipeline, write_pipeline
from sdesig.sigdeg import SigDEG
from sdesig.sigdeg.cells import CorrectedDenoiser
from sdesig.sigdeg.networks import networks_in

OUTPUTS = ("pil", "np", "pt", "latent")
DTYPES = (torch.float32, torch.bfloat16)
SAVED = {"safe_serialization": (True,), "variant": (None,), "max_shard_size": (None,), "use_flashpack": (False,)}
"""Arguments of diffusers' `save_pretrained`, with the values that are supported: weights are one safetensors file."""
LOADED: dict[str, tuple[object, ...]] = {
    "use_safetensors": (None, True),
    "variant": (None,),
    **dict.fromkeys(("low_cpu_mem_usage", "trust_remote_code"), (None, False, True)),  # nothing here depends on them
    **dict.fromkeys(("use_onnx", "use_flashpack", "disable_mmap", "load_connected_pipeline"), (None, False)),
    **dict.fromkeys(("proxies", "device_map", "max_memory", "offload_folder", "offload_state_dict"), (None,)),
    **dict.fromkeys(("custom_pipeline", "custom_revision", "quantization_config"), (None,)),
    **dict.fromkeys(("provider", "sess_options", "provider_options"), (None,)),
}
"""Arguments of diffusers' `from_pretrained`, with the values that are supported."""
HUB = ("repo_id", "commit_message", "private", "token", "create_pr")
COMPONENTS = ("generator", "vae")

DiffusionPipeline: Any = import_diffusers().DiffusionPipeline
StepCallback = Callable[[Any, int, Tensor, dict[str, Tensor]], Mapping[str, Tensor] | None]


class SigDEGPipeline(DiffusionPipeline):
    """Images of a `SigDEG`, in few steps: a seed is one image in every batch, and one path at any number of steps.

    Load it by its own name: diffusers' `DiffusionPipeline.from_pretrained` knows classes outside diffusers only by
    running code that lies beside the weights, and here there is none. With `.to(torch.bfloat16)` the network computes
    in bfloat16 (autocast); its weights and the path stay in float32.

    Args:
        generator: generator of images, (1 or 3, height, width) in [-1, 1], or of latents, (channels, height, width).
        vae: an `AutoencoderKL` or `VQModel` that decodes latents.
        results: rows of an evaluation's report.json, for the model card.

    Raises:
        TypeError, ValueError: arguments of other types, events that are no images, a vae for other latents, results
            that are no such rows.
    """

    _optional_components = ["vae"]  # noqa: RUF012  # as diffusers has it
    _callback_tensor_inputs = ["latents"]  # noqa: RUF012

    generator: SigDEG

    def __init__(self, generator: SigDEG, vae: Any = None, results: Sequence[Row] | None = None) -> None:
        super().__init__()
        if not isinstance(generator, SigDEG):
            raise TypeError(f"generator must be a SigDEG; got {type(generator).__name__}")
        channels: tuple[int, ...] = (1, 3)
        if vae is not None:
            check_choice("vae", type(vae).__name__, KINDS)
            check_choice("channels of the vae's images", vae.config["out_channels"], channels)
            channels = (Autoencoder(vae).latent_channels,)
        if len(generator.space.event) != 3 or generator.space.event[0] not in channels:
            wanted = " or ".join(map(str, channels))
            raise ValueError(
                f"generator must have events ({wanted}, height, width){', or a vae' if vae is None else ''}; they are "
                f"{generator.space.event}"
            )
        self.results = check_results(results)
        self._card: str | None = None
        self.register_modules(generator=generator, vae=vae)

    @property
    def device(self) -> torch.device:
        """Device of the generator."""
        return self.generator.space.device

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type in which the networks compute."""
        return DTYPES[any(network.mixed_precision for network in networks_in(self.generator))]

    def to(
        self,
        device: torch.device | str | int | torch.dtype | None = None,
        dtype: torch.dtype | None = None,
        silence_dtype_warnings: bool = False,
    ) -> SigDEGPipeline:
        """Move to a device, or compute in float32 or bfloat16; raise ValueError for another dtype.

        silence_dtype_warnings: without effect, for there are none.
        """
        if isinstance(device, torch.dtype):
            device, dtype = None, device
        if dtype is not None:
            check_choice("dtype", dtype, DTYPES)
            for network in networks_in(self.generator):
                network.mixed_precision = dtype == torch.bfloat16
        if device is not None:
            self.generator.to(device)
        if self.vae is not None:
            self.vae.to(device, dtype)
        return self

    @torch.no_grad()
    def __call__(
        self,
        batch_size: int | None = None,
        seeds: Sequence[int] | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        num_inference_steps: int = 10,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: StepCallback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> Any:
        """Draw images.

        Args:
            batch_size: default one per seed or generator, else 1.
            seeds: in [0, 2^63), one per image, which is a function of it, to rounding, and of the number of steps.
            generator: draws the seeds: one generator all of them, a list one each. Default: torch's global one.
            num_inference_steps: evaluations of the network, 1 to the cells of its paths.
            output_type: "pil", "np" (float32 in [0, 1], NHWC), "pt" (the same, NCHW), or "latent": what the generator
                gives, not clipped.
            return_dict: whether to return an `ImagePipelineOutput`, or a tuple.
            callback_on_step_end: called as (pipeline, step, timestep, tensors) after step 0, 1, ...; the timestep is
                the SNR that was reached, and "latents" are the samples so far, with noise of variance 1/SNR. It looks
                on: the path of a seed cannot be changed.
            callback_on_step_end_tensor_inputs: which of `_callback_tensor_inputs` it is given.

        Raises:
            TypeError, ValueError: arguments out of range, that do not fit each other, or changed by the callback.
            FloatingPointError: a state that is not finite.
        """
        check_choice("output_type", output_type, OUTPUTS)
        check_integer("num_inference_steps", num_inference_steps, 1, self.generator.space.cells)
        for name in callback_on_step_end_tensor_inputs:
            check_choice("callback_on_step_end_tensor_inputs", name, self._callback_tensor_inputs)
        chosen = _seeds(batch_size, seeds, generator)
        sde = self.generator.sde

        def after(done: int, snr: Tensor, state: Tensor) -> None:
            bar.update()
            if callback_on_step_end is not None:
                given = {name: sde.noisy_data(state, snr) for name in callback_on_step_end_tensor_inputs}
                returned = callback_on_step_end(self, done - 1, snr, dict(given)) or {}
                if any(name not in given or value is not given[name] for name, value in returned.items()):
                    raise ValueError("callback_on_step_end must not change latents: they follow the path of a seed")

        with self.progress_bar(total=num_inference_steps) as bar:
            values = self.generator.sample(chosen, num_inference_steps, batch=len(chosen), callback=after).values
        images = self._output(values, output_type)
        return import_diffusers().ImagePipelineOutput(images=images) if return_dict else (images,)

    def _output(self, values: Tensor, output_type: str) -> Any:
        if output_type == "latent":
            return values
        if self.vae is not None:
            weight = next(self.vae.parameters())
            decoder = Autoencoder(self.vae).to(weight.device, weight.dtype)
            values = decoder.decode(values.to(weight), batch=len(values)).float()
        if output_type == "pil":
            pixels = to_uint8(values).permute(0, 2, 3, 1).cpu().numpy()
            return [Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image) for image in pixels]
        images = (values.clamp(-1, 1) + 1) / 2
        return images if output_type == "pt" else np.ascontiguousarray(images.permute(0, 2, 3, 1).cpu().numpy())

    def save_pretrained(
        self,
        save_directory: str | Path,
        safe_serialization: bool = True,
        variant: str | None = None,
        max_shard_size: int | str | None = None,
        push_to_hub: bool = False,
        use_flashpack: bool = False,
        **hub: Any,
    ) -> None:
        """Write model_index.json, generator/, vae/ and report.json where there are such, and the model card, README.md.

        Every file is written whole, model_index.json last. A model card that is there already, else the one that the
        pipeline was loaded with, keeps its metadata, such as the license, and its text if it is somebody else's.

        Args:
            save_directory: folder.
            safe_serialization, variant, max_shard_size, use_flashpack: diffusers' options; only their defaults work.
            push_to_hub: whether to upload the pipeline, too.
            hub: options of `push_to_hub`; repo_id is the folder's name by default.

        Raises:
            TypeError, ValueError: options for the hub without push_to_hub, or unknown ones; what is not supported; a
                generator that corrects a denoiser, which is not saved. Nothing is written then.
        """
        given = (safe_serialization, variant, max_shard_size, use_flashpack)
        _check_supported(dict(zip(SAVED, given, strict=True)), SAVED)
        if unknown := hub.keys() - {*HUB}:
            raise TypeError(f"save_pretrained takes no {', '.join(sorted(unknown))}")
        if hub and not push_to_hub:
            raise TypeError(f"push_to_hub must be True for the options {', '.join(hub)}")
        name = Path(save_directory).resolve().name
        write_pipeline(Path(save_directory), self._parts, self.to_json_string(), name=name)
        if push_to_hub:
            self.push_to_hub(**{"repo_id": name, **hub})

    def push_to_hub(
        self,
        repo_id: str,
        commit_message: str | None = None,
        private: bool | None = None,
        token: str | bool | None = None,
        create_pr: bool = False,
        safe_serialization: bool = True,
        variant: str | None = None,
        subfolder: str | None = None,
    ) -> str:
        """Upload what `save_pretrained` writes to a repository of the hub, made if missing; return the address.

        safe_serialization, variant, subfolder: diffusers' options; only their defaults work.

        Raises:
            ValueError: what is not supported; a generator that corrects a denoiser, which is not saved.
        """
        given = {"safe_serialization": safe_serialization, "variant": variant, "subfolder": subfolder}
        _check_supported(given, {**SAVED, "subfolder": (None,)})
        commit = {"commit_message": commit_message or f"Upload {type(self).__name__}", "create_pr": create_pr}
        return upload_pipeline(self._parts, self.to_json_string(), repo_id, private=private, token=token, **commit)

    @property
    def _parts(self) -> Parts:
        if isinstance(getattr(self.generator.cell, "denoiser", None), CorrectedDenoiser):
            raise ValueError(
                "generator must be made of its teacher's network to be saved; this one corrects a denoiser"
            )
        return Parts(self.generator, self.vae, self.results, self._card)

    @classmethod
    def from_pipe(cls, pipeline: Any, **kwargs: Any) -> SigDEGPipeline:
        """A pipeline of the same parts; a `SigDEGPipeline` hands on its results and model card, too."""
        made: SigDEGPipeline = super().from_pipe(pipeline, **{"results": getattr(pipeline, "results", None), **kwargs})
        made._card = getattr(pipeline, "_card", None)
        return made

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        dtype: torch.dtype | None = None,
        torch_dtype: torch.dtype | None = None,
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool | None = False,
        force_download: bool = False,
        subfolder: str | None = None,
        **others: Any,
    ) -> SigDEGPipeline:
        """Read what `save_pretrained` wrote: safetensors and JSON, never a pickle.

        Args:
            pretrained_model_name_or_path: a folder, or the id of a model on the hub, "owner/name".
            dtype: float32 or bfloat16, see `to`; diffusers called it torch_dtype.
            revision, token, cache_dir, local_files_only, force_download: options of the hub, as elsewhere in diffusers.
            subfolder: where the pipeline lies in the folder or repository.
            others: generator or vae, to take the place of what was saved (None for no vae); and diffusers' other
                options, of which no more than their defaults is supported.

        Raises:
            FileNotFoundError, TypeError, ValueError: files that are missing or broken, another kind of model, options
                that are unknown or not supported.
        """
        given = {name: others.pop(name) for name in COMPONENTS if name in others}
        if unknown := others.keys() - LOADED.keys():
            raise TypeError(f"from_pretrained takes no {', '.join(sorted(unknown))}")
        _check_supported(others, LOADED)
        parts = read_pipeline(
            pretrained_model_name_or_path,
            cls.__name__,
            subfolder=subfolder,
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            local_files_only=bool(local_files_only),
            force_download=force_download,
        )
        generator, vae, results, card = parts._replace(**given)
        made = cls(generator, vae, results)
        made._card = card
        return made.to(dtype=dtype or torch_dtype)


def _check_supported(given: Mapping[str, object], supported: Mapping[str, tuple[object, ...]]) -> None:
    for name, value in given.items():
        if not any(value is each for each in supported[name]):
            allowed = " or ".join(map(repr, supported[name]))
            raise ValueError(
                f"{name} must be {allowed}: more of it is not supported by a SigDEGPipeline, whose weights are one "
                f"safetensors file in float32; got {value!r}"
            )


def _seeds(
    batch_size: int | None,
    seeds: Sequence[int] | None,
    generator: torch.Generator | Sequence[torch.Generator] | None,
) -> Sequence[int]:
    """The seeds of the images, one each."""
    if seeds is not None and generator is not None:
        raise ValueError("seeds and generator must not both be given")
    if isinstance(seeds, Integral):
        raise TypeError(f"seeds must be a sequence of integers, one per image; got {seeds}")
    n = check_integer("batch_size", 1 if batch_size is None else batch_size, 1)
    for name, given in (("seeds", seeds), ("generator", generator)):
        size = len(given) if isinstance(given, Sized) else n
        if not size or (batch_size is not None and size != n):
            raise ValueError(f"batch_size must be >= 1 and the length of {name}, {size}; got {batch_size}")
    if seeds is not None:
        return seeds
    return draw_seeds(generator, len(generator) if isinstance(generator, Sequence) else n)

"""Teachers from diffusers model directories: a UNet and a scheduler's configuration as a denoiser D(y, snr)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from sdesig._checks import check_choice, check_real
from sdesig._files import FileError, read_json, reading, reason
from sdesig._modules import check_finite
from sdesig.images.diffusers_config import check_arguments, check_table_config, known_arguments
from sdesig.images.diffusers_unet import DiffusersUNet, event_of, import_diffusers
from sdesig.sde import EDM, EDMDenoiser, EpsilonDenoiser, ScoreDenoiser, TabulatedVP, VDenoiser, X0Denoiser
from sdesig.sigdeg.network_denoiser import DENOISERS, ModelDenoiser
from sdesig.sigdeg.networks import Network, networks_in

TABLES = (
    *("DDPMScheduler", "DDPMParallelScheduler", "DDIMScheduler", "DDIMParallelScheduler", "PNDMScheduler"),
    *("DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler", "DPMSolverSDEScheduler"),
    *("DEISMultistepScheduler", "UniPCMultistepScheduler", "SASolverScheduler", "LMSDiscreteScheduler"),
    *("EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler", "HeunDiscreteScheduler"),
    *("KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler"),
)
"""Schedulers with a table of betas; they sample in different ways from models trained in the same way."""
EDM_SCHEDULERS = ("EDMEulerScheduler", "EDMDPMSolverMultistepScheduler")
SCORE_SCHEDULERS = ("ScoreSdeVeScheduler",)
PREDICTIONS: dict[str, type[EpsilonDenoiser | VDenoiser | X0Denoiser]] = {
    "epsilon": EpsilonDenoiser,
    "v_prediction": VDenoiser,
    "sample": X0Denoiser,
    "original_sample": X0Denoiser,
}
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
SIGMA_DATA = 0.5


class PublishedDenoiser(ModelDenoiser):
    """A denoiser with the schedule of noise levels that a published model was trained on."""

    @property
    def network(self) -> Network:
        """The network inside."""
        return networks_in(self)[0]

    @property
    def snr(self) -> tuple[float, float]:
        """First and last SNR of the schedule: a student's own must lie between them."""
        return self.diffusion.snr(self.diffusion.t_max).item(), self.diffusion.snr(self.diffusion.t_min).item()


class DiffusersDenoiser(PublishedDenoiser):
    """D(y, snr) from a UNet and the scheduler that it was trained with, for data in [-1, 1] or in latent space.

    How a scheduler samples does not matter: spacing and offset of timesteps, solver, final alpha (`set_alpha_to_one`),
    clipping and thresholding. So D is not clipped, since the conditional mean is not.

    - Schedulers with a table of betas: the model's timesteps are the indices of the table, `TabulatedVP` in between.
    - EDM: preconditioned as in Karras et al. 2022 (arXiv 2206.00364); v_prediction means -F.
    - Score-SDE, variance exploding: the model predicts the score and is told sigma (Song et al. 2021, arXiv
      2011.13456). diffusers' pipeline has images in [0, 1] there. D has them in [-1, 1], where sigma is twice as large.

    Args:
        network: see `DiffusersUNet`.
        scheduler: the configuration of a scheduler, with its `_class_name`.
        sigma_data: standard deviation of the data, > 0; default that of an EDM scheduler, else .5.

    Raises:
        TypeError, ValueError: a scheduler or prediction that is not supported, a schedule that is none.
    """

    def __init__(
        self, network: DiffusersUNet, scheduler: Mapping[str, Any], *, sigma_data: float | None = None
    ) -> None:
        if not isinstance(network, DiffusersUNet):
            raise TypeError(f"network must be a DiffusersUNet; got {network!r}")
        if not isinstance(scheduler, Mapping):
            raise TypeError(f"scheduler must be a scheduler's configuration; got {scheduler!r}")
        settings = {name: value for name, value in scheduler.items() if name[0] != "_" or name == "_class_name"}
        with torch.device("cpu"):  # a table is no weight: its values are wanted where a network is made on "meta"
            denoiser = _denoiser(network, settings)
        super().__init__(denoiser, denoiser.diffusion)
        self._scheduler: dict[str, Any] = json.loads(json.dumps(settings))
        value = getattr(denoiser, "sigma_data", SIGMA_DATA) if sigma_data is None else sigma_data
        self.sigma_data = check_real("sigma_data", value, minimum=0.0, strict=True)

    @property
    def config(self) -> dict[str, Any]:
        """The scheduler's configuration and sigma_data, JSON-serializable."""
        return {"scheduler": self._scheduler, "sigma_data": self.sigma_data}

    def forward(self, y: Tensor, snr: Tensor | float, *inputs: object) -> Tensor:
        """E[x_0 | y], shape (batch, *event), for y of that shape and snr () or (batch,).

        `inputs` are the labels, int64 (batch,), for a class-conditional model without a fixed label, and the conditions
        and extra inputs for a widened one.

        Raises:
            ValueError: an SNR that a schedule with a table does not have; inputs of wrong shapes.
        """
        return super().forward(y, torch.as_tensor(snr, dtype=torch.float64), *inputs)


class _Rescaled(nn.Module):
    """output * network(scale * x + shift, scale * noise), for a model in other units."""

    def __init__(self, network: DiffusersUNet, *, scale: float = 1.0, shift: float = 0.0, output: float) -> None:
        super().__init__()
        self.network = network
        self._numbers = scale, shift, output

    def forward(self, x: Tensor, noise: Tensor, *inputs: Any) -> Tensor:
        scale, shift, output = self._numbers
        return output * self.network(scale * x + shift, scale * noise, *inputs)


def _denoiser(network: DiffusersUNet, config: Mapping[str, Any]) -> Any:
    """D(x, t) of a scheduler's configuration, with its `diffusion`."""
    name = config.get("_class_name")
    if name not in (*TABLES, *EDM_SCHEDULERS, *SCORE_SCHEDULERS):
        raise ValueError(
            f"scheduler must be one of {', '.join((*TABLES, *EDM_SCHEDULERS, *SCORE_SCHEDULERS))}; got {name!r}. If "
            "the model was trained for one of them, name it in scheduler_config.json; else write D(x, t) yourself, and "
            "hand a sdesig.sde.CanonicalDenoiser to SigDEG.from_teacher"
        )
    if network.needs_positive_noise and name not in SCORE_SCHEDULERS:
        raise ValueError(
            f"{name} needs a UNet with time_embedding_type 'positional'; 'fourier' takes sigma, not timesteps"
        )
    scheduler = scheduler_of(config)
    settings = scheduler.config
    if name in SCORE_SCHEDULERS:
        diffusion = EDM(2 * settings.sigma_min, 2 * settings.sigma_max)
        return ScoreDenoiser(_Rescaled(network, scale=0.5, shift=0.5, output=0.5), diffusion)
    prediction = settings.prediction_type
    if name in EDM_SCHEDULERS:
        check_choice(f"prediction_type of the {name}", prediction, ("epsilon", "v_prediction"))
        predicts = network if prediction == "epsilon" else _Rescaled(network, output=-1.0)
        return EDMDenoiser(predicts, EDM(settings.sigma_min, settings.sigma_max), sigma_data=settings.sigma_data)
    check_choice(f"prediction_type of the {name}", prediction, tuple(PREDICTIONS))
    check_table_config(f"the configuration of the {name}", settings)
    return PREDICTIONS[prediction](network, TabulatedVP(scheduler.alphas_cumprod))


def scheduler_of(config: Mapping[str, Any]) -> Any:
    """The scheduler of a configuration with a `_class_name`; raise ValueError for settings that it does not have."""
    name = config["_class_name"]
    try:
        kind = getattr(import_diffusers(), name)
        check_arguments(kind, config)
        return kind.from_config(dict(config))
    except ImportError:
        raise
    except Exception as error:  # of wrong types it raises almost anything
        raise ValueError(f"the configuration of the {name} is not supported: {reason(error)}") from error


def load_teacher(
    source: str | Path,
    *,
    label: int | None = None,
    sigma_data: float | None = None,
    device: torch.device | str = "cpu",
) -> DiffusersDenoiser:
    """The denoiser of a diffusers model, in float32 and evaluation mode.

    Args:
        source: a folder with unet/ and scheduler/, as pipelines have, or with the files of both, or the id of such a
            model on the hub, "owner/name". Only an id makes use of the network; a path that exists is none, nor is one
            whose first folder exists.
        label: class of all samples of a class-conditional model; None to give labels with each call, which a student
            cannot.
        sigma_data: standard deviation of the data, see `DiffusersDenoiser`.
        device: device of the weights.

    Raises:
        FileNotFoundError: a folder or file that is missing.
        ImportError: diffusers is missing.
        TypeError, ValueError: files that are no safetensors, pickles above all; weights that are not finite or do not
            fit; a model or scheduler that is not supported.
    """
    folder = find_model(source)
    unet, scheduler = (folder / name if (folder / name).is_dir() else folder for name in ("unet", "scheduler"))
    settings = _read_config(scheduler / "scheduler_config.json")
    model = load_model(unet, ("UNet2DModel",))
    with reading(unet / "config.json"):
        event_of(model.config)
    network = DiffusersUNet(model, label=label)
    with reading(scheduler / "scheduler_config.json"):
        denoiser = DiffusersDenoiser(network, settings, sigma_data=sigma_data)
    return denoiser.to(device).eval()


def find_model(source: str | Path, **hub: Any) -> Path:
    """The folder of a model: a local one, or where the hub's files of an id "owner/name" were downloaded to.

    hub: options of `huggingface_hub.snapshot_download`, such as revision and token.
    """
    folder = Path(source)
    if folder.is_dir():
        return folder
    is_id = isinstance(source, str) and re.fullmatch(r"[\w.-]*\w[\w.-]*/[\w.-]+", source)
    if not is_id or folder.exists() or Path(folder.parts[0]).exists():
        raise FileNotFoundError(f"{source} is not a folder, nor the id of a model, 'owner/name'")
    import_diffusers()
    from huggingface_hub import snapshot_download

    patterns = ["*.json", "*.safetensors"], ["*.fp16.*", "*.non_ema.*"]
    return Path(snapshot_download(str(source), allow_patterns=patterns[0], ignore_patterns=patterns[1], **hub))


def load_model(folder: Path, kinds: tuple[str, ...]) -> Any:
    """A diffusers model in float32, of one of these kinds, from config.json and safetensors in a folder."""
    config = _read_config(folder / "config.json")
    kind = config.get("_class_name", "none")
    check_choice(f"_class_name in {folder / 'config.json'}", kind, kinds)
    with reading(folder / "config.json"):
        known_arguments(getattr(import_diffusers(), kind), config)
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        pickles = [file.name for pattern in PICKLES for file in folder.glob(pattern)]
        found = f", only {pickles[0]}" if pickles else ""
        raise (ValueError if pickles else FileNotFoundError)(
            f"{folder} has no *.safetensors weights{found}. Pickles are never loaded, since they can run any code; "
            "where you trust one, diffusers converts it: "
            f"{kind}.from_pretrained({str(folder)!r}).save_pretrained({str(folder)!r})"
        )
    for file in files:
        try:
            with safe_open(file, "pt"):
                pass
        except SafetensorError as error:
            raise FileError(f"{file} is not a complete safetensors file ({error}); pickles are not loaded") from None
    with reading(folder, f"cannot be loaded as a {kind}"):
        model, report = getattr(import_diffusers(), kind).from_pretrained(
            folder, use_safetensors=True, local_files_only=True, output_loading_info=True
        )
    for what in ("missing", "unexpected", "mismatched"):
        if report[f"{what}_keys"]:
            raise ValueError(f"the weights in {folder} do not fit its config.json; {what}: {report[f'{what}_keys']}")
    check_finite(folder, model.state_dict())
    return model.float()


def _read_config(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise FileNotFoundError(f"{file} does not exist; a diffusers model has config.json and scheduler_config.json")
    return read_json(file)


DENOISERS["diffusers"] = DiffusersDenoiser

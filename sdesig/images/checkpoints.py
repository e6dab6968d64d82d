"""Published checkpoints of EDM and score-SDE as teachers, from their weights in a safetensors file.

They are published as pickles, which are never loaded here, since a pickle can run any code. On a machine where you
trust it, three lines write the file, EDM's in a clone of its repository:

    import pathlib, pickle, safetensors.torch
    weights = pickle.loads(pathlib.Path("edm-cifar10-32x32-uncond-vp.pkl").read_bytes())["ema"].state_dict()
    safetensors.torch.save_file({name: value.contiguous() for name, value in weights.items()}, "edm.safetensors")

and those of score-SDE's PyTorch version, whose moving average lists the trained weights without their names:

    import torch, safetensors.torch
    state = torch.load("checkpoint_8.pth", map_location="cpu")
    fixed = ("module.sigmas", "module.all_modules.0.W")
    names = [name for name in state["model"] if name not in fixed]
    weights = {**state["model"], **dict(zip(names, state["ema"]["shadow_params"], strict=True))}
    safetensors.torch.save_file({name: value.contiguous() for name, value in weights.items()}, "score_sde.safetensors")

`load_edm(...).save("runs/edm")`, or the same of `load_score_sde`, then makes a folder that the command line takes:
`sdesig distill --teacher runs/edm`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sdesig._checks import check_choice, check_real
from sdesig._files import FileError, read_tensors, reading
from sdesig._modules import check_finite
from sdesig.images.song_unet import Resampling, SongBlock, SongUNet
from sdesig.images.teachers import SIGMA_DATA, PublishedDenoiser
from sdesig.sde import EDM, VP, EpsilonDenoiser, SubVP
from sdesig.sigdeg.network_denoiser import DENOISERS, NetworkDenoiser

SDES = {"vp": VP(), "subvp": SubVP(), "ve": EDM(0.02, 100.0)}
"""The diffusions of score-SDE for images in [-1, 1]; its VE has them in [0, 1], where sigma goes from .01 to 50."""
BLOCK = {
    "GroupNorm_0": "norm0",
    "Conv_0": "conv0",
    "Dense_0": "affine",
    "GroupNorm_1": "norm1",
    "Conv_1": "conv1",
    "Conv_2": "skip",
}
"""The parts of a block: score-SDE's names, and EDM's."""
Names = tuple[str, ...]


class ScoreSDEDenoiser(PublishedDenoiser):
    """D(y, snr) from a network as score-SDE trains it (Song et al. 2021, arXiv 2011.13456), images in [-1, 1].

    - "vp", "subvp": the network predicts eps and is told 999 t.
    - "ve": it predicts -eps and is told log(sigma/2), which is log sigma of images in [0, 1].

    Args:
        network: see `SongUNet`; with the positional embedding, for "ve" the Fourier embedding.
        sde: one of `SDES`.
        sigma_data: standard deviation of the data, > 0.

    Raises:
        TypeError, ValueError: arguments of another kind.
    """

    def __init__(self, network: SongUNet, sde: str, *, sigma_data: float = SIGMA_DATA) -> None:
        if not isinstance(network, SongUNet):
            raise TypeError(f"network must be a SongUNet; got {network!r}")
        check_choice("sde", sde, tuple(SDES))
        needed = "fourier" if sde == "ve" else "positional"
        if network.embedding != needed:
            raise ValueError(
                f"embedding must be {needed!r} for sde {sde!r}; got {network.embedding!r}. VE models that were trained "
                "on whole noise levels are not supported"
            )
        super().__init__(EpsilonDenoiser(_Told(network, sde == "ve"), SDES[sde]), SDES[sde])
        self.sde = sde
        self.sigma_data = check_real("sigma_data", sigma_data, minimum=0.0, strict=True)

    @property
    def config(self) -> dict[str, Any]:
        """The name of the SDE and sigma_data."""
        return {"sde": self.sde, "sigma_data": self.sigma_data}


class _Told(nn.Module):
    """eps(x, t) of a network that is told the noise level in score-SDE's way."""

    def __init__(self, network: SongUNet, exploding: bool) -> None:
        super().__init__()
        self.network, self.exploding = network, exploding

    def forward(self, x: Tensor, t: Tensor, *inputs: Any) -> Tensor:
        return -self.network(x, (t / 2).log(), *inputs) if self.exploding else self.network(x, 999 * t, *inputs)


def load_edm(file: str | Path, *, config: Mapping[str, Any], sigma_data: float = SIGMA_DATA) -> NetworkDenoiser:
    """The teacher of an EDM checkpoint (Karras et al. 2022, arXiv 2206.00364), in evaluation mode.

    Supported are those that NVIDIA published with the SongUNet and EDM's preconditioning, for images in [-1, 1]:

    - edm-cifar10-32x32-*-vp: {"channels": 3, "size": 32}, and for *-ve also {"embedding": "fourier", "encoder":
      "residual"}; the conditional ones also "classes": 10, and "label" for one class;
    - edm-ffhq-64x64-*, edm-afhqv2-64x64-*: {"channels": 3, "size": 64, "multipliers": (1, 2, 2, 2)}, and so on.

    Not supported: edm-imagenet-*, which is another network, and baseline-*, with other preconditioning.

    Args:
        file: safetensors; `sdesig.images.checkpoints` shows how to write it.
        config: arguments of `SongUNet`. The label of augmentation is zero, as in EDM's evaluation, and its weights are
            left out.
        sigma_data: constant of the preconditioning.

    Raises:
        FileNotFoundError: no such file.
        TypeError, ValueError: a configuration out of range; a file that is not safetensors; weights that do not fit the
            configuration, which are named, or are not finite.
    """
    network = _made(config)
    tensors = _read(file, "model.")
    tensors.pop("map_augment.weight", None)
    return NetworkDenoiser(_filled(network, tensors, file), sigma_data).eval()


def load_score_sde(
    file: str | Path, *, config: Mapping[str, Any], sde: str, sigma_data: float = SIGMA_DATA
) -> ScoreSDEDenoiser:
    """The teacher of a score-SDE checkpoint (Song et al. 2021, arXiv 2011.13456), in evaluation mode.

    For score_sde_pytorch's model `ncsnpp` with resblock_type 'biggan', skip_rescale and progressive 'none'. Those are
    the DDPM++ and NCSN++ for CIFAR-10, of which

    - cifar10_ddpmpp_continuous: {"channels": 3, "size": 32, "multipliers": (1, 2, 2, 2)}, for *_deep also "blocks": 8;
    - cifar10_ncsnpp_continuous: also "encoder": "residual", and with sde "ve" "embedding": "fourier".

    Not supported: the models 'ddpm' and 'ncsnv2', resblock_type 'ddpm', and progressive 'output_skip' or 'input_skip',
    which are those for 256 x 256 images. For DDPM use `load_teacher` and diffusers' conversion, google/ddpm-cifar10-32.

    Args:
        file, config: see `load_edm`.
        sde: "vp", "subvp" or "ve".
        sigma_data: standard deviation of the data.

    Raises:
        FileNotFoundError, TypeError, ValueError: see `load_edm` and `ScoreSDEDenoiser`.
    """
    network = _made(config)
    denoiser = ScoreSDEDenoiser(network, sde, sigma_data=sigma_data)
    tensors = _read(file, "module.")
    tensors.pop("sigmas", None)
    renamed = dict(_score_sde_names(network))
    theirs = {name for names in renamed.values() for name in names}
    for what, names in (("unknown", tensors.keys() - theirs), ("missing", theirs - tensors.keys())):
        if names:
            raise ValueError(
                f"{file} does not fit the configuration {dict(config)}; {what}: {', '.join(sorted(names))}. Supported "
                "is the model 'ncsnpp' with resblock_type 'biggan' and progressive 'none'"
            )
    converted = {name: _converted(names, tensors) for name, names in renamed.items()}
    filters = {name: value for name, value in network.state_dict().items() if "resample_filter" in name}
    _filled(network, {**converted, **filters}, file)
    return denoiser.eval()


def _score_sde_names(network: SongUNet) -> Iterator[tuple[str, Names]]:
    """Our names, each with those in score-SDE's list of modules, which is in the order of computation."""
    numbers = count()

    def renamed(ours: str, *theirs: str, leaves: tuple[str, str] = ("weight", "bias")) -> Iterator[tuple[str, Names]]:
        for leaf, old in zip(("weight", "bias"), leaves, strict=True):
            yield f"{ours}.{leaf}", tuple(f"all_modules.{name}.{old}" for name in theirs)

    if network.embedding == "fourier":
        yield "map_noise.freqs", (f"all_modules.{next(numbers)}.W",)
    layers: dict[str, nn.Module] = {"map_layer0": network.map_layer0, "map_layer1": network.map_layer1}
    layers |= {f"enc.{name}": layer for name, layer in network.enc.items()}
    layers |= {f"dec.{name}": layer for name, layer in network.dec.items()}
    for ours, layer in layers.items():
        theirs = f"{next(numbers)}"
        if not isinstance(layer, SongBlock):
            yield from renamed(ours, f"{theirs}.Conv2d_0" if isinstance(layer, Resampling) else theirs)
            continue
        for old, new in BLOCK.items():
            if getattr(layer, new) is not None:
                yield from renamed(f"{ours}.{new}", f"{theirs}.{old}")
        if layer.attends:
            theirs = f"{next(numbers)}"
            yield from renamed(f"{ours}.norm2", f"{theirs}.GroupNorm_0")
            yield from renamed(f"{ours}.qkv", *(f"{theirs}.NIN_{k}" for k in range(3)), leaves=("W", "b"))
            yield from renamed(f"{ours}.proj", f"{theirs}.NIN_3", leaves=("W", "b"))


def _converted(names: Names, tensors: Mapping[str, Tensor]) -> Tensor:
    """A parameter of ours; matrices (inputs, outputs) become convolutions; query, key and value alternate."""
    values = [tensors[name] for name in names]
    if ".NIN_" not in names[0]:
        return values[0]
    if len({value.shape for value in values}) > 1:
        raise ValueError(f"{', '.join(names)} must have one shape; got {[tuple(value.shape) for value in values]}")
    value = torch.stack(values, -1).flatten(-2)
    return value.mT[..., None, None] if value.ndim == 2 else value


def _made(config: Mapping[str, Any]) -> SongUNet:
    with torch.random.fork_rng(devices=[]):  # what it is initialized with is overwritten
        return SongUNet(**config)


def _read(file: str | Path, prefix: str) -> dict[str, Tensor]:
    """Tensors by their names without a prefix."""
    try:
        return {name.removeprefix(prefix): value for name, value in read_tensors(Path(file)).items()}
    except FileError as error:
        raise FileError(
            f"{error}, since they can run any code; the documentation of sdesig.images.checkpoints has the lines that "
            "write safetensors where you trust one"
        ) from None


def _filled(network: SongUNet, tensors: Mapping[str, Tensor], file: str | Path) -> SongUNet:
    """The network with these weights."""
    with reading(file, f"does not fit the configuration {network.config}"):
        network.load_state_dict(tensors)  # names all that is missing, unexpected or of another shape
    check_finite(Path(file), network.state_dict())
    return network.eval()


DENOISERS["score_sde"] = ScoreSDEDenoiser

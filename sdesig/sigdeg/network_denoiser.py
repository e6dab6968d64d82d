"""Denoisers that consist of a network, from which students are made."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from sdesig._checks import check_step, per_sample
from sdesig._files import FileError, read_tensors, reading
from sdesig._modules import CONFIG, WEIGHTS, load_config, load_state, make_within, save_module
from sdesig.sampling import CanonicalDenoiser
from sdesig.sde import EDM
from sdesig.sde.denoisers import EDMDenoiser
from sdesig.sigdeg.networks import NETWORKS, Kinds, Network, make_network

ModelDenoiserT = TypeVar("ModelDenoiserT", bound="ModelDenoiser")
_SCHEDULE = EDM()


class ModelDenoiser(CanonicalDenoiser):
    """D(y, snr, *inputs) from a `Network` that can be widened; `inputs` are its inputs beside x and the noise level.

    Constructors take the network, and the entries of `config` as keywords.

    Attributes:
        sigma_data: standard deviation of the data.
    """

    sigma_data: float

    @property
    @abstractmethod
    def network(self) -> Network:
        """The network inside."""

    @property
    @abstractmethod
    def config(self) -> dict[str, Any]:
        """JSON-serializable arguments of the constructor, without the network."""

    @property
    def event(self) -> tuple[int, ...]:
        """Shape of a sample."""
        return self.network.event

    def widened(self: ModelDenoiserT, conditions: int, extra: int) -> ModelDenoiserT:
        """A copy that also takes conditions and extra inputs, and ignores them until it is trained."""
        return type(self)(self.network.widened(conditions, extra), **self.config)

    def save(self, folder: str | Path, *, half: bool = False) -> None:
        """Write config.json and weights.safetensors; with `half` float32 weights are kept as float16, rounded."""
        config = {"type": "denoiser", "network": NETWORKS.config(self.network), **DENOISERS.config(self)}
        save_module(Path(folder), config, self.network, half="" if half else None)

    @classmethod
    def load(cls: type[ModelDenoiserT], folder: str | Path, device: torch.device | str = "cpu") -> ModelDenoiserT:
        """Read the files of `save`: a denoiser of this class in evaluation mode, of any kind for `ModelDenoiser`.

        Raises:
            FileNotFoundError, ValueError: see `sdesig._modules.load_state`; a denoiser of another class.
        """
        config = load_config(Path(folder), "denoiser")
        described = {key: value for key, value in config.items() if key not in ("type", "network")}

        tensors = read_tensors(Path(folder) / WEIGHTS)
        with reading(Path(folder) / CONFIG, "is not one of a denoiser"):
            network = make_within(tensors, make_network, config["network"])
            denoiser = make_denoiser(network, {"kind": "edm", **described})  # older ones have no kind
        if not isinstance(denoiser, cls):
            raise FileError(f"{folder} must hold a {cls.__name__}; it holds a {type(denoiser).__name__}")
        load_state(Path(folder), denoiser.network, tensors)
        return denoiser.to(device).eval()


class NetworkDenoiser(ModelDenoiser):
    """D(y, snr, *inputs) from a `Network` with EDM's preconditioning (`EDMDenoiser`).

    `denoiser(y, snr)` is the canonical form at eta = 1, `denoiser.denoiser(x, sigma)` the one of Karras et al. 2022.

    Args:
        network: an `MLP` or `UNet`.
        sigma_data: standard deviation of the data, > 0.
    """

    def __init__(self, network: Network, sigma_data: float) -> None:
        self.denoiser: EDMDenoiser
        super().__init__(EDMDenoiser(network, _SCHEDULE, sigma_data=sigma_data), _SCHEDULE)
        self.sigma_data = self.denoiser.sigma_data

    def _denoise(self, y: Tensor, snr: Tensor | float, *inputs: object) -> Tensor:
        # what CanonicalDenoiser does, without the ways from y to x_t and from x_t to z: z is y/snr
        sigma = torch.rsqrt(check_step("snr", snr))
        return self.denoiser.preconditioned(
            y / per_sample(1 / sigma / sigma, y), per_sample(sigma, y), -0.25 * torch.log(1 / sigma), *inputs
        )

    @property
    def network(self) -> Network:
        """The network inside."""
        network = self.denoiser.network
        assert isinstance(network, Network)
        return network

    @property
    def config(self) -> dict[str, Any]:
        """JSON-serializable arguments of the constructor, without the network."""
        return {"sigma_data": self.sigma_data}


DENOISERS: Kinds[ModelDenoiser] = Kinds("denoiser", {"edm": NetworkDenoiser})


def make_denoiser(network: Network, config: Mapping[str, Any]) -> ModelDenoiser:
    """The denoiser of a network and a configuration {"kind": "edm" or another name of `DENOISERS`, **arguments}.

    Raises:
        TypeError, ValueError: an unknown kind, arguments that are not those of its constructor.
    """
    kind, arguments = DENOISERS.read(config)
    return kind(network, **arguments)

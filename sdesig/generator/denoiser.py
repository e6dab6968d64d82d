"""A pre-trained denoiser of ours, which saves and loads: the teacher of the experiments."""

from __future__ import annotations

from pathlib import Path

import torch

from sdesig._files import load_config, load_state, save_module
from sdesig.generator.networks import Network, make_network, network_config
from sdesig.sde import EDM, CanonicalDenoiser
from sdesig.sde.denoisers import EDMDenoiser


class NetworkDenoiser(CanonicalDenoiser):
    """D(y, snr, *inputs) from one of our networks with EDM's preconditioning (`EDMDenoiser`).

    `denoiser(y, snr)` is the canonical form at eta = 1, `denoiser.denoiser(x, sigma)` the one of Karras et al. 2022.

    Args:
        network: an `MLP` or `UNet`.
        sigma_data: standard deviation of the data, > 0.
    """

    def __init__(self, network: Network, sigma_data: float) -> None:
        self.denoiser: EDMDenoiser
        super().__init__(EDMDenoiser(network, EDM(), sigma_data=sigma_data), EDM())
        self.sigma_data = self.denoiser.sigma_data

    @property
    def network(self) -> Network:
        """The network inside."""
        network = self.denoiser.network
        assert isinstance(network, Network)
        return network

    @property
    def event(self) -> tuple[int, ...]:
        """Shape of a sample."""
        return self.network.event

    def widened(self, conditions: int, extra: int) -> NetworkDenoiser:
        """A copy that also takes conditions and extra inputs, and ignores them until it is trained."""
        return NetworkDenoiser(self.network.widened(conditions, extra), self.sigma_data)

    def save(self, folder: str | Path) -> None:
        """Write config.json and weights.safetensors."""
        config = {"type": "denoiser", "network": network_config(self.network), "sigma_data": self.sigma_data}
        save_module(Path(folder), config, self.network)

    @classmethod
    def load(cls, folder: str | Path, device: torch.device | str = "cpu") -> NetworkDenoiser:
        """Read what `save` wrote, in evaluation mode.

        Raises:
            FileNotFoundError, TypeError, ValueError: see `sdesig._files.load_state`; a configuration that is not one.
        """
        config = load_config(Path(folder), "denoiser")
        with torch.random.fork_rng(devices=[]):  # what it is initialized with is overwritten
            network = make_network(config.get("network", {}))
        load_state(Path(folder), network)
        return cls(network, config.get("sigma_data", 0.0)).to(device).eval()

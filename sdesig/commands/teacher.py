"""`sdesig teacher`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from torch import Tensor

from sdesig import _processes as processes
from sdesig._files import check_output
from sdesig._random import seeded
from sdesig.commands.inputs import Source
from sdesig.commands.options import DataFlags, MachineFlags, announce, naming_memory
from sdesig.images.image_network import compile_network, image_network
from sdesig.sigdeg import TrainingOptions, train_teacher
from sdesig.sigdeg.networks import NETWORKS, Network, in_precision, network_for


@dataclass(frozen=True)
class Teacher:
    """Train a denoiser from data: an MLP for vectors, a UNet for images. A stopped run goes on."""

    FOR_IMAGES: ClassVar[Mapping[str, Any]] = {"iterations": 20_000, "batch": 128, "log_sigma": (-1.2, 1.2)}
    data: DataFlags = field(default_factory=DataFlags)
    out: Path = Path("runs/teacher")
    """Folder of the run; the denoiser goes to its subfolder teacher."""
    network: Literal["unet", "unet2d"] = "unet"
    """Network for images: unet, a small one of ours, or unet2d, UNet2DModel of diffusers."""
    widths: tuple[int, ...] = (32, 64)
    """Channels of the levels of the UNet, from the full resolution down: multiples of 8."""
    width: int = 224
    """Number of units in each hidden layer of the MLP."""
    blocks: int = 3
    """Number of residual blocks of the MLP."""
    patch: int = 1
    """Side of the patches that become one pixel of unet; 2 costs a quarter."""
    attention: tuple[int, ...] = ()
    """Levels of unet2d with attention, 0 for the full resolution; its middle always has it."""
    layers: int = 2
    """Number of blocks per level of unet2d."""
    batch: int = 256
    """Number of samples at once."""
    log_sigma: tuple[float, float] = (-0.5, 1.5)
    """Mean and standard deviation of the logarithm of the noise's standard deviation."""
    flip: bool = False
    """Whether images are mirrored at random; not for digits or letters."""
    compile: bool = False
    """Whether torch.compile computes the network."""
    training: TrainingOptions = field(default_factory=lambda: TrainingOptions(iterations=5000))
    machine: MachineFlags = field(default_factory=MachineFlags)

    def make_network(self, event: tuple[int, ...]) -> Network:
        """The network that the options describe, for samples of this shape; from torch's global generator."""
        if len(event) == 1:
            return network_for(event, width=self.width, blocks=self.blocks)
        return image_network(
            self.network,
            event,
            widths=self.widths,
            patch=self.patch,
            attention=self.attention,
            layers=self.layers,
        )

    def run(self) -> None:
        """Run the command."""
        check_output("out", self.out, folder=True)
        device, training = self.machine.use(), self.training
        with processes.main_first():
            source = self.data.source()
        assert isinstance(source, Source)
        values, described = source.values, source.described
        event = tuple(values.shape[1:]) if isinstance(values, Tensor) else values.event
        if self.flip and len(event) == 1:
            raise ValueError("flip must be False for vectors")
        if self.network != "unet" and len(event) == 1:
            raise ValueError(f"network must be left out for vectors, which have an MLP; got {self.network}")
        with seeded(training.seed):
            network = self.make_network(event)
        shown = {name: getattr(self, name) for name in ("batch", "log_sigma", "flip", "compile")}
        shown |= {"training": vars(training), "out": self.out, **self.machine.described(device)}
        announce("teacher", {"data": described, "network": NETWORKS.config(network), **shown})
        network.to(device)
        size = {"width": self.width, "blocks": self.blocks} if len(event) == 1 else {"widths": self.widths}
        with naming_memory(batch=self.batch, **size):
            if self.compile:
                with in_precision(training.precision, network):
                    compile_network(network, self.batch)
            train_teacher(
                network,
                values.to(device),
                self.out,
                training,
                batch=self.batch,
                log_sigma=self.log_sigma,
                flip=self.flip,
                recorded={"data": described},
            )
        print(f"-> {self.out / 'teacher'}")

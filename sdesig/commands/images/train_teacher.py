"""`sdesig images train-teacher`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import tyro

from sdesig import _processes as processes
from sdesig._files import check_output
from sdesig._random import seeded
from sdesig.commands.images.flags import ImageFlags, described_images
from sdesig.commands.options import MachineFlags, TrainingFlags, announce, checked, naming_memory
from sdesig.images.image_network import compile_network, image_network
from sdesig.sigdeg import TrainingOptions, train_teacher
from sdesig.sigdeg.networks import Network, in_precision, network_config


@dataclass(frozen=True)
class TrainImageTeacher:
    """Train a denoiser of images, preconditioned as EDM is, the moving average of a UNet. A stopped run goes on."""

    images: tyro.conf.OmitArgPrefixes[ImageFlags] = field(default_factory=ImageFlags)
    out: Path = Path("runs/image-teacher")
    """Folder of the run; the denoiser goes to its subfolder teacher."""
    network: Literal["unet", "unet2d"] = "unet"
    """unet: a small one of ours. unet2d: UNet2DModel of diffusers."""
    widths: tuple[int, ...] = (32, 64)
    """Channels of the levels, from the full resolution down: multiples of 8."""
    patch: int = 1
    """Of unet: side of the patches that become one pixel; 2 costs a quarter."""
    attention: tuple[int, ...] = ()
    """Of unet2d: levels with attention, 0 for the full resolution; its middle always has it."""
    layers: int = 2
    """Of unet2d: blocks per level."""
    batch: int = 128
    """Images per iteration."""
    log_sigma: tuple[float, float] = (-1.2, 1.2)
    """Mean and standard deviation of the logarithm of the noise's standard deviation."""
    flip: bool = False
    """Turn images around at random; not for digits or letters."""
    compile: bool = False
    """Compute the network by torch.compile."""
    training: tyro.conf.OmitArgPrefixes[TrainingFlags] = field(default_factory=lambda: TrainingFlags(iterations=20_000))
    machine: tyro.conf.OmitArgPrefixes[MachineFlags] = field(default_factory=MachineFlags)
    config: Path | None = None
    """JSON file with options by these names; flags override it."""

    def make_network(self, event: tuple[int, ...]) -> Network:
        """As the options say, for images of this shape; from torch's global generator."""
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
        device, training = self.machine.use(), checked(TrainingOptions, self.training)
        with processes.main_first():
            images = self.images.required()
        with seeded(training.seed):
            network = self.make_network(images.event)
        announce(
            "images train-teacher",
            {
                "data": described_images(images),
                "network": network_config(network),
                "batch": self.batch,
                "log_sigma": self.log_sigma,
                "flip": self.flip,
                "compile": self.compile,
                "training": vars(training),
                "out": self.out,
                "device": device,
                "threads": self.machine.threads,
            },
        )
        network.to(device)
        with naming_memory(batch=self.batch, widths=self.widths):
            if self.compile:
                with in_precision(training.precision, network):
                    compile_network(network, self.batch)
            train_teacher(
                network,
                images.to(device),
                self.out,
                training,
                batch=self.batch,
                log_sigma=self.log_sigma,
                flip=self.flip,
                recorded={"data": described_images(images)},
            )
        print(f"-> {self.out / 'teacher'}")

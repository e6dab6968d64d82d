"""`sdesig train-teacher`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import tyro

from sdesig._files import check_output
from sdesig._random import seeded
from sdesig.commands.inputs import load_data
from sdesig.commands.options import MachineFlags, TrainingFlags, announce, checked, naming_memory
from sdesig.sigdeg import TrainingOptions, train_teacher
from sdesig.sigdeg.networks import network_config, network_for


@dataclass(frozen=True)
class TrainTeacher:
    """Train a denoiser from data: an MLP for vectors, a UNet for images. A run that was stopped goes on."""

    data: str = "digits"
    """digits, or a .npz file with an array of floats "data" or "images": (n, dim) or (n, channels, size, size)."""
    out: Path = Path("runs/teacher")
    """Folder of the run; the denoiser goes to its subfolder teacher."""
    width: int = 224
    """Of the hidden layers of the MLP."""
    blocks: int = 3
    """Residual blocks of the MLP."""
    widths: tuple[int, ...] = (32, 64)
    """Channels of the levels of the UNet, from the full resolution down: multiples of 8."""
    batch: int = 256
    """Samples per iteration."""
    log_sigma: tuple[float, float] = (-0.5, 1.5)
    """Mean and standard deviation of the logarithm of the noise's standard deviation."""
    training: tyro.conf.OmitArgPrefixes[TrainingFlags] = field(default_factory=lambda: TrainingFlags(iterations=5000))
    machine: tyro.conf.OmitArgPrefixes[MachineFlags] = field(default_factory=MachineFlags)
    config: Path | None = None
    """JSON file with options by these names; flags override it."""

    def run(self) -> None:
        """Run the command."""
        check_output("out", self.out, folder=True)
        device, training = self.machine.use(), checked(TrainingOptions, self.training)
        data, identity = load_data(self.data)
        event = tuple(data.shape[1:])
        mlp, unet = {"width": self.width, "blocks": self.blocks}, {"widths": self.widths}
        with seeded(training.seed):
            network = network_for(event, **(mlp if len(event) == 1 else unet))
        announce(
            "train-teacher",
            {
                "data": identity,
                "network": network_config(network),
                "batch": self.batch,
                "log_sigma": self.log_sigma,
                "training": vars(training),
                "out": self.out,
                "device": device,
                "threads": self.machine.threads,
            },
        )
        with naming_memory(batch=self.batch, width=self.width, blocks=self.blocks, widths=self.widths):
            train_teacher(
                network.to(device),
                data.to(device),
                self.out,
                training,
                batch=self.batch,
                log_sigma=self.log_sigma,
                recorded={"data": identity},
            )
        print(f"-> {self.out / 'teacher'}")

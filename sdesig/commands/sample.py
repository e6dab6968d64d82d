"""`sdesig sample`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import torch
import tyro
from torch import Tensor

from sdesig import _processes as processes
from sdesig._checks import check_integer
from sdesig._files import check_output
from sdesig.commands.inputs import check_same_paths
from sdesig.commands.options import COUNT, MOST_SAMPLES, MachineFlags
from sdesig.sigdeg import Samples, SigDEG


@tyro.conf.configure(tyro.conf.FlagCreatePairsOff)
@dataclass(frozen=True)
class Sample:
    """Draw samples from a generator; a sample is a function of its seed. Writes a .npz file and, of images, a PNG."""

    model: Path
    """Folder with a generator, such as runs/distill/student."""
    n: Annotated[int | None, COUNT] = None
    """Number of samples, of the seeds 0, ..., n - 1; default 64. Under torchrun only --count is known."""
    seeds: tuple[str, ...] = ()
    """Seeds instead: numbers, or ranges such as 0:64."""
    replay: Path | None = None
    """File of earlier samples: the same seeds on the same paths again, perhaps in more steps."""
    steps: int = 8
    """Number of steps, each one evaluation: at most 1024 (2^levels) as distill makes generators."""
    batch: int = 1024
    """Samples at once."""
    out: Path = Path("samples.npz")
    """File to write: values, steps and the paths' identity; the picture has its name with .png."""
    force: bool = False
    """Overwrite files that are there."""
    machine: tyro.conf.OmitArgPrefixes[MachineFlags] = field(default_factory=MachineFlags)

    def run(self) -> None:
        """Run the command."""
        from sdesig.commands.png import SHOWN, as_images, write_images

        if self.out.suffix != ".npz":
            raise ValueError(f"out must be a .npz file; got {self.out}")
        for file in self._files():
            if file.exists() and not self.force:
                raise FileExistsError(f"{file} exists already; give another --out, or --force to overwrite it")
            check_output("out", file)
        check_integer("batch", self.batch, 1)
        model = SigDEG.load(self.model, device=self.machine.use())
        seeds = self._chosen(model)
        model.space.ends(self.steps)  # checks the steps
        pictures = self._begin(model, seeds)
        samples = self._drawn(model, range(seeds) if isinstance(seeds, int) else seeds)
        if processes.rank() > 0:
            return
        samples.save(self.out)
        print(f"{len(samples.values)} samples in {samples.steps} steps -> {self.out}")
        images = as_images(pictures(samples.values[:SHOWN]))
        if images is None:
            print(f"no picture: samples of shape {model.space.event} are not images")
        else:
            write_images(self.out.with_suffix(".png"), images)
            print(f"-> {self.out.with_suffix('.png')}")

    def _drawn(self, model: SigDEG, seeds: Sequence[int]) -> Samples:
        """Of all seeds, whose batches processes share."""
        identity = model.space.paths(seeds).identity
        batches = [seeds[first : first + self.batch] for first in range(0, len(seeds), self.batch)]
        own = {k: model.sample(batches[k], self.steps).values.cpu() for k in processes.share(len(batches))}
        values = torch.cat(processes.all_gather(own, len(batches)))
        return Samples(values, self.steps, identity)

    def _files(self) -> tuple[Path, ...]:
        """What is written."""
        return self.out, self.out.with_suffix(".png")

    def _begin(self, model: SigDEG, seeds: int | Sequence[int]) -> Callable[[Tensor], Tensor]:
        """Before the first sample is drawn; returns what makes of samples what a picture shows."""
        return lambda values: values

    def _chosen(self, model: SigDEG) -> int | Sequence[int]:
        """Number of samples, or seeds."""
        if sum((self.n is not None, bool(self.seeds), self.replay is not None)) > 1:
            raise ValueError("only one of --n, --seeds and --replay may be given")
        if self.replay is not None:
            earlier = Samples.load(self.replay)
            identity = model.space.paths(earlier.seeds).identity
            check_same_paths(str(self.replay), earlier.identity, str(self.model), identity)
            return earlier.seeds
        if self.seeds:
            parts = [parse_seeds(text) for text in self.seeds]
            check_integer("number of seeds", sum(part.stop - part.start for part in parts), 1, MOST_SAMPLES)
            return parts[0] if len(parts) == 1 else [seed for part in parts for seed in part]
        return 64 if self.n is None else check_integer("n", self.n, 1, MOST_SAMPLES)


def parse_seeds(text: str) -> range:
    """range(a, a + 1) of "a", or range(a, b) of "a:b".

    Raises:
        ValueError: anything else, an empty range.
    """
    first, colon, stop = text.partition(":")
    try:
        seeds = range(int(first), int(stop) if colon else int(first) + 1)
    except ValueError:
        seeds = range(0)
    if seeds.start >= seeds.stop:
        raise ValueError(f"seeds must be numbers, or ranges a:b with a < b; got {text!r}")
    return seeds

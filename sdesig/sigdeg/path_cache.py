"""Teacher paths on disk: shards of safetensors, made once, resumable, with the options that made them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sdesig import _processes as processes
from sdesig._checks import check_integer
from sdesig._files import read_tensors, write_tensors
from sdesig._interrupts import Interrupted, keeping, stop_requests
from sdesig._progress import progress_bar
from sdesig._random import generator_for
from sdesig._records import forget_options, record_options
from sdesig.sampling.canonical import SNRDenoiser, check_snr_denoiser
from sdesig.sampling.path_space import PathSpace
from sdesig.sampling.teacher_paths import TeacherOptions, TeacherPaths, draw_paths
from sdesig.signature.partial_signature import PartialSignature

SHARD = 512
"""Largest number of paths in a file."""
NUMBERS = 2**28
"""Most numbers of the fine steps of one file, and of the paths that are kept in memory. Folders made earlier have files
of as many paths: it must not change."""


def shard_rows(space: PathSpace, options: TeacherOptions) -> int:
    """Paths in a file: 512, or the power of two below that with 2^28 numbers on its fine steps, a gigabyte."""
    numbers = options.steps * max(2, space.depth) * math.prod(space.event)
    return min(SHARD, 2 ** max(0, int(math.log2(max(1, NUMBERS // numbers)))))


class PathCache:
    """Teacher paths in a folder. Shard k is drawn from a generator that is seeded with (seed, k); processes share them.

    Ctrl-C and SIGTERM stop the drawing after the shard that they meet, and a second Ctrl-C at once.

    Args:
        folder: made if missing; whole shards that are there are kept.
        teacher: D(y, snr), on the device of the space.
        space: event, range, reference, grid and depth of the paths; students of less depth can share them.
        options: scheme, steps and cells of the paths.
        paths: number of paths, a multiple of `shard_rows` or below it.
        seed: seed of all random numbers.
        recorded: further entries of options.json that an earlier run must share, such as which teacher it is.
        progress: whether to show a progress bar.

    Raises:
        ValueError: a folder with paths of other options; a shard that is not a complete file of the right shapes.
        KeyboardInterrupt: Ctrl-C or SIGTERM; its text says what is kept.
    """

    def __init__(
        self,
        folder: Path,
        teacher: SNRDenoiser,
        space: PathSpace,
        options: TeacherOptions,
        *,
        paths: int,
        seed: int = 0,
        recorded: Mapping[str, Any] | None = None,
        progress: bool = True,
    ) -> None:
        check_snr_denoiser("teacher", teacher)
        check_integer("paths", paths, 1)
        shard = shard_rows(space, options)
        if paths > shard and paths % shard:
            raise ValueError(f"paths must be a multiple of {shard}; got {paths}")
        self.folder, self.shards, self.rows = folder, max(1, paths // shard), min(shard, paths)
        own = {"rows": self.rows, **space.identity, "clock": space.clock.identity(), "seed": seed}
        del own["cells"], own["slack"]  # these paths have no master grid
        description = {**(recorded or {}), **asdict(options), **own}
        processes.on_main(lambda: forget_options(folder / "options.json", "paths-*.safetensors", key="cells"))
        record_options(folder / "options.json", description)
        missing = [k for k in processes.share(self.shards) if not self._file(k).exists()]
        kept = f"all paths that were drawn are kept in {folder}: the same command goes on from there"
        with keeping(kept), stop_requests() as requests:
            for k in progress_bar(missing, name="teacher paths", unit="shard", shown=progress):
                generator = generator_for("teacher paths", seed, k, device=space.device)
                with requests.at_once():
                    drawn = draw_paths(teacher, space, options, self.rows, generator=generator)
                tensors = {"times": drawn.times, "h": drawn.signature.h, "states": drawn.states}
                write_tensors(self._file(k), {**tensors, "coefficients": drawn.signature.coefficients})
                if requests.number is not None:
                    raise Interrupted(kept, requests.number)
        processes.barrier()
        self._shape = (space.depth, options.cells, self.rows, *space.event)
        self._device = space.device
        self._loaded: dict[int, TeacherPaths] = {}

    def draw(self, rows: int, generator: torch.Generator, shard: int | None = None) -> TeacherPaths:
        """`rows` random paths of one shard, by default a random one, or all of its paths if it has fewer."""
        k = int(self.draw_shard(generator)) if shard is None else shard
        chosen = torch.randperm(self.rows, generator=generator, device=generator.device)[:rows]
        return self._shard(k).rows(chosen)

    def draw_shard(self, generator: torch.Generator) -> Tensor:
        """The number of a random shard, (1,)."""
        return torch.randint(self.shards, (1,), generator=generator, device=generator.device)

    def _shard(self, k: int) -> TeacherPaths:
        """The paths of a shard, kept in memory once they are read, as long as there is room."""
        kept = self._loaded.get(k)
        if kept is not None:
            return kept
        tensors = read_tensors(self._file(k))
        _, cells, *values = self._shape
        wanted = {"coefficients": self._shape, "states": (cells + 1, *values), "times": (cells + 1,)}
        found = {name: tuple(value.shape) for name, value in tensors.items()}
        if found.keys() != {*wanted, "h"} or any(found[name] != shape for name, shape in wanted.items()):
            raise ValueError(f"{self._file(k)} must hold tensors of the shapes {wanted}; it holds {found}")
        signature = PartialSignature(tensors["h"].to(self._device), tensors["coefficients"].to(self._device))
        paths = TeacherPaths(tensors["times"], signature, tensors["states"].to(self._device))
        if (len(self._loaded) + 1) * sum(math.prod(shape) for shape in wanted.values()) > NUMBERS:
            self._loaded.clear()
        self._loaded[k] = paths
        return paths  # another thread may have made room by now

    def _file(self, k: int) -> Path:
        return self.folder / f"paths-{k:05d}.safetensors"

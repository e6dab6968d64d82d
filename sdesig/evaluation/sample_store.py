"""Samples of many samplers from the same seeds, block by block: in memory, or on disk, where a run resumes."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sdesig import _processes as processes
from sdesig._evaluating import evaluating
from sdesig._files import naming_a_full_disk, read_json, read_tensors, write_json, write_tensors
from sdesig._interrupts import keeping
from sdesig._philox import check_seeds
from sdesig._progress import progress_bar
from sdesig._records import forget_options, record_options
from sdesig.evaluation.comparison import CONVERGED, Comparison
from sdesig.evaluation.features import FeatureExtractor, PerceptualDistance, extract
from sdesig.evaluation.metrics import pair_distances, pathwise_errors, share_apart, share_changed, spread_of
from sdesig.evaluation.pixels import to_uint8
from sdesig.evaluation.samplers import Sampler
from sdesig.sampling.path_average import PathAverage
from sdesig.sampling.path_space import EVEN

OPTIONS = "options.json"


class SampleStore:
    """Samples and pathwise errors of samplers by key and number of steps, seed by seed.

    Without a folder they are in memory. In a folder every file has one block of seeds, `comparison.batch` of them, and
    is written whole. What is there is kept. So are features and perceptual distances, in a folder within for every
    extractor.

    Args:
        comparison: the paths.
        samplers: with different keys and labels.
        seeds: one per sample; in a folder a range with step 1.
        folder: of the files.
        images: whether samples are kept as images of 256 levels, rather than as floats.
        decode: of a latent model's samples to images in [-1, 1].
        recorded: what else must agree with an earlier run in the folder, such as which teacher it is.

    Raises:
        TypeError, ValueError: bad seeds; a folder with samples of another teacher, other paths or another reference;
            see `Comparison.check`.
    """

    def __init__(
        self,
        comparison: Comparison,
        samplers: Sequence[Sampler],
        seeds: Sequence[int],
        folder: Path | None = None,
        *,
        images: bool = False,
        decode: Callable[[Tensor], Tensor] | None = None,
        recorded: Mapping[str, Any] | None = None,
    ) -> None:
        chosen = check_seeds(seeds)
        seeds = seeds if isinstance(seeds, range) else chosen.tolist()
        if folder is not None and (not isinstance(seeds, range) or seeds.step != 1):
            raise ValueError(f"seeds must be a range with step 1 to be kept in a folder; got {seeds}")
        comparison.check(samplers)
        self.samplers = {sampler.key: sampler for sampler in (comparison.truth, *samplers)}
        """The samplers by key; the converged path is the first."""
        self.comparison, self.seeds, self.folder = comparison, seeds, folder
        self._decode, self._kind = decode, "images" if images else "samples"
        self._memory: dict[int, dict[str, Tensor]] = {}
        self._seconds: dict[str, Any] = {}
        names = {sampler.key: sampler.key for sampler in self.samplers.values()}
        if folder is not None:
            file, pattern = folder / OPTIONS, "seeds-*.safetensors"
            processes.on_main(lambda: forget_options(file, pattern, key="truth_steps"))
            described = {**(recorded or {}), **comparison.space.identity, "truth_steps": comparison.truth_steps}
            del described["grid"]  # samplers have their own
            if file.exists() and "names" not in read_json(file):  # made earlier, when files had the labels
                names = {sampler.key: sampler.label for sampler in self.samplers.values()}
            else:
                described["names"] = "keys"
            if file.exists() and "levels" in read_json(file):  # made earlier, when files had log2 of the cells
                described["levels"] = math.log2(described.pop("cells"))
                if described["slack"] == 0:
                    del described["slack"]
            record_options(file, described)
        self._names = names

    @property
    def pairs(self) -> list[tuple[Sampler, int]]:
        """All samplers with each of their numbers of steps; the converged path is the first."""
        return [(sampler, steps) for sampler in self.samplers.values() for steps in sampler.steps]

    @torch.no_grad()
    def make(self, *, progress: bool = True, name: str = "samples") -> None:
        """Draw what is missing. In a folder processes share the blocks; in memory each draws all of them.

        Args:
            progress: whether to show a progress bar.
            name: of the bar.

        Raises:
            FloatingPointError, ValueError: samples that are not finite.
            OSError: a full disk; complete files stay valid.
        """
        kept = f"all blocks of {self.comparison.batch} seeds that were drawn are kept in {self.folder}"
        with (
            nullcontext() if self.folder is None else keeping(kept),
            progress_bar(name=name, unit="seed", total=len(self.seeds), shown=progress) as bar,
        ):
            for k in self._mine:
                self._make(k)
                bar.update(sum(map(len, self._blocks[k : k + self._mine.step])))
        processes.barrier()

    def samples(self, key: str, steps: int) -> Tensor:
        """The samples: images, uint8 (n, channels, height, width), or floats (n, *event)."""
        return torch.cat([self._samples(k, key, steps) for k in range(len(self._blocks))])

    def errors(self, key: str, steps: int) -> Tensor | None:
        """|x - x_ref|/sqrt(d) per seed, (n,), to the converged path of the seed; None for samplers that have no path.

        The converged path has none either.
        """
        return self._of_all(f"{self._name(key, steps)}/errors") if self._has_errors(self.samplers[key]) else None

    def seeds_apart(self, key: str, steps: int) -> float | None:
        """Share of the seeds that end apart from their converged paths: see `share_apart`."""
        return share_apart(self.errors(key, steps), self._spread)

    def seeds_changed(self, key: str, steps: int) -> tuple[float, float] | None:
        """Share of the seeds whose sample is nearer to the converged path of another seed, with its standard error.

        None for samplers that have no pathwise errors; of images by their pixels: see `share_changed`.
        """
        if not self._has_errors(self.samplers[key]):
            return None
        return share_changed(self.samples(key, steps), self.samples(CONVERGED, self.comparison.truth_steps))

    @property
    def quantization(self) -> str:
        """The dtype of the samples."""
        return "uint8" if self._kind == "images" else str(self.comparison.space.dtype).removeprefix("torch.")

    @property
    def converged(self) -> Tensor:
        """x of the converged paths, floats (n, *event)."""
        return self._of_all("converged")

    def features(self, extractor: FeatureExtractor, key: str, steps: int) -> Tensor:
        """Features of the samples, (n, k); in a folder they are kept, once they are computed, and on the CPU."""
        return self._compared(extractor, partial(extract, extractor), (key, steps))

    def distances(self, distance: PerceptualDistance, key: str, steps: int) -> Tensor:
        """Distances of the images to those of the converged paths, (n,), float64 on the CPU; kept likewise."""
        truth = CONVERGED, self.comparison.truth_steps
        return self._compared(distance, partial(pair_distances, distance), (key, steps), truth)

    def seconds_per_1000(self, key: str, steps: int) -> float:
        """Seconds of sampling 1000 seeds; measured once, by the first process, and in a folder kept in seconds.json."""
        name = self._name(key, steps)
        file = None if self.folder is None else self.folder / "seconds.json"
        with processes.main_first():
            known = self._seconds if file is None or not file.exists() else read_json(file)
            if name not in known:
                known[name] = self.comparison.seconds_per_1000(self.samplers[key], steps)
                if file is not None:
                    write_json(file, known)
        return known[name]

    @cached_property
    def _blocks(self) -> list[Sequence[int]]:
        batch = self.comparison.batch
        return [self.seeds[first : first + batch] for first in range(0, len(self.seeds), batch)]

    @property
    def _mine(self) -> range:
        """Numbers of the blocks that this process makes."""
        return range(len(self._blocks)) if self.folder is None else processes.share(len(self._blocks))

    @cached_property
    def _spread(self) -> float:
        return spread_of(self.converged)

    def _has_errors(self, sampler: Sampler) -> bool:
        return sampler.follows and sampler.key != CONVERGED

    def _name(self, key: str, steps: int) -> str:
        """What the samples depend on beside the seeds and the folder's options."""
        sampler = self.samplers[key]
        digest = sampler.digest[:16]
        if isinstance(sampler.scheme, PathAverage) and sampler.scheme.correction:
            digest += f"+{sampler.scheme.correction:g} between steps"
        if sampler.grid != EVEN:
            numbers = sampler.grid.to_json() if sampler.grid.free else sampler.grid.quantiles
            digest += "@" + hashlib.sha256(repr(numbers).encode()).hexdigest()[:8]
        return f"{self._names[key]}/{steps}/{digest}"

    def _make(self, k: int) -> None:
        known = self._known(k)
        if known and len(known["converged"]) != len(self._blocks[k]):
            known = {}
        missing = [(s, steps) for s, steps in self.pairs if f"{self._name(s.key, steps)}/{self._kind}" not in known]
        if not missing:
            return
        samples = self.comparison.follow(missing, self._blocks[k])
        stale = tuple(f"{self._names[sampler.key]}/{steps}/" for sampler, steps in missing)
        made = {name: value for name, value in known.items() if not name.startswith(stale)}
        truth = samples.get((CONVERGED, self.comparison.truth_steps))
        if truth is not None:
            made["converged"] = truth
        for sampler, steps in missing:
            name, values = self._name(sampler.key, steps), samples[sampler.key, steps]
            if self._has_errors(sampler):
                made[f"{name}/errors"] = pathwise_errors(values, made["converged"].to(values))
            made[f"{name}/{self._kind}"] = self._shown(values) if self._kind == "images" else values
        if self.folder is None:
            self._memory[k] = made
        else:
            with naming_a_full_disk(self.folder):
                write_tensors(self._file(k), made)

    def _shown(self, values: Tensor) -> Tensor:
        with evaluating(self._decode):
            return to_uint8(values if self._decode is None else self._decode(values))

    def _compared(
        self, by: FeatureExtractor | PerceptualDistance, compute: Callable[..., Tensor], *pairs: tuple[str, int]
    ) -> Tensor:
        """What is computed of the samples of pairs, for the first: of all in memory, and of every block in a folder.

        There it is read from files where it is in them; processes share the blocks. A file has one tensor: neither
        reading nor adding one touches what was kept of other samplers.
        """
        if self.folder is None:
            return compute(*(self.samples(*pair) for pair in pairs))
        folder = self.folder / by.digest[:16] / hashlib.sha256(self._name(*pairs[0]).encode()).hexdigest()[:16]
        files = [folder / f"seeds-{block[0]:08d}-{len(block)}.safetensors" for block in self._blocks]
        for k in self._mine:
            if not files[k].exists():
                with naming_a_full_disk(folder):
                    write_tensors(files[k], {"values": compute(*(self._samples(k, *pair) for pair in pairs))})
        processes.barrier()
        return torch.cat([_read(file, "values") for file in files])

    def _samples(self, k: int, key: str, steps: int) -> Tensor:
        return self._of_block(k, f"{self._name(key, steps)}/{self._kind}")

    def _of_all(self, name: str) -> Tensor:
        return torch.cat([self._of_block(k, name) for k in range(len(self._blocks))])

    def _of_block(self, k: int, name: str) -> Tensor:
        return self._memory[k][name] if self.folder is None else _read(self._file(k), name)

    def _known(self, k: int) -> dict[str, Tensor]:
        """What there is of a block."""
        if self.folder is None:
            return self._memory.get(k, {})
        return read_tensors(self._file(k)) if self._file(k).exists() else {}

    def _file(self, k: int) -> Path:
        assert self.folder is not None
        return self.folder / f"seeds-{self._blocks[k][0]:08d}.safetensors"


def _read(file: Path, name: str) -> Tensor:
    try:
        with safe_open(file, "pt") as tensors:
            return tensors.get_tensor(name)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{file} does not have {name}: {error}") from None

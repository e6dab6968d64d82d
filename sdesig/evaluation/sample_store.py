"""Samples of many methods from the same seeds, on disk: block by block, so that memory is bounded and a run resumes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from tqdm import tqdm

from sdesig import _processes as processes
from sdesig._caching import naming_a_full_disk
from sdesig._evaluating import evaluating
from sdesig._files import read_json, read_tensors, write_json, write_tensors
from sdesig._interrupts import keeping
from sdesig._records import forget_options, record_options
from sdesig.evaluation.comparison import AnySampler, Comparison, Sampler, share_apart, spread_of
from sdesig.evaluation.features import FeatureExtractor, PerceptualDistance, extract
from sdesig.evaluation.metrics import pair_distances
from sdesig.evaluation.pixels import to_uint8
from sdesig.sampling.step_grid import StepGrid


@dataclass(frozen=True)
class Method:
    """A sampler at some numbers of steps.

    Attributes:
        sampler: which.
        steps: the numbers.
        ema: whether its network is a moving average; None: as the teacher's.
        digest: of its weights, if they are its own. Samples that were made with others are made again.
    """

    sampler: AnySampler
    steps: tuple[int, ...]
    ema: bool | None = None
    digest: str = ""

    @property
    def name(self) -> str:
        """Of the sampler."""
        return self.sampler.name


class SampleFiles:
    """Images of 256 levels and pathwise errors of methods, seed by seed, in files of a folder.

    Every file has one block of seeds, `comparison.batch` of them, and is written whole. What is there is kept. So are
    features and perceptual distances, in a folder within for every extractor.

    Args:
        folder: of the files.
        comparison: the paths.
        methods: with different names.
        seeds: the first and how many.
        decode: of a latent model's samples to images in [-1, 1].
        recorded: what else must agree with an earlier run in the folder, such as which teacher it is.

    Raises:
        ValueError: a folder with samples of another teacher, other paths or another reference; see `Comparison.check`.
    """

    def __init__(
        self,
        folder: Path,
        comparison: Comparison,
        methods: Sequence[Method],
        *,
        seeds: range,
        decode: Callable[[Tensor], Tensor] | None = None,
        recorded: Mapping[str, Any] | None = None,
    ) -> None:
        comparison.check([(method.sampler, method.steps) for method in methods])
        truth, steps = comparison.truth
        self.truth = Method(truth, (steps,))
        names = [method.name for method in (self.truth, *methods)]
        if len({*names}) < len(names):
            raise ValueError(f"methods must have different names; got {names}")
        self.folder, self.comparison, self.methods, self.seeds = folder, comparison, tuple(methods), seeds
        self._decode = decode
        described = {
            **(recorded or {}),
            **{
                key: value for key, value in comparison.space.identity.items() if key != "grid"
            },  # samplers have their own
            "truth_steps": comparison.truth_steps,
        }
        processes.on_main(lambda: forget_options(folder / "options.json", "seeds-*.safetensors", key="truth_steps"))
        record_options(folder / "options.json", described)

    @property
    def pairs(self) -> list[tuple[Method, int]]:
        """All methods with their numbers of steps; the converged path is the first."""
        return [(method, steps) for method in (self.truth, *self.methods) for steps in method.steps]

    @torch.no_grad()
    def make(self, *, progress: bool = True) -> None:
        """Draw what is missing; processes share the blocks.

        Raises:
            FloatingPointError, ValueError: samples that are not finite.
            OSError: a full disk; complete files stay valid.
        """
        blocks = self._blocks()
        kept = keeping(f"all blocks of {self.comparison.batch} seeds that were drawn are kept in {self.folder}")
        with kept, tqdm(total=len(self.seeds), unit="seed", disable=not progress or processes.rank() > 0) as bar:
            for k in processes.share(len(blocks)):
                self._make(blocks[k])
                bar.update(sum(map(len, blocks[k : k + processes.world_size()])))
        processes.barrier()

    def images(self, method: Method, steps: int) -> Tensor:
        """uint8, (n, channels, height, width)."""
        return self._read_all(f"{_key(method, steps)}/images")

    def errors(self, method: Method, steps: int) -> Tensor | None:
        """|x - x_ref|/sqrt(d) of the seeds, (n,); None where there are none."""
        if not isinstance(method.sampler, Sampler) or method.sampler.eta != 1 or method.name == self.truth.name:
            return None
        return self._read_all(f"{_key(method, steps)}/errors")

    def seeds_apart(self, method: Method, steps: int) -> float | None:
        """Share of the seeds that end apart from their converged paths: see `Outcome`."""
        return share_apart(self.errors(method, steps), self._spread)

    @cached_property
    def _spread(self) -> float:
        return spread_of(self._read_all("converged"))

    def features(self, extractor: FeatureExtractor, method: Method, steps: int) -> Tensor:
        """Features of the images, (n, k), on the CPU; kept, once they are computed."""
        name = f"{_key(method, steps)}/images"

        def compute(block: range) -> Tensor:
            return extract(extractor, _read(self._file(block), name))

        return self._compared(extractor, method, steps, compute)

    def distances(self, distance: PerceptualDistance, method: Method, steps: int) -> Tensor:
        """Of the images to the converged path's of the same seeds, (n,), float64 on the CPU; kept."""
        names = [f"{_key(*pair)}/images" for pair in ((method, steps), (self.truth, self.truth.steps[0]))]

        def compute(block: range) -> Tensor:
            return pair_distances(distance, *(_read(self._file(block), name) for name in names))

        return self._compared(distance, method, steps, compute)

    def seconds_per_1000(self, method: Method, steps: int) -> float:
        """Measured once, by the first process, and kept in seconds.json."""
        file, key = self.folder / "seconds.json", _key(method, steps)
        with processes.main_first():
            known = read_json(file) if file.exists() else {}
            if key not in known:
                known[key] = self.comparison.seconds_per_1000(method.sampler, steps)
                write_json(file, known)
        return known[key]

    def _blocks(self) -> list[range]:
        batch = self.comparison.batch
        return [self.seeds[first : first + batch] for first in range(0, len(self.seeds), batch)]

    def _make(self, block: range) -> None:
        file = self._file(block)
        known = read_tensors(file) if file.exists() else {}
        if known and len(known["converged"]) != len(block):
            known = {}
        missing = [(method, steps) for method, steps in self.pairs if f"{_key(method, steps)}/images" not in known]
        if not missing:
            return
        samples = self.comparison.follow([(method.sampler, steps) for method, steps in missing], block)
        stale = tuple(f"{method.name}/{steps}/" for method, steps in missing)
        made = {name: value for name, value in known.items() if not name.startswith(stale)}
        if missing[0][0] is self.truth:
            made["converged"] = samples[0]
        converged = made["converged"].to(samples[0])
        for (method, steps), values in zip(missing, samples, strict=True):
            key = _key(method, steps)
            with evaluating(self._decode):
                made[f"{key}/images"] = to_uint8(values if self._decode is None else self._decode(values))
            errors = method.sampler.errors(values, converged)
            if errors is not None:
                made[f"{key}/errors"] = errors
        with naming_a_full_disk(self.folder):
            write_tensors(file, made)

    def _compared(
        self,
        by: FeatureExtractor | PerceptualDistance,
        method: Method,
        steps: int,
        compute: Callable[[range], Tensor],
    ) -> Tensor:
        """What is computed of every block, from files where it is in them; processes share the blocks.

        A file has one tensor: neither reading nor adding one touches what was kept of other methods.
        """
        name = hashlib.sha256(_key(method, steps).encode()).hexdigest()[:16]
        folder, blocks = self.folder / by.digest[:16] / name, self._blocks()
        files = [folder / f"seeds-{block[0]:08d}-{len(block)}.safetensors" for block in blocks]
        for k in processes.share(len(blocks)):
            if not files[k].exists():
                with naming_a_full_disk(folder):
                    write_tensors(files[k], {"values": compute(blocks[k])})
        processes.barrier()
        return torch.cat([_read(file, "values") for file in files])

    def _read_all(self, name: str) -> Tensor:
        return torch.cat([_read(self._file(block), name) for block in self._blocks()])

    def _file(self, block: range) -> Path:
        return self.folder / f"seeds-{block[0]:08d}.safetensors"


def _read(file: Path, name: str) -> Tensor:
    try:
        with safe_open(file, "pt") as tensors:
            return tensors.get_tensor(name)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{file} does not have {name}: {error}") from None


def _key(method: Method, steps: int) -> str:
    """What the samples depend on beside the seeds and the folder's options."""
    sampler, digest = method.sampler, method.digest[:16]
    if isinstance(sampler, Sampler) and sampler.grid != StepGrid():
        digest += "@" + hashlib.sha256(repr(sampler.grid.quantiles).encode()).hexdigest()[:8]
    return f"{method.name}/{steps}/{digest}"

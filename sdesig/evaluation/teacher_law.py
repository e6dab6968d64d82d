"""The teacher's own law: converged paths of other seeds, what samples are compared with beside data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from sdesig._checks import check_integer
from sdesig._philox import check_seeds
from sdesig.evaluation.comparison import CONVERGED
from sdesig.evaluation.features import FeatureExtractor, ReferenceStatistics
from sdesig.evaluation.frechet import FeatureStatistics
from sdesig.evaluation.metrics import Measured, measure_to_law
from sdesig.evaluation.pixels import pixel_digest
from sdesig.evaluation.sample_store import SampleStore


@dataclass(frozen=True, eq=False)
class TeacherLaw:
    """Samples of the law that the teacher has with infinitely many steps, and distances to them.

    Data are of another law: the teacher's network is not exact. A distance to this law is an error of the sampler
    alone.

    Attributes:
        store: converged paths of other seeds than those that are compared, and no other samplers.
        extractors: of what features are compared.
    """

    store: SampleStore
    extractors: Sequence[FeatureExtractor]

    @property
    def n(self) -> int:
        """How many seeds."""
        return len(self.store.seeds)

    @property
    def seeds(self) -> tuple[int, int]:
        """The first and the last."""
        return self.store.seeds[0], self.store.seeds[-1]

    @cached_property
    def digest(self) -> str:
        """sha256 of the samples."""
        return pixel_digest(self.store.samples(CONVERGED, self._steps))

    @cached_property
    def references(self) -> dict[FeatureExtractor, ReferenceStatistics]:
        """All features, by every extractor."""
        found = {}
        for extractor in self.extractors:
            features = self.store.features(extractor, CONVERGED, self._steps)
            statistics = FeatureStatistics.of(features)
            found[extractor] = ReferenceStatistics(statistics, features, self.digest, extractor.digest)
        return found

    def measure(self, store: SampleStore, key: str, steps: int, *, ema: bool | None) -> list[Measured]:
        """Distances of the samples of a sampler in some steps to the law, by every extractor: see `measure_to_law`."""
        found, seeds = [], (store.seeds[0], store.seeds[-1])
        for extractor, law in self.references.items():
            features = store.features(extractor, key, steps)
            found += measure_to_law(features, extractor, law, seeds=seeds, ema=ema, quantization=store.quantization)
        return found

    @property
    def _steps(self) -> int:
        return self.store.comparison.truth_steps


def check_law_seeds(law: Sequence[int], seeds: Sequence[int], fewest: int, *, in_folder: bool) -> None:
    """Raise TypeError or ValueError unless the seeds of a law are enough of them, and none of the samples' own."""
    chosen = check_seeds(law, "law")
    check_integer("number of seeds in law", len(chosen), fewest)
    shared = chosen[torch.isin(chosen, check_seeds(seeds))]
    if len(shared):
        raise ValueError(f"law must have other seeds than seeds; both have {shared[0].item()}")
    if len(chosen.unique()) < len(chosen):
        raise ValueError("law must have different seeds; some are there twice")
    if in_folder and (not isinstance(law, range) or law.step != 1):
        raise ValueError(f"law must be a range with step 1 to be kept in a folder; got {law}")

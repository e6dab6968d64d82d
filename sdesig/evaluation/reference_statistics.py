"""Features of data that samples are compared with: their statistics, and some of them, kept for the next time."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from sdesig import _processes as processes
from sdesig._caching import Record, cached
from sdesig._checks import check_integer
from sdesig._files import file_digest, read_tensors, write_tensors
from sdesig._random import generator_for
from sdesig.evaluation.features import FeatureExtractor, extract
from sdesig.evaluation.frechet import FeatureStatistics, FeatureSums
from sdesig.evaluation.pixels import ImageSet, pixel_digest


@dataclass(frozen=True, eq=False)
class ReferenceStatistics:
    """Features of data.

    Attributes:
        statistics: of all of them.
        features: (m, k) of some of them, at random and in random order, for kernel distances, precision and recall.
        data_digest, extractor_digest: what they are of.
    """

    statistics: FeatureStatistics
    features: Tensor
    data_digest: str
    extractor_digest: str


def reference_statistics(
    data: ImageSet | Tensor,
    extractor: FeatureExtractor,
    *,
    kept: int = 10_000,
    batch: int = 256,
    cache: str | Path | None = None,
) -> ReferenceStatistics:
    """Statistics of the features of all data; those of images from the cache, where they are in it.

    Args:
        data: n >= 2 images, or vectors (n, *event).
        extractor: see `load_extractor`.
        kept: how many features to keep, at most n.
        batch: images at a time.
        cache: a folder, or None. What is there is found by the digests of images and extractor and by `kept`; what is
            damaged is made again, with a warning.

    Raises:
        TypeError, ValueError: too few images, features that are not such.
        OSError: the disk of the cache is full; what was complete in it stays valid.
    """
    kept = min(check_integer("kept", kept, 2), len(data))
    check_integer("batch", batch, 1)
    if isinstance(data, Tensor):
        features, chosen = extract(extractor, data), _kept_rows(data, kept)
        statistics = FeatureStatistics.of(features)
        return ReferenceStatistics(statistics, features[chosen], pixel_digest(data), extractor.digest)
    return cached(
        cache,
        "reference",
        {"images": data.digest, "extractor": extractor.digest, "kept": kept},
        make=partial(_extract, data, extractor, kept, batch),
        write=partial(_write, data, extractor),
        read=partial(_read, data, extractor),
    )


def _kept_rows(data: ImageSet | Tensor, kept: int) -> Tensor:
    return torch.randperm(len(data), generator=generator_for("features to keep"))[:kept]


def _extract(images: ImageSet, extractor: FeatureExtractor, kept: int, batch: int) -> ReferenceStatistics:
    """Processes share the batches."""
    kept_rows = _kept_rows(images, kept)
    is_kept = torch.zeros(len(images), dtype=torch.bool).index_fill(0, kept_rows, True).split(batch)
    own: dict[int, FeatureSums] = {}
    chosen: dict[int, Tensor] = {}
    parts = images.pixels.split(batch)
    hidden = None if processes.rank() == 0 else True  # None: shown on a terminal
    mine = processes.share(len(parts))
    for k in tqdm(mine, desc=f"features {extractor.name}", unit="batch", leave=False, disable=hidden):
        features = extractor(parts[k])
        own.setdefault(processes.rank(), FeatureSums(features.shape[1])).update(features)
        chosen[k] = features.cpu()[is_kept[k]]
    features = torch.cat(processes.all_gather(chosen, len(parts)))[kept_rows.argsort().argsort()]
    sums = FeatureSums(features.shape[1])
    for of_one in processes.all_gather(own, min(processes.world_size(), len(parts))):
        sums.merge(of_one)
    return ReferenceStatistics(sums.statistics(), features, images.digest, extractor.digest)


def _write(images: ImageSet, extractor: FeatureExtractor, stem: Path, reference: ReferenceStatistics) -> Record:
    file, statistics = stem.with_suffix(".safetensors"), reference.statistics
    tensors = {"mean": statistics.mean, "covariance": statistics.covariance, "features": reference.features}
    write_tensors(file, tensors)
    names = {"source": images.source, "extractor": extractor.name}
    return {**names, "n": statistics.n, "sha256": file_digest(file)}


def _read(images: ImageSet, extractor: FeatureExtractor, stem: Path, record: Record) -> ReferenceStatistics:
    file = stem.with_suffix(".safetensors")
    if file_digest(file) != record["sha256"]:
        raise ValueError(f"{file.name} does not have the sha256 that it was written with")
    tensors = read_tensors(file)
    statistics = FeatureStatistics(tensors["mean"], tensors["covariance"], record["n"])
    return ReferenceStatistics(statistics, tensors["features"], images.digest, extractor.digest)

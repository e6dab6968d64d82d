"""What samples are compared by: features of one, and perceptual distances of two images, from files that users have;
and what features are compared with, those of data, kept for the next time.

A number that is made of them is named after them: "FID" is what the Inception network of the FID papers gives and
nothing else, "LPIPS" what the package lpips gives.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from sdesig import _processes as processes
from sdesig._checks import check_floating, check_integer
from sdesig._evaluating import evaluating
from sdesig._files import FileError, file_digest, read_tensors, reading, write_tensors
from sdesig._progress import progress_bar
from sdesig._random import generator_for
from sdesig._records import Record, cached
from sdesig.evaluation.frechet import FeatureStatistics, FeatureSums
from sdesig.evaluation.pixels import ImageSet, check_pixels, pixel_digest, to_floats

INCEPTION_WEIGHTS = "pt_inception-2015-12-05-6726825d.pth"
ALEXNET_WEIGHTS = "alexnet-owt-7be5be79.pth"


@dataclass(frozen=True)
class FeatureExtractor:
    """Features of images, or of vectors.

    Attributes:
        name: of the extractor.
        digest: sha256 of the file that it is from, or its name where there is none.
        network: images, uint8 (n, 1 or 3, height, width), or vectors, floats (n, *event), to floats (n, k); in
            evaluation mode while it is used.
        device: that it runs on.
        floats: whether it takes vectors, and no images.
        frechet_only: whether nothing but Frechet distances is measured by it, which is quick.
    """

    name: str
    digest: str
    network: Callable[[Tensor], Tensor]
    device: torch.device | str = "cpu"
    floats: bool = False
    frechet_only: bool = False

    @property
    def frechet_name(self) -> str:
        """What a Frechet distance of these features is called."""
        return "FID" if self.name == "Inception" else f"FD-{self.name}"

    @property
    def kernel_name(self) -> str:
        """What a kernel distance of these features is called."""
        return "KID" if self.name == "Inception" else f"KD-{self.name}"

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Features, (n, k), on the extractor's device, of images or vectors on any device.

        Raises:
            TypeError, ValueError: other images; features of another shape or that are not finite.
        """
        checked = check_floating("samples", images) if self.floats else check_pixels("images", images)
        features = _run(self.name, self.network, checked.to(self.device))
        if not isinstance(features, Tensor) or features.ndim != 2 or len(features) != len(images):
            shape = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
            raise ValueError(
                f"{self.name} must give features ({len(images)}, k) of {len(images)} images; it gave {shape}"
            )
        if not bool(features.isfinite().all()):
            raise ValueError(f"{self.name} gave features that are not finite")
        return features


COORDINATES = FeatureExtractor("coordinates", "coordinates", lambda samples: samples.flatten(1), floats=True)
"""The coordinates of vectors themselves."""


@dataclass(frozen=True)
class PerceptualDistance:
    """A distance of two images.

    Attributes:
        name: what it is called.
        digest: sha256 of the file that it is from, or of its weights.
        network: (a, b) in [-1, 1], (n, 1 or 3, height, width) each, to n distances; in evaluation mode meanwhile.
        device: that it runs on.
    """

    name: str
    digest: str
    network: Callable[[Tensor, Tensor], Tensor]
    device: torch.device | str = "cpu"

    @torch.no_grad()
    def __call__(self, images: Tensor, others: Tensor) -> Tensor:
        """Distances, (n,), of uint8 images of one shape, (n, 1 or 3, height, width).

        Raises:
            TypeError, ValueError: other images; distances of another shape or that are not finite.
        """
        if check_pixels("images", images).shape != check_pixels("others", others).shape:
            raise ValueError(f"others must be as images, {tuple(images.shape)}; they are {tuple(others.shape)}")
        floats = [to_floats(pixels.to(self.device)) for pixels in (images, others)]
        distances = _run(self.name, self.network, *floats)
        if distances.numel() != len(images) or not bool(distances.isfinite().all()):
            raise ValueError(f"{self.name} must give {len(images)} finite distances; it gave {tuple(distances.shape)}")
        return distances.reshape(-1)


def load_extractor(source: str | Path, device: torch.device | str = "cpu") -> FeatureExtractor:
    """An extractor by its name or file.

    Args:
        source: "inception" for the 2048 features of FID (torchmetrics with torch-fidelity, whose weights must be there:
            nothing is downloaded); "pixels" for the pixels themselves, in [-1, 1]; else a TorchScript file that maps
            uint8 (n, 1 or 3, height, width) to (n, k).
        device: to run it on.

    Raises:
        ModuleNotFoundError, FileNotFoundError: what is missing, and where to get it.
        ValueError: not a TorchScript file; weights that are not those that were published, by their sha256.
    """
    if source == "pixels":
        return FeatureExtractor("pixels", "pixels", lambda images: to_floats(images).flatten(1), device)
    if source == "inception":
        _package("torch_fidelity", "inception")
        weights = _installed_weights(INCEPTION_WEIGHTS, "inception")
        fid, file = importlib.import_module("torchmetrics.image.fid"), BytesIO()
        torch.save(_tensors(weights), file)  # and nothing else, for the package would unpickle all that is in it
        file.seek(0)
        network = fid.NoTrainInceptionV3("inception-v3-compat", ["2048"], file).to(device)

        def features(images: Tensor) -> Tensor:
            return network(images.expand(-1, 3, -1, -1))

        return FeatureExtractor("Inception", file_digest(weights), features, device)
    network = _load_torchscript(source, "extractor must be 'inception', 'pixels'", device)
    return FeatureExtractor(Path(source).stem, file_digest(Path(source)), network, device)


def load_perceptual(source: str | Path, device: torch.device | str = "cpu") -> PerceptualDistance:
    """A perceptual distance by its name or file.

    Args:
        source: "lpips" for LPIPS with AlexNet (the package lpips, whose weights must be there: nothing is downloaded),
            else a TorchScript file that maps (a, b) in [-1, 1], (n, 1 or 3, height, width), to (n,).
        device: to run it on.

    Raises:
        ModuleNotFoundError, FileNotFoundError, ValueError: as `load_extractor`.
    """
    if source == "lpips":
        lpips = _package("lpips", "lpips")
        weights = _installed_weights(ALEXNET_WEIGHTS, "lpips")
        network = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)  # its own linear layers, and no AlexNet yet
        tensors = {name.removeprefix("features."): value for name, value in _tensors(weights).items()}
        with reading(weights):  # lpips has its convolutions in slices, by the same numbers
            network.net.load_state_dict({name: tensors[name.partition(".")[2]] for name in network.net.state_dict()})
        network = network.eval().to(device)

        def distance(a: Tensor, b: Tensor) -> Tensor:
            return network(a.expand(-1, 3, -1, -1), b.expand(-1, 3, -1, -1))

        return PerceptualDistance("LPIPS", file_digest(weights), distance, device)
    network = _load_torchscript(source, "perceptual distance must be 'lpips'", device)
    return PerceptualDistance(f"perceptual ({Path(source).stem})", file_digest(Path(source)), network, device)


@torch.no_grad()
def extract(extractor: FeatureExtractor, images: Tensor, batch: int = 256) -> Tensor:
    """Features, (n, k), on the CPU, of vectors, all at once, or of uint8 images, `batch` of them at a time.

    Raises:
        TypeError, ValueError: see `FeatureExtractor`.
        RuntimeError: out of memory.
    """
    check_integer("batch", batch, 1)
    if extractor.floats:
        return extractor(images).cpu()
    return torch.cat([extractor(part).cpu() for part in check_pixels("images", images).split(batch)])


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
        make=partial(_of_images, data, extractor, kept, batch),
        write=partial(_write, data, extractor),
        read=partial(_read, data, extractor),
    )


def _run(name: str, network: Callable[..., Tensor], *images: Tensor) -> Tensor:
    try:
        with evaluating(network):
            return network(*images)
    except torch.cuda.OutOfMemoryError:
        batch = len(images[0])
        raise RuntimeError(f"{name} ran out of memory at batch {batch}; choose a smaller batch") from None
    except RuntimeError as error:
        shape, reason = tuple(images[0].shape), str(error).strip().rpartition("\n")[2]
        raise ValueError(f"{name} cannot take images of shape {shape}: {reason}") from error


def _load_torchscript(source: str | Path, wanted: str, device: torch.device | str) -> Callable[..., Tensor]:
    if not Path(source).is_file():
        raise FileNotFoundError(f"{wanted} or a TorchScript file; {source} does not exist")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit.load` is deprecated", DeprecationWarning)
        try:
            return torch.jit.load(source, map_location=device).eval()
        except RuntimeError as error:
            reason = str(error).partition(". ")[0]
            raise ValueError(
                f"{source} is not a TorchScript file ({reason}); pickles are not loaded: write it with "
                "torch.jit.script(module).save(path)"
            ) from None


def _package(module: str, source: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = (error.name or module).partition(".")[0]  # it, or what it needs itself, such as torchvision
        package = missing.replace("_", "-")
        raise ModuleNotFoundError(
            f"{source!r} needs the package {package}, which is not installed: pip install {package}, or give a "
            "TorchScript file"
        ) from None


def _installed_weights(name: str, source: str) -> Path:
    """The file of that name where torch keeps weights; its name ends in the first digits of its sha256.

    Raises:
        FileNotFoundError, ValueError: no such file, or another one of its name.
    """
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    if not path.is_file():
        raise FileNotFoundError(f"{source!r} needs the weights {path}, which are not there; nothing is downloaded")
    wanted, found = path.stem.rpartition("-")[2], file_digest(path)
    if not found.startswith(wanted):
        raise FileError(f"{path} is not the file that {source!r} needs: its sha256 is {found[:16]}..., not {wanted}...")
    return path


def _tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file that `torch.save` wrote, read without running anything that a pickle may ask for."""
    with reading(path):
        state = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
            raise TypeError("it must hold a dictionary of tensors")
    return state


def _kept_rows(data: ImageSet | Tensor, kept: int) -> Tensor:
    return torch.randperm(len(data), generator=generator_for("features to keep"))[:kept]


def _of_images(images: ImageSet, extractor: FeatureExtractor, kept: int, batch: int) -> ReferenceStatistics:
    """Processes share the batches."""
    kept_rows = _kept_rows(images, kept)
    is_kept = torch.zeros(len(images), dtype=torch.bool).index_fill(0, kept_rows, True).split(batch)
    own: dict[int, FeatureSums] = {}
    chosen: dict[int, Tensor] = {}
    parts = images.pixels.split(batch)
    mine = processes.share(len(parts))
    for k in progress_bar(mine, name=f"features {extractor.name}", unit="batch", leave=False):
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

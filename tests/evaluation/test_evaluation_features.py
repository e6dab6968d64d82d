"""Extractors and perceptual distances: TorchScript files made here, stand-ins for packages that are not installed."""

import hashlib
import pickle
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sdesig.evaluation.features import (
    ALEXNET_WEIGHTS,
    COORDINATES,
    INCEPTION_WEIGHTS,
    FeatureExtractor,
    PerceptualDistance,
    extract,
    load_extractor,
    load_perceptual,
)


class Moments(nn.Module):
    """Mean and mean square of the halves of an image; it says what it is given."""

    def forward(self, images: Tensor) -> Tensor:
        assert images.dtype == torch.uint8
        values = images.float().reshape(len(images), 2, -1)
        return torch.cat([values.mean(2), (values * values).mean(2)], 1)


class Colours(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mixing = nn.Conv2d(3, 2, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.mixing(images.float()).mean((2, 3))


class Difference(nn.Module):
    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return (a - b).abs().mean((1, 2, 3))


def pixels(n=10, channels=1, size=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (n, channels, size, size), generator=generator).to(torch.uint8)


def script(module, file):
    torch.jit.script(module).save(file)
    return file


def moments_by_numpy(images):
    halves = images.numpy().astype(float).reshape(len(images), 2, -1)
    return np.concatenate([halves.mean(2), (halves**2).mean(2)], 1)


# --- extractors ------------------------------------------------------------------------------------------------------


def test_a_torchscript_file(tmp_path):
    """Named after the file, known by its sha256; never FID."""
    file = script(Moments(), tmp_path / "moments.v2.pt")
    extractor = load_extractor(str(file))
    assert (extractor.name, extractor.frechet_name, extractor.kernel_name) == (
        "moments.v2",
        "FD-moments.v2",
        "KD-moments.v2",
    )
    assert extractor.digest == hashlib.sha256(file.read_bytes()).hexdigest()
    np.testing.assert_allclose(extractor(pixels()), moments_by_numpy(pixels()), rtol=1e-6)


@pytest.mark.parametrize("batch", [1, 3, 10, 256])
def test_batches_of_any_size(tmp_path, batch):
    extractor = load_extractor(script(Moments(), tmp_path / "m.pt"))
    features = extract(extractor, pixels(), batch)
    np.testing.assert_allclose(features, moments_by_numpy(pixels()), rtol=1e-6)
    assert not features.requires_grad


def test_pixels_themselves():
    extractor = load_extractor("pixels")
    assert extractor.frechet_name == "FD-pixels"
    images = pixels(5, 3)
    np.testing.assert_allclose(extract(extractor, images), images.numpy().reshape(5, -1) / 127.5 - 1, atol=1e-6)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Where torch keeps weights that were downloaded: empty."""
    folder = tmp_path / "hub"
    (folder / "checkpoints").mkdir(parents=True)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(folder))
    return folder / "checkpoints"


def weights_file(hub, monkeypatch, constant, content):
    """A file of weights whose name, as a published one's, ends in the first digits of its sha256."""
    if isinstance(content, bytes):
        (hub / "new").write_bytes(content)
    else:
        torch.save(content, hub / "new")
    name = f"weights-{hashlib.sha256((hub / 'new').read_bytes()).hexdigest()[:8]}.pth"
    monkeypatch.setattr(f"sdesig.evaluation.features.{constant}", name)
    return (hub / "new").rename(hub / name)


@pytest.fixture
def inception(monkeypatch):
    """A stand-in for the network, which unpickles the file that it is given, as torch-fidelity does."""
    fid = pytest.importorskip("torchmetrics.image.fid")
    monkeypatch.setitem(sys.modules, "torch_fidelity", types.ModuleType("torch_fidelity"))
    asked = []

    class Inception(nn.Module):
        def __init__(self, name, features, weights):
            super().__init__()
            asked.append((name, features, torch.load(weights, weights_only=False)))

        def forward(self, images):
            assert images.shape[1] == 3
            return images.float().sum((2, 3))

    monkeypatch.setattr(fid, "NoTrainInceptionV3", Inception)
    return asked


def test_inception_is_fid_where_it_is_installed(hub, monkeypatch, inception):
    """Grey images become colours, and nothing is downloaded."""
    with pytest.raises(FileNotFoundError, match=rf"'inception' needs the weights .*{INCEPTION_WEIGHTS}, .* nothing is"):
        load_extractor("inception")
    file = weights_file(hub, monkeypatch, "INCEPTION_WEIGHTS", {"fc.bias": torch.arange(3.0)})
    extractor = load_extractor("inception")
    assert (extractor.frechet_name, extractor.kernel_name) == ("FID", "KID")
    assert extractor.digest == hashlib.sha256(file.read_bytes()).hexdigest()
    ((name, features, state),) = inception
    assert (name, features, list(state)) == ("inception-v3-compat", ["2048"], ["fc.bias"])
    assert torch.equal(state["fc.bias"], torch.arange(3.0))
    for channels in (1, 3):
        expected = pixels(channels=channels).numpy().astype(float).sum((2, 3)) * np.ones(3)
        np.testing.assert_allclose(extractor(pixels(channels=channels)), expected)


class Evil:
    """Unpickled, it leaves a file behind."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


@pytest.mark.parametrize("load, source", [(load_extractor, "inception"), (load_perceptual, "lpips")])
def test_installed_weights_are_never_unpickled(hub, monkeypatch, tmp_path, inception, load, source):
    """Neither a file that is not the published one, nor one of its sha256 that asks to run something."""
    monkeypatch.setitem(sys.modules, "lpips", fake_lpips())
    name, constant = {
        "inception": (INCEPTION_WEIGHTS, "INCEPTION_WEIGHTS"),
        "lpips": (ALEXNET_WEIGHTS, "ALEXNET_WEIGHTS"),
    }[source]
    trace = tmp_path / "ran"
    torch.save({"0.weight": Evil(trace)}, hub / name)
    with pytest.raises(ValueError, match=rf"{name} is not the file that '{source}' needs: its sha256 is "):
        load(source)
    for content in ({"0.weight": Evil(trace)}, pickle.dumps(Evil(trace)), b"weights", [torch.zeros(2)]):
        file = weights_file(hub, monkeypatch, constant, content)
        with pytest.raises(ValueError, match=rf"^{file} cannot be used: ") as refusal:
            load(source)
        assert len(str(refusal.value).splitlines()) == 1
    assert not trace.exists()
    assert not inception


@pytest.mark.parametrize(
    "load, source, module, missing, package",
    [
        (load_extractor, "inception", "torch_fidelity", "torch_fidelity", "torch-fidelity"),
        (load_extractor, "inception", "torch_fidelity", "torchvision", "torchvision"),
        (load_perceptual, "lpips", "lpips", "lpips", "lpips"),
        (load_perceptual, "lpips", "lpips", "torchvision", "torchvision"),
    ],
)
def test_what_to_install(monkeypatch, tmp_path, load, source, module, missing, package):
    """The package itself, or one that it needs."""
    monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setitem(sys.modules, missing, None)
    if missing != module:
        (tmp_path / f"{module}.py").write_text(f"import {missing}\n")
        monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        ModuleNotFoundError, match=f"'{source}' needs the package {package}, .*: pip install {package}, or"
    ):
        load(source)


# --- perceptual distances --------------------------------------------------------------------------------------------


def test_a_perceptual_distance_from_a_file(tmp_path):
    """Of floats in [-1, 1]; never LPIPS."""
    file = script(Difference(), tmp_path / "grey.pt")
    distance = load_perceptual(file)
    assert distance.name == "perceptual (grey)"
    assert distance.digest == hashlib.sha256(file.read_bytes()).hexdigest()
    one, other = pixels(seed=1), pixels(seed=2)
    expected = np.abs(one.numpy().astype(float) - other.numpy()).mean((1, 2, 3)) / 127.5
    np.testing.assert_allclose(distance(one, other), expected, rtol=1e-5)


def fake_lpips():
    """A stand-in for the package: two slices of an AlexNet, numbered through, and distances (n, 1, 1, 1)."""

    class LPIPS(nn.Module):
        def __init__(self, net, pnet_rand, verbose):
            super().__init__()
            assert (net, pnet_rand, verbose) == ("alex", True, False)
            self.net = nn.Module()
            self.net.slice1, self.net.slice2 = nn.Sequential(), nn.Sequential()
            self.net.slice1.add_module("0", nn.Conv2d(3, 4, 1))
            self.net.slice2.add_module("3", nn.Conv2d(4, 2, 1))

        def forward(self, a, b):
            assert a.shape[1] == b.shape[1] == 3
            assert not self.training
            a, b = (self.net.slice2(self.net.slice1(x)) for x in (a, b))
            return (a - b).square().mean((1, 2, 3), keepdim=True)

    module = types.ModuleType("lpips")
    module.LPIPS = LPIPS
    return module


def test_lpips_where_it_is_installed(hub, monkeypatch):
    """With the convolutions of torchvision's file."""
    monkeypatch.setitem(sys.modules, "lpips", fake_lpips())
    with pytest.raises(FileNotFoundError, match=rf"'lpips' needs the weights .*{ALEXNET_WEIGHTS}"):
        load_perceptual("lpips")
    features = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 2, 1))
    state = {f"features.{name}": value for name, value in features.state_dict().items()}
    file = weights_file(hub, monkeypatch, "ALEXNET_WEIGHTS", {**state, "classifier.1.weight": torch.zeros(2)})
    distance = load_perceptual("lpips")
    assert (distance.name, distance.digest) == ("LPIPS", hashlib.sha256(file.read_bytes()).hexdigest())
    one, other = pixels(seed=1), pixels(seed=2)
    matrix = features[3].weight[:, :, 0, 0] @ features[0].weight[:, :, 0, 0].sum(1, keepdim=True)
    square = ((one.double() - other.double()) ** 2).mean((1, 2, 3)) / 127.5**2
    np.testing.assert_allclose(distance(one, other), square * matrix.square().mean().item(), rtol=1e-4)


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("load", [load_extractor, load_perceptual])
def test_files_that_are_no_torchscript(tmp_path, load):
    """A pickle is not run."""
    whole = script(Moments(), tmp_path / "whole.pt").read_bytes()
    torch.save({"weight": torch.zeros(2)}, tmp_path / "state.pt")
    torch.save(Evil(tmp_path / "ran"), tmp_path / "evil.pt")
    (tmp_path / "pickle.pt").write_bytes(pickle.dumps(Evil(tmp_path / "ran")))
    (tmp_path / "half.pt").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.pt").write_bytes(b"")
    for name in ("state", "evil", "pickle", "half", "empty"):
        with pytest.raises(ValueError, match=rf"{name}\.pt is not a TorchScript file \(.*\); pickles are not loaded"):
            load(tmp_path / f"{name}.pt")
    assert not (tmp_path / "ran").exists()
    with pytest.raises(FileNotFoundError, match=r"must be .* or a TorchScript file; .*nowhere\.pt does not exist"):
        load(tmp_path / "nowhere.pt")


@pytest.mark.parametrize(
    "features, match",
    [
        (lambda x: x.float(), r"x must give features \(10, k\) of 10 images; it gave \(10, 1, 4, 4\)"),
        (lambda x: x[:9].float().flatten(1), r"x must give features \(10, k\) .* it gave \(9, 16\)"),
        (lambda x: (x, x), r"x must give features .* it gave tuple"),
        (lambda x: x.float().flatten(1) / 0, "x gave features that are not finite"),
    ],
)
def test_features_that_are_none(features, match):
    with pytest.raises(ValueError, match=match):
        extract(FeatureExtractor("x", "0", features), pixels())


@pytest.mark.parametrize(
    "distance", [lambda a, b: (a - b)[:9].mean((1, 2, 3)), lambda a, b: (a - b).mean((1, 2, 3)) / 0]
)
def test_distances_that_are_none(distance):
    with pytest.raises(ValueError, match="x must give 10 finite distances; it gave"):
        PerceptualDistance("x", "0", distance)(pixels(seed=1), pixels(seed=2))


def test_images_of_the_wrong_shape(tmp_path):
    colours = load_extractor(script(Colours(), tmp_path / "colours.pt"))
    assert colours(pixels(channels=3)).shape == (10, 2)
    with pytest.raises(ValueError, match=r"colours cannot take images of shape \(10, 1, 4, 4\): .*channels"):
        colours(pixels())
    distance = load_perceptual(script(Difference(), tmp_path / "d.pt"))
    with pytest.raises(ValueError, match=r"others must be as images, \(10, 1, 4, 4\); they are \(9, 1, 4, 4\)"):
        distance(pixels(), pixels(9))


def test_vectors():
    """Features of all at once, on the device where they are computed."""
    values, seen = torch.randn(600, 2, 3, generator=torch.Generator().manual_seed(0)), []
    extractor = FeatureExtractor("sums", "s", lambda x: seen.append(len(x)) or x.sum(2), floats=True)
    assert torch.equal(extract(extractor, values), values.sum(2))
    assert seen == [600]
    assert torch.equal(COORDINATES(values), values.flatten(1))
    with pytest.raises(TypeError, match=r"samples must have a real floating-point dtype; got torch\.uint8"):
        COORDINATES(pixels())


@pytest.mark.parametrize(
    "images, error, match",
    [
        (torch.zeros(2, 1, 4, 4), TypeError, r"must be a uint8 tensor \(see to_uint8\); got torch\.float32"),
        (np.zeros((2, 1, 4, 4), np.uint8), TypeError, r"must be a uint8 tensor .* got ndarray"),
        (pixels()[0], ValueError, r"must have shape \(n >= 1, 1 or 3, height, width\); got \(1, 4, 4\)"),
        (pixels(channels=2), ValueError, r"must have shape .* got \(10, 2, 4, 4\)"),
        (pixels()[:0], ValueError, r"must have shape .* got \(0, 1, 4, 4\)"),
    ],
)
def test_images_that_are_none(images, error, match):
    extractor = load_extractor("pixels")
    for call in (extractor, lambda x: extract(extractor, x)):
        with pytest.raises(error, match=f"images {match}"):
            call(images)
    with pytest.raises(error, match=f"others {match}"):
        PerceptualDistance("x", "0", Difference())(pixels(), images)


def test_a_batch_that_does_not_fit_into_memory():
    def exhausted(*images):
        raise torch.cuda.OutOfMemoryError("tried to allocate")

    with pytest.raises(RuntimeError, match="x ran out of memory at batch 4; choose a smaller batch"):
        extract(FeatureExtractor("x", "0", exhausted), pixels(), 4)
    with pytest.raises(RuntimeError, match="x ran out of memory at batch 10; choose a smaller batch"):
        PerceptualDistance("x", "0", exhausted)(pixels(), pixels())
    with pytest.raises(ValueError, match="batch must be >= 1; got 0"):
        extract(load_extractor("pixels"), pixels(), 0)


class Dropping(nn.Module):
    """Features, or a distance, that dropout would spoil."""

    def __init__(self):
        super().__init__()
        self.dropout = nn.Dropout(0.5)

    def forward(self, images, others=None):
        values = self.dropout(images.float() + 1).flatten(1)
        return values if others is None else values.mean(1)


def test_networks_are_in_evaluation_mode_while_they_are_used():
    module = Dropping().train()
    for network in (module, lambda images: module(images)):
        found = FeatureExtractor("dropping", "1", network)(pixels())
        assert torch.equal(found, pixels().float().flatten(1) + 1)
    distance = PerceptualDistance("dropping", "1", module)
    assert torch.equal(distance(pixels(), pixels()), distance(pixels(), pixels()))
    assert module.training
    assert module.dropout.training

"""Features, distances and reports of images on a device."""

import pytest
import torch
from torch import Tensor, nn

from sdesig.evaluation import (
    Comparison,
    ImageSet,
    evaluate,
    extract,
    generator_sampler,
    kernel_distance,
    load_extractor,
    load_perceptual,
    precision_recall,
    training_free,
)
from sdesig.evaluation.metrics import pair_distances
from sdesig.evaluation.pixels import pixel_digest
from sdesig.sampling import GaussianReference, PathSpace
from sdesig.sigdeg import NetworkDenoiser, SigDEG, UNet

EVENT, SNR = (1, 8, 8), (0.02, 50.0)


def values(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def pixels(n=6, channels=1, size=8):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (n, channels, size, size), generator=generator).to(torch.uint8)


def teacher_on(device):
    torch.manual_seed(0)
    return NetworkDenoiser(UNet(1, 8, widths=(8,)), 0.6).to(device)


def reference_of(kind, device):
    return GaussianReference.fit(0.5 * values(30, *EVENT), kind).to(device)


def student_of(teacher, event=EVENT, kind="coordinates", **options):
    torch.manual_seed(1)
    space = PathSpace(event, SNR, GaussianReference.fit(0.5 * values(30, *event), kind), cells=2**4, depth=4)
    return SigDEG.from_teacher(teacher, space, **{"depth": 2, "sigma_data": 0.6} | options)


class Moments(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        parts = images.float().reshape(len(images), 2, -1) / 255
        return torch.cat([parts.mean(2), (parts * parts).mean(2)], 1)


class Difference(nn.Module):
    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return (a - b).abs().mean((1, 2, 3))


@pytest.fixture(scope="module")
def scripts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scripts")
    for name, module in (("moments", Moments()), ("difference", Difference())):
        torch.jit.script(module).save(folder / f"{name}.pt")
    return folder


def test_features(agrees, scripts):
    """And distances; images on either device, numbers that are compared on the CPU."""

    def compute(device):
        extractor, pixel = load_extractor(str(scripts / "moments.pt"), device), load_extractor("pixels", device)
        distance = load_perceptual(str(scripts / "difference.pt"), device)
        images = pixels(24).to(device)
        one, other = extract(extractor, images, batch=5), extract(extractor, pixels(24), batch=7)
        numbers = [*precision_recall(one[:12], one[12:]), *kernel_distance(one, other.flip(0), parts=3)]
        pairs = pair_distances(distance, images, pixels(24).flip(0), batch=9)
        return [one.cpu(), extract(pixel, images).cpu(), pairs, torch.tensor(numbers)]

    agrees(compute, rtol=1e-5, atol=1e-6, stays=False)


def test_a_report(agrees, scripts, tmp_path):
    data = ImageSet(pixels(24), pixel_digest(pixels(24)), "made")

    def compute(device):
        space = PathSpace(EVENT, SNR, reference_of("coordinates", device), cells=2**2, depth=2)
        comparison = Comparison(teacher_on(device), space, truth_steps=4, batch=11)
        student = student_of(teacher_on("cpu")).to(device)
        free = training_free(space, (2,))
        samplers = [generator_sampler("ours", student, (2,)), free["euler"], free["path-average-reference"]]
        extractors = [load_extractor(str(scripts / "moments.pt"), device)]
        perceptual = [load_perceptual(str(scripts / "difference.pt"), device)]
        options = {"seeds": range(22), "extractors": extractors, "perceptual": perceptual, "progress": False}
        report = evaluate(comparison, samplers, data.to(device), tmp_path / device, **options)
        rows = [[row["pathwise_rmse"], *(number["value"] for number in row["measured"])] for row in report.rows]
        return [torch.tensor([number for number in row if number is not None]) for row in rows]

    agrees(compute, rtol=2e-2, atol=1e-2, stays=False)

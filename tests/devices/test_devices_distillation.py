"""From data to a generator and what is measured of it, on a device: the CPU's numbers, on the device."""

from dataclasses import replace

import pytest
import torch

from sdesig.evaluation import (
    Comparison,
    FeatureStatistics,
    Sampler,
    calibrated_sampler,
    evaluate,
    frechet_ratio,
    generator_sampler,
    paired_ratio,
    training_free,
)
from sdesig.evaluation.frechet import FeatureSums, extrapolated_distance
from sdesig.sampling import (
    GaussianReference,
    PathAverage,
    PathSpace,
    SNRDenoiser,
    StepGrid,
    TeacherOptions,
    choose_grid,
    draw_paths,
    information_floor,
)
from sdesig.sampling.teacher_paths import teacher_samples
from sdesig.sigdeg import (
    MLP,
    DistillOptions,
    NetworkDenoiser,
    SigDEG,
    TrainingOptions,
    UNet,
    distill,
    train,
    train_teacher,
)
from sdesig.sigdeg.path_cache import PathCache

SNR = (0.02, 50.0)
DATA = torch.tensor([1.0, 0.5]) * torch.randn(200, 2, generator=torch.Generator().manual_seed(0)).sign()
FINE = TeacherOptions(steps=4, cells=4)
KINDS = ["none", "scalar", "coordinates", "pca"]


def teacher_on(device, seed=0):
    torch.manual_seed(seed)
    return NetworkDenoiser(MLP(2, width=8, blocks=1), 0.8).to(device)


def reference_of(kind, device):
    return GaussianReference.fit(DATA, kind).to(device)


def space_on(device, kind="coordinates", cells=2**4, depth=4):
    return PathSpace((2,), SNR, reference_of(kind, device), cells, depth)


def student_on(device, kind="coordinates", teacher=None, cells=2**4, **options):
    torch.manual_seed(1)
    teacher = teacher_on("cpu") if teacher is None else teacher
    return SigDEG.from_teacher(teacher, space_on("cpu", kind, cells), **{"depth": 2} | options).to(device)


# --- generators ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cell", ["solver", "plain"])
def test_samples(agrees, kind, cell):
    """Data on the CPU; and the images of seeds are those of the CPU, to rounding."""

    def compute(device):
        student = student_on(device, kind, cell=cell)
        return student.sample(range(5), 4, batch=3), student.sample([3], 2, grid=StepGrid((0.0, 0.7, 1.0)))

    agrees(compute, rtol=1e-4, atol=1e-5)


def test_a_generator_goes_through_files(agrees, tmp_path):
    def compute(device):
        student_on(device).save(tmp_path / device)
        return SigDEG.load(tmp_path / device, device=device).sample(range(3), 2)

    agrees(compute, rtol=1e-4, atol=1e-5)


def test_a_reference_goes_through_files(tmp_path, device):
    reference_of("pca", device).save(tmp_path / "reference.safetensors")
    found, expected = GaussianReference.load(tmp_path / "reference.safetensors"), reference_of("pca", "cpu")
    assert torch.equal(found.basis[0], expected.basis[0])
    assert torch.equal(found.variance, expected.variance)


# --- teachers --------------------------------------------------------------------------------------------------------


class Stopped(Exception):
    pass


def test_a_training_goes_on_where_it_was_stopped(agrees, device, tmp_path):
    """On a GPU to rounding: some of its sums have no order."""

    def trained(where, out, stop=None):
        torch.manual_seed(0)
        network = MLP(2, width=8, blocks=1).to(where)

        def loss(iteration, generator):
            if iteration == stop:
                raise Stopped
            x = torch.randn(16, 2, generator=generator, device=where)
            return (network(x, x[:, 0].abs()) - x.sin()).square().mean(), 16

        options = TrainingOptions(iterations=4, warmup=1, checkpoint_every=1)
        return train(network, loss, out, options, recorded={}, progress=False)

    with pytest.raises(Stopped):
        trained(device, tmp_path / "resumed", stop=2)
    pairs = zip(
        trained(device, tmp_path / "resumed").parameters(),
        trained(device, tmp_path / "whole").parameters(),
        strict=True,
    )
    for resumed, whole in pairs:
        torch.testing.assert_close(resumed, whole, rtol=0, atol=1e-5 if device == "cuda" else 0.0)
    agrees(lambda where: trained(where, tmp_path / f"again-{where}"), rtol=1e-4, atol=1e-4, draws=True)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_teacher(agrees, tmp_path, precision):
    def compute(device):
        torch.manual_seed(0)
        network = MLP(2, width=8, blocks=1).to(device)
        options = TrainingOptions(iterations=3, warmup=1, precision=precision, parts=2)
        return train_teacher(network, DATA, tmp_path / device, options, batch=8, progress=False)

    agrees(compute, rtol=1e-3, atol=1e-4 if precision == "float32" else 5e-3, draws=True)


def test_samples_of_a_teacher(agrees):
    """On the CPU, where a reference is fitted to them."""

    def compute(device):
        return teacher_samples(
            teacher_on(device), replace(space_on(device), reference=GaussianReference(0.0, 0.0).to(device)), 6
        )

    agrees(compute, rtol=1e-3, atol=1e-4, draws=True, stays=False)


@pytest.mark.parametrize("scheme", ["path_average", "euler", "dpm_solver_2m"])
@pytest.mark.parametrize("kind", KINDS)
def test_paths_of_a_teacher(agrees, scheme, kind):
    def compute(device):
        space, generator = space_on(device, kind, depth=3), torch.Generator(device).manual_seed(0)
        made = draw_paths(teacher_on(device), space, TeacherOptions(scheme, 8, 4), 3, generator=generator)
        coarse = made.coarse(2)
        return made.states, made.signature, coarse.states, coarse.signature, made.rows(slice(1, 2)).states

    agrees(compute, rtol=1e-4, atol=1e-5, draws=True)


def test_kept_paths(agrees, tmp_path):
    def compute(device):
        cache = PathCache(tmp_path / device, teacher_on(device), space_on(device), FINE, paths=6, progress=False)
        drawn = cache.draw(3, torch.Generator(device).manual_seed(0))
        return drawn.states, drawn.signature

    agrees(compute, rtol=1e-4, atol=1e-5, draws=True)


# --- distillation ----------------------------------------------------------------------------------------------------


RUNS = {
    "local": {},
    "a scalar reference": {"kind": "scalar"},
    "principal components": {"kind": "pca"},
    "no reference": {"kind": "none"},
    "kept rollouts": {"pairs": "rollout", "paths": 6},
    "fresh rollouts": {"pairs": "rollout", "paths": 0},
    "both": {"pairs": "both", "paths": 0, "local_share": 0.5},
    "plain": {"cell": "plain"},
    "plain rollouts": {"cell": "plain", "pairs": "rollout", "paths": 0},
    "recomputed": {"recompute": True},
    "recomputed rollouts": {"pairs": "rollout", "paths": 0, "recompute": True},
    "window": {"pairs": "rollout", "paths": 0, "window": 1},
    "low rank": {"rank": 1},
    "coefficients": {"only_coefficients": True},
    "another teacher": {"corrected": True},
    "bfloat16": {"precision": "bfloat16"},
}


class Shrinking(torch.nn.Module):
    """A denoiser that is none of our networks, with the SNR as a number or per sample."""

    def forward(self, y, snr):
        return y / (1 + torch.as_tensor(snr).to(y).reshape(-1, 1))


def distilled(device, out, name, *, iterations=2, teacher=None, steps=(2, 4), checkpoint_every=2):
    settings = {"kind": "coordinates", "precision": "float32", "corrected": False, **RUNS[name]}
    made = {key: settings.pop(key) for key in ("cell", "rank") if key in settings}
    kind, precision = settings.pop("kind"), settings.pop("precision")
    own = SNRDenoiser(Shrinking()) if settings.pop("corrected") else None
    student = student_on(device, kind, teacher=own, sigma_data=0.8, **made)
    training = TrainingOptions(iterations=iterations, warmup=1, precision=precision, checkpoint_every=checkpoint_every)
    options = DistillOptions(steps=steps, evaluations=4, teacher_options=FINE, training=training, **settings)
    return distill(student, own or teacher or teacher_on(device), out, options, data=DATA, progress=False)


@pytest.mark.parametrize("name", RUNS)
def test_distillation(agrees, tmp_path, name):
    tolerance = 1e-3 if RUNS[name].get("precision") == "bfloat16" else 1e-4

    def compute(device):
        made = distilled(device, tmp_path / device, name)
        return made, made.sample(range(3), 4)

    agrees(compute, rtol=10 * tolerance, atol=10 * tolerance, draws=True)


def test_a_distillation_goes_on(device, tmp_path):
    whole = distilled(device, tmp_path / "whole", "local", checkpoint_every=1)
    half, teacher = tmp_path / "half", teacher_on(device)

    def stop(*_):
        if list(half.glob("checkpoint*")):
            raise Stopped

    handle = teacher.register_forward_pre_hook(stop)
    with pytest.raises(Stopped):
        distilled(device, half, "local", checkpoint_every=1, teacher=teacher)
    handle.remove()
    resumed = distilled(device, half, "local", checkpoint_every=1, teacher=teacher)
    for value, other in zip(resumed.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(value, other, rtol=0, atol=1e-5 if device == "cuda" else 0.0)


@pytest.mark.parametrize("kind", ["scalar", "dct"])
def test_images_are_distilled(agrees, tmp_path, kind):
    """A network of convolutions, and a reference in the basis of a cosine transform."""
    data = torch.randn(30, 1, 8, 8, generator=torch.Generator().manual_seed(0))

    def compute(device):
        torch.manual_seed(0)
        teacher = NetworkDenoiser(UNet(1, 8, widths=(8,)), 0.6).to(device)
        space = PathSpace((1, 8, 8), SNR, GaussianReference.fit(data, kind).to(device), cells=2**6, depth=4)
        student = SigDEG.from_teacher(teacher, space, depth=2).to(device)
        training = TrainingOptions(iterations=1, warmup=1)
        options = DistillOptions(steps=(2, 4), evaluations=4, teacher_options=FINE, training=training)
        out = tmp_path / f"{kind}-{device}"
        return distill(student, teacher, out, options, data=data, progress=False).sample(range(2), 4)

    agrees(compute, rtol=1e-2, atol=1e-2, draws=True)


# --- measurements ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["scalar", "pca"])
def test_a_comparison(agrees, kind):
    def compute(device):
        generators = {
            "ours": student_on(device, kind, cells=2**3),
            "plain": student_on(device, kind, cells=2**3, cell="plain"),
        }
        comparison = Comparison(teacher_on(device), space_on(device, kind, cells=2**3, depth=2), truth_steps=8, batch=8)
        samplers = [
            *training_free(comparison.space, (2,)).values(),
            *(generator_sampler(key, generator, (2,)) for key, generator in generators.items()),
        ]
        made = evaluate(comparison, samplers, DATA, seeds=range(8), progress=False)
        errors = [made.store.errors(sampler.key, 2) for sampler in samplers if sampler.follows]
        assert paired_ratio(errors[0], errors[0])[0] == 1.0
        assert made.store.converged.device.type == device
        numbers = [row["pathwise_rmse"] for row in made.rows if row["pathwise_rmse"] is not None]
        return made.store.converged.cpu(), *(error.cpu() for error in errors), torch.tensor(numbers)

    agrees(compute, rtol=1e-3, atol=1e-4, stays=False)


@pytest.mark.parametrize("kind", ["scalar", "coordinates"])
def test_a_floor(agrees, kind):
    def compute(device):
        options = {"steps": 2, "depth": 2, "groups": 6, "teacher_options": FINE}
        floor = information_floor(teacher_on(device), space_on(device, kind), **options)
        return torch.tensor([floor.rmse, floor.standard_error])

    agrees(compute, rtol=1e-3, draws=True, stays=False)


@pytest.mark.parametrize("kind", ["scalar", "coordinates"])
def test_a_grid(agrees, kind):
    def compute(device):
        options = {"cells": 3, "fine_per_cell": 2, "paths": 8, "progress": False}
        return torch.tensor(choose_grid(teacher_on(device), space_on(device, kind), **options).quantiles)

    agrees(compute, rtol=1e-3, draws=True, stays=False)


@pytest.mark.parametrize("referenced", [True, False])
@pytest.mark.parametrize("kind", ["scalar", "coordinates", "pca"])
def test_a_calibration(agrees, kind, referenced, tmp_path):
    """Its numbers, and a sample by them, as they are measured and as they are read from a file."""

    def compute(device):
        teacher, space = teacher_on(device), space_on(device, kind)
        plain = Sampler("plain", "plain", (2, 3), scheme=PathAverage(), referenced=referenced)
        options = {"file": tmp_path / f"{device}.safetensors", "paths": 16, "fine_steps": 4, "progress": False}
        (tmp_path / f"{device}.safetensors").unlink(missing_ok=True)
        found, again = (calibrated_sampler(plain, teacher, space, **options) for _ in range(2))
        x, own = (Comparison(teacher, space).follow([(one, 3)], range(2))[one.key, 3] for one in (found, again))
        assert torch.equal(x, own)
        moments = found.scheme.moments[3]
        return torch.cat([moments.gain.flatten(), moments.shift.flatten(), x.flatten()])

    agrees(compute, rtol=1e-3, draws=True)


def test_cells_that_another_device_measured_are_not_used(device, tmp_path):
    """A seed gives other paths there: the teacher is asked as often as if nothing were kept."""
    asked = {}
    for where in ("cpu", device):
        teacher, asked[where] = teacher_on(where), []
        teacher.register_forward_hook(lambda *_, calls=asked[where]: calls.append(1))
        options = {"cells": 3, "fine_per_cell": 2, "paths": 2, "progress": False}
        kept = {"kept": tmp_path / "cells.safetensors", "recorded": {"teacher": "mixture"}}
        choose_grid(teacher, space_on(where), **options, **kept)
    assert asked[device] == asked["cpu"] != []


def test_distances_of_features(agrees):
    def compute(device):
        features = torch.randn(80, 2, generator=torch.Generator().manual_seed(0)).to(device)
        real, sums = FeatureStatistics.of(features[:40]), FeatureSums(2)
        sums.update(features[40:])
        limit = extrapolated_distance(features[40:], real)
        ratio = frechet_ratio(features[:40], features[40:] + 1, real, resamples=3)
        return torch.tensor([real.distance(sums.statistics()), limit.value, limit.standard_error, *ratio])

    agrees(compute, rtol=1e-6, stays=False)

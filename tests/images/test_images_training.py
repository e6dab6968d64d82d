"""Networks of image teachers, torch.compile, and training from uint8 images."""

import warnings

import pytest
import torch

from sdesig.evaluation.pixels import ImageSet, pixel_digest
from sdesig.images.diffusers_unet import DiffusersUNet
from sdesig.images.image_network import compile_network, image_network
from sdesig.sampling import GaussianReference, PathSpace, TeacherOptions
from sdesig.sigdeg import DistillOptions, NetworkDenoiser, SigDEG, TrainingOptions, UNet, distill, train_teacher
from sdesig.sigdeg.path_cache import PathCache, shard_rows
from sdesig.sigdeg.training_data import check_data, draw_rows, standard_deviation

EVENT = (1, 8, 8)


def pictures(n=20, event=EVENT):
    pixels = torch.randint(0, 256, (n, *event), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return ImageSet(pixels, pixel_digest(pixels), "pictures")


def same(one, other):
    first, second = one.state_dict(), other.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


# --- data ------------------------------------------------------------------------------------------------------------


def test_images_are_the_same_data_as_their_floats():
    images = pictures()
    floats = images.pixels.float() / 127.5 - 1
    one, other = (draw_rows(data, 7, torch.Generator().manual_seed(1)) for data in (images, floats))
    assert torch.equal(one, other)
    assert one.dtype == torch.float32
    assert standard_deviation(images) == pytest.approx(floats.double().std().item(), rel=1e-12)
    assert standard_deviation(floats) == floats.std().item()


@pytest.mark.parametrize("n, event", [(20, (3, 8, 8)), (1, EVENT)])
def test_data_of_another_shape_are_refused(n, event):
    data = pictures(n, event)
    for given in (data, data.floats()):
        with pytest.raises(ValueError, match=r"data must have shape \(n >= 2, \(1, 8, 8\)\); got "):
            check_data(given, EVENT)


def test_only_a_batch_of_images_is_floating_point(tmp_path, monkeypatch):
    images, asked = pictures(), []
    floats = ImageSet.floats
    monkeypatch.setattr(
        ImageSet, "floats", lambda self, rows, **on: asked.append(len(rows)) or floats(self, rows, **on)
    )
    options = TrainingOptions(iterations=3)
    train_teacher(UNet(1, 8, widths=(8,)), images, tmp_path, options, batch=4, progress=False)
    assert asked == [20, 4, 4, 4]  # once through all of them, 1024 at a time, for their standard deviation


# --- training --------------------------------------------------------------------------------------------------------


def teach(out, data, **options):
    torch.manual_seed(0)
    network = options.pop("network", None) or UNet(1, 8, widths=(8,))
    training = TrainingOptions(iterations=3, warmup=0)
    return train_teacher(network, data, out, training, batch=4, progress=False, **options)


def test_a_teacher_of_images_is_that_of_their_floats(tmp_path):
    one, other = teach(tmp_path / "a", pictures()), teach(tmp_path / "b", pictures().floats())
    assert one.sigma_data == pytest.approx(other.sigma_data, rel=1e-6)
    for mine, theirs in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


def test_flips_turn_every_other_image_around(tmp_path):
    """The network is shown what is half of the time an image, and half of the time its mirror image, at no noise."""
    seen = []

    class Spy(UNet):
        def compute(self, x, noise, conditions, extra):
            seen.append(x.detach().clone())
            return super().compute(x, noise, conditions, extra)

    image = pictures(1).floats().expand(2, *EVENT).contiguous()
    torch.manual_seed(0)
    training = TrainingOptions(iterations=30, learning_rate=1e-6)
    for flip in (True, False):
        seen.clear()
        train_teacher(
            Spy(1, 8, widths=(8,)),
            image,
            tmp_path / str(flip),
            training,
            batch=16,
            log_sigma=(-8.0, 0.0),
            flip=flip,
            progress=False,
        )
        shown = torch.cat(seen) * image.std()  # c_in at no noise
        as_it_is = (shown - image[0]).abs().amax((1, 2, 3)) < 0.02
        turned = (shown - image[0].flip(-1)).abs().amax((1, 2, 3)) < 0.02
        assert bool((as_it_is ^ turned).all())
        # 480 fair coins, false-alarm rate 1e-7
        assert abs(turned.sum().item() - 240 * flip) < (60 if flip else 1)


def test_students_learn_from_images_as_from_their_floats(tmp_path):
    torch.manual_seed(0)
    teacher = NetworkDenoiser(UNet(1, 8, widths=(8,)), 0.6).eval()
    reference = GaussianReference.fit(pictures().floats(), "dct")
    training = TrainingOptions(iterations=2, warmup=0)
    options = DistillOptions(
        steps=(2, 4), evaluations=8, teacher_options=TeacherOptions(steps=8, cells=4), training=training
    )
    made = []
    for name, data in (("a", pictures()), ("b", pictures().floats())):
        torch.manual_seed(1)
        student = SigDEG.from_teacher(teacher, PathSpace(EVENT, (0.01, 100.0), reference), depth=2)
        made.append(distill(student, teacher, tmp_path / name, options, data=data, progress=False))
    assert same(*made)


def test_shards_of_paths_are_as_large_as_memory_allows(monkeypatch, tmp_path):
    teacher = NetworkDenoiser(UNet(1, 8, widths=(8,)), 0.6).eval()
    reference = GaussianReference.fit(pictures().floats(), "scalar")
    space = PathSpace(EVENT, (0.01, 100.0), reference, depth=4)
    options = TeacherOptions(steps=8, cells=4)
    assert shard_rows(space, options) == 512  # 512 * 8 steps * depth 4 * 64 coordinates are 2^20
    monkeypatch.setattr("sdesig.sigdeg.path_cache.NUMBERS", 5 * 8 * 4 * 64)
    assert shard_rows(space, options) == 4
    with pytest.raises(ValueError, match="paths must be a multiple of 4; got 10"):
        PathCache(tmp_path, teacher, space, options, paths=10, progress=False)
    cache = PathCache(tmp_path, teacher, space, options, paths=12, progress=False)
    assert sorted(file.name for file in tmp_path.glob("paths-*")) == [f"paths-0000{k}.safetensors" for k in range(3)]
    # 4 * (4 * 4 + 5) * 64 numbers each, of which there is room for one
    drawn = {cache.draw(2, torch.Generator().manual_seed(k)).states.shape for k in range(20)}
    assert drawn == {(5, 2, *EVENT)}
    assert len(cache._loaded) == 1


# --- networks --------------------------------------------------------------------------------------------------------


def test_our_network():
    network = image_network("unet", EVENT, widths=(8, 16), patch=2)
    assert isinstance(network, UNet)
    assert (network.event, network.widths, network.patch) == (EVENT, (8, 16), 2)


def test_diffusers_network_is_the_model_of_its_configuration(diffusers):
    torch.manual_seed(0)
    network = image_network("unet2d", (3, 8, 8), widths=(8, 16), attention=(1,), layers=1)
    assert isinstance(network, DiffusersUNet)
    torch.manual_seed(0)
    model = diffusers.UNet2DModel(
        sample_size=8,
        in_channels=3,
        out_channels=3,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=8,
    )
    x, noise = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([-1.2, 0.4])
    with torch.no_grad():
        torch.testing.assert_close(network(x, noise), model(x, noise).sample)


@pytest.mark.usefixtures("diffusers")
def test_a_teacher_with_the_diffusers_network(tmp_path):
    network = image_network("unet2d", EVENT, widths=(8,), layers=1)
    made = teach(tmp_path, pictures(), network=network)
    again = NetworkDenoiser.load(tmp_path / "teacher")
    assert isinstance(again.network, DiffusersUNet)
    assert same(again, made)
    y = torch.randn(2, *EVENT, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(again(y, torch.tensor(2.0)), made(y, torch.tensor(2.0)))


@pytest.mark.parametrize(
    "arguments, match",
    [
        ({"kind": "vit"}, "kind must be one of 'unet', 'unet2d'; got 'vit'"),
        ({"event": (1, 8, 6)}, r"event must be \(channels, size, size\); got \(1, 8, 6\)"),
        ({"event": (64,)}, r"event must be \(channels, size, size\); got \(64,\)"),
        ({"attention": (0,)}, "attention and layers must be left out for the network 'unet'"),
        ({"layers": 3}, "attention and layers must be left out for the network 'unet'"),
        ({"widths": (12,)}, r"widths must be one or more multiples of 8; got \(12,\)"),
        ({"kind": "unet2d", "patch": 2}, "patch must be 1 for the network 'unet2d', which has no patches; got 2"),
        ({"kind": "unet2d", "widths": (12,)}, r"widths must be one or more multiples of 8; got \(12,\)"),
        ({"kind": "unet2d", "widths": ()}, r"widths must be one or more multiples of 8; got \(\)"),
        ({"kind": "unet2d", "attention": (1,)}, r"attention must be in \[0, 0\]; got 1"),
        ({"kind": "unet2d", "layers": 0}, "layers must be >= 1; got 0"),
    ],
)
def test_networks_that_are_refused(arguments, match):
    arguments = {"kind": "unet", "event": EVENT, "widths": (8,)} | arguments
    with pytest.raises(ValueError, match=match):
        image_network(arguments.pop("kind"), arguments.pop("event"), **arguments)


@pytest.mark.usefixtures("diffusers")
def test_sizes_that_cannot_be_halved_are_refused():
    with pytest.raises(ValueError, match="sample_size must be one number"):
        image_network("unet2d", (1, 9, 9), widths=(8, 8))


# --- torch.compile ---------------------------------------------------------------------------------------------------


def test_a_compiled_network_trains_to_the_same_teacher(tmp_path, compiled_batches):
    """The compiler is replaced by one that only counts: what is trained, saved and loaded is the network."""
    torch.manual_seed(0)
    network = UNet(1, 8, widths=(8,))
    compile_network(network, 4)
    assert compiled_batches == [4]
    assert all(p.grad is None for p in network.parameters())
    made = teach(tmp_path / "a", pictures(), network=network)
    assert compiled_batches == [4] * 4
    assert same(made, teach(tmp_path / "b", pictures()))
    assert same(NetworkDenoiser.load(tmp_path / "a" / "teacher"), made)


def test_without_a_compiler_training_goes_on(monkeypatch):
    def broken(call, **_):
        def compiled(*_):
            raise RuntimeError("InvalidCxxCompiler: no C++ compiler\nand a long trace")

        return compiled

    network = UNet(1, 8, widths=(8,))
    monkeypatch.setattr(torch, "compile", broken)
    with pytest.warns(UserWarning, match="goes on without it: InvalidCxxCompiler: no C..? compiler$"):
        compile_network(network, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        network(torch.zeros(2, *EVENT), torch.zeros(2))


def test_out_of_memory_is_no_failure_of_the_compiler(monkeypatch):
    def full(call, **_):
        def compiled(*_):
            raise torch.cuda.OutOfMemoryError("out of memory")

        return compiled

    monkeypatch.setattr(torch, "compile", full)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        compile_network(UNet(1, 8, widths=(8,)), 4)

"""Networks and the denoisers made of them: widening changes nothing, configurations round trip, shapes are refused."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from sdesig.sigdeg import MLP, NetworkDenoiser, UNet
from sdesig.sigdeg.networks import NETWORKS, make_network, network_for

KINDS = {
    "mlp": lambda **more: MLP(3, width=16, blocks=2, **more),
    "unet": lambda **more: UNet(2, 4, widths=(8, 16), **more),
    "unet of patches": lambda **more: UNet(1, 8, widths=(16, 32), patch=2, **more),
    "unet of one level": lambda **more: UNet(1, 3, widths=(8,), **more),
}
every_kind = pytest.mark.parametrize("make", KINDS.values(), ids=KINDS.keys())


def seeded(make, seed=0, **more):
    """A network all of whose weights are random, those that start at zero too."""
    network = make(**more)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in network.parameters():
            p.copy_(0.3 * torch.randn(p.shape, generator=generator))
    return network


def normal(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@every_kind
def test_a_widened_network_computes_what_it_did_before(make):
    teacher = seeded(make)
    wide = teacher.widened(2, 3)
    assert (wide.conditions, wide.extra, wide.event) == (2, 3, teacher.event)
    x, level = normal(5, *teacher.event), normal(5, seed=2)
    expected = teacher(x, level)
    for scale in (0.0, 1.0, 1e3):
        for conditions in (scale * normal(2, seed=3), scale * normal(5, 2, seed=3)):
            extra = scale * normal(5, 3, *teacher.event, seed=4)
            torch.testing.assert_close(wide(x, level, conditions, extra), expected, rtol=1e-6, atol=1e-6)
    assert torch.equal(wide(x, level, normal(2), normal(5, 3, *teacher.event)), expected)


@every_kind
def test_a_widened_network_is_a_copy_that_can_learn_from_its_new_inputs(make):
    teacher = seeded(make)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    wide = teacher.widened(2, 3)
    x, level, extra = normal(5, *teacher.event), normal(5, seed=2), normal(5, 3, *teacher.event, seed=4)
    wide(x, level, normal(2), extra).square().sum().backward()
    new = [p for name, p in wide.named_parameters() if name not in before]
    assert len(new) == 2
    for p in new:
        assert (p == 0).all()
        assert (p.grad != 0).any()
    with torch.no_grad():
        for p in wide.parameters():
            p.add_(0.1)
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert (wide(x, level, normal(2), extra) - wide(x, level, normal(2), -extra)).abs().max() > 1e-3
    assert (wide(x, level, normal(2), extra) - wide(x, level, -normal(2), extra)).abs().max() > 1e-3


def test_a_widened_network_keeps_its_dtype():
    assert next(seeded(KINDS["mlp"]).double().widened(2, 1).parameters()).dtype == torch.float64


@every_kind
def test_one_noise_level_for_the_batch_is_that_level_for_every_row(make):
    network = seeded(make, conditions=2, extra=1)
    x, extra, level = normal(5, *network.event), normal(5, 1, *network.event), torch.tensor(0.3)
    one = network(x, level.expand(5), normal(2), extra)
    for levels in (level, level.reshape(1), torch.full((5,), 0.3)):
        torch.testing.assert_close(network(x, levels, normal(2), extra), one, rtol=1e-5, atol=1e-5)
    per_row = network(x, level.expand(5), normal(2).expand(5, 2), extra)
    torch.testing.assert_close(per_row, one, rtol=1e-5, atol=1e-5)


@every_kind
def test_rows_are_independent(make):
    """Row k is a function of its own x, level, conditions and extra inputs."""
    network = seeded(make, conditions=2, extra=1)
    x, levels, conditions, extra = (
        normal(*shape, seed=k) for k, shape in enumerate([(6, *network.event), (6,), (6, 2), (6, 1, *network.event)])
    )
    whole = network(x, levels, conditions, extra)
    for k in (0, 3):
        rows = slice(k, k + 1)
        alone = network(x[rows], levels[rows], conditions[rows], extra[rows])
        torch.testing.assert_close(alone, whole[rows], rtol=1e-5, atol=1e-5)
    assert (network(x, levels + 0.5, conditions, extra) - whole).abs().max() > 1e-3


@every_kind
def test_zero_last_gives_zeros(make):
    network = seeded(make, conditions=2, extra=1)
    network.zero_last()
    x, extra = normal(5, *network.event), normal(5, 1, *network.event)
    assert torch.equal(network(x, normal(5), normal(2), extra), torch.zeros_like(x))


@every_kind
@pytest.mark.parametrize("more", [{}, {"conditions": 2, "extra": 3}], ids=["plain", "wide"])
def test_a_configuration_makes_the_network_again(make, more):
    network = seeded(make, **more)
    config = json.loads(json.dumps(NETWORKS.config(network)))
    again = make_network(config)
    assert type(again) is type(network)
    assert NETWORKS.config(again) == NETWORKS.config(network)
    again.load_state_dict(network.state_dict())
    inputs = normal(4, *network.event), normal(4), normal(2), normal(4, 3, *network.event)
    assert torch.equal(again(*inputs), network(*inputs))


def test_networks_for_events():
    assert isinstance(network_for((7,), width=8), MLP)
    unet = network_for((3, 8, 8), widths=(8, 8), conditions=2)
    assert isinstance(unet, UNet)
    assert (unet.event, unet.conditions) == ((3, 8, 8), 2)


# --- denoisers -----------------------------------------------------------------------------------------------------


def sigmas():
    return torch.tensor([0.01, 0.4, 30.0])


def test_patches_are_the_channels_of_a_smaller_image():
    whole, small = UNet(1, 8, widths=(8, 16), patch=2, extra=2), UNet(4, 4, widths=(8, 16))
    small.load_state_dict({key: value for key, value in whole.state_dict().items() if "extra" not in key})
    x, noise = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.zeros(3)
    patches = x.reshape(3, 4, 2, 4, 2).permute(0, 2, 4, 1, 3).reshape(3, 4, 4, 4)
    expected = small(patches, noise).reshape(3, 2, 2, 4, 4).permute(0, 3, 1, 4, 2).reshape(3, 1, 8, 8)
    torch.testing.assert_close(whole(x, noise, extra=torch.ones(3, 2, 1, 8, 8)), expected)


@every_kind
def test_denoiser_is_the_preconditioned_network(make):
    """Karras et al. 2022, eq. 7 and table 1, by hand; y = x/sigma^2 at the SNR 1/sigma^2."""
    network, data = seeded(make), 0.7
    denoiser = NetworkDenoiser(network, data)
    x = normal(3, *network.event)
    s = sigmas().reshape(-1, *[1] * len(network.event))
    skip, scale = data**2 / (s**2 + data**2), s * data / (s**2 + data**2).sqrt()
    expected = skip * x + scale * network(x / (s**2 + data**2).sqrt(), sigmas().log() / 4)
    torch.testing.assert_close(denoiser.denoiser(x, sigmas()), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(denoiser(x / s**2, 1 / sigmas() ** 2), expected, rtol=1e-4, atol=1e-4)


@every_kind
def test_a_widened_denoiser_denoises_as_before(make):
    denoiser = NetworkDenoiser(seeded(make), 0.7)
    y, extra = normal(3, *denoiser.event), normal(3, 2, *denoiser.event)
    for snr in (torch.tensor(0.3, dtype=torch.float64), sigmas()):
        assert torch.equal(denoiser.widened(2, 2)(y, snr, normal(2), extra), denoiser(y, snr))


@every_kind
def test_denoisers_save_and_load(make, tmp_path):
    denoiser = NetworkDenoiser(seeded(make), 0.7)
    denoiser.save(tmp_path / "teacher")
    loaded = NetworkDenoiser.load(tmp_path / "teacher")
    y = normal(3, *denoiser.event)
    assert torch.equal(loaded(y, sigmas()), denoiser(y, sigmas()))
    assert (loaded.sigma_data, loaded.event, loaded.training) == (0.7, denoiser.event, False)


def test_half_the_bits_are_half_the_file(tmp_path):
    """The weights are those rounded to float16, and compute in float32."""
    denoiser = NetworkDenoiser(seeded(KINDS["mlp"]), 0.7)
    for half in (False, True):
        denoiser.save(tmp_path / str(half), half=half)
    whole, half = ((tmp_path / name / "weights.safetensors").stat().st_size for name in ("False", "True"))
    assert half < 0.6 * whole
    loaded = NetworkDenoiser.load(tmp_path / "True").network.state_dict()
    for name, value in denoiser.network.state_dict().items():
        assert loaded[name].dtype == torch.float32
        assert torch.equal(loaded[name], value.half().float())


# --- refusals ------------------------------------------------------------------------------------------------------


def ask(make=KINDS["mlp"], x=(4, 3), conditions=(2,), extra=(4, 1, 3)):
    network = make(conditions=2, extra=1)
    tensors = [None if shape is None else torch.zeros(shape) for shape in (conditions, extra)]
    return network(torch.zeros(x), torch.zeros(x[0]), *tensors)


@pytest.mark.parametrize(
    "call, error, match",
    [
        (lambda: ask(x=(4, 2)), ValueError, r"x must have shape \(batch, 3\); got \(4, 2\)"),
        (lambda: ask(x=(4, 3, 1)), ValueError, r"x must have shape \(batch, 3\); got \(4, 3, 1\)"),
        (lambda: ask(extra=(4, 2, 3)), ValueError, r"extra must have shape \(4, 1, 3\); got \(4, 2, 3\)"),
        (lambda: ask(extra=(1, 1, 3)), ValueError, r"extra must have shape \(4, 1, 3\); got \(1, 1, 3\)"),
        (lambda: ask(extra=None), ValueError, r"extra must have shape \(4, 1, 3\); got None"),
        (
            lambda: ask(conditions=None),
            ValueError,
            "conditions must have 2 numbers .* got shape None",
        ),
        (lambda: ask(conditions=(3,)), ValueError, r"conditions must have 2 numbers .* got shape \(3,\)"),
        (
            lambda: ask(KINDS["unet"], x=(4, 2, 8, 8), extra=(4, 1, 2, 8, 8)),
            ValueError,
            r"x must have shape \(batch, 2, 4, 4\); got \(4, 2, 8, 8\)",
        ),
        (lambda: MLP(3, width=8).widened(2, 1).widened(2, 1), ValueError, "widened needs a network without extra"),
        (lambda: MLP(3, width=8, extra=1).widened(2, 1), ValueError, "widened needs a network without extra inputs"),
        (lambda: MLP(0), ValueError, "dim must be >= 1; got 0"),
        (lambda: MLP(3, blocks=0), ValueError, r"blocks must be in \[1, 1000\]; got 0"),
        (lambda: MLP(3, conditions=-1), ValueError, "conditions must be >= 0; got -1"),
        (lambda: MLP(3, extra=1.5), TypeError, "extra must be an integer; got 1.5"),
        (
            lambda: UNet(1, 6, widths=(8, 8, 8)),
            ValueError,
            "size must be a multiple of 4, for 3 widths and patch 1; got 6",
        ),
        (lambda: UNet(1, 6, widths=(8, 8), patch=2), ValueError, "a multiple of 4, for 2 widths and patch 2; got 6"),
        (lambda: UNet(1, 8, patch=0), ValueError, "patch must be >= 1; got 0"),
        (lambda: UNet(1, 8, widths=(12,)), ValueError, r"widths must be one or more multiples of 8; got \(12,\)"),
        (lambda: UNet(1, 8, widths=()), ValueError, r"widths must be one or more multiples of 8; got \(\)"),
        (lambda: UNet(0, 8), ValueError, "channels must be >= 1; got 0"),
        (lambda: make_network({"kind": "resnet"}), ValueError, "kind of network must be one of 'mlp', 'unet'"),
        (lambda: make_network({"dim": 3}), ValueError, "kind of network must be one of 'mlp', 'unet'; got None"),
        (lambda: make_network({"kind": "mlp", "dim": 3, "depth": 2}), TypeError, "depth"),
        (lambda: network_for((3, 8, 4)), ValueError, r"event must be \(dim,\) or \(channels, size, size\)"),
        (lambda: network_for((3, 8)), ValueError, r"event must be \(dim,\) or .* got \(3, 8\)"),
        (lambda: NetworkDenoiser(MLP(3, width=8), 0.0), ValueError, "sigma_data must be a finite number > 0"),
    ],
)
def test_refusals(call, error, match):
    with pytest.raises(error, match=match):
        call()


def broken(folder, spoil):
    """A saved denoiser, one of its files spoilt."""
    NetworkDenoiser(seeded(KINDS["mlp"]), 0.7).save(folder)
    config = json.loads((folder / "config.json").read_text())
    spoil(folder, config)
    return NetworkDenoiser.load(folder)


def with_config(**changes):
    return lambda folder, config: (folder / "config.json").write_text(json.dumps({**config, **changes}))


def with_weights(change):
    def spoil(folder, config):
        tensors = {name: value.clone() for name, value in load_file(folder / "weights.safetensors").items()}
        change(tensors)
        save_file(tensors, folder / "weights.safetensors")

    return spoil


@pytest.mark.parametrize(
    "spoil, error, match",
    [
        (lambda folder, _: (folder / "config.json").unlink(), FileNotFoundError, "has no config.json"),
        (lambda folder, _: (folder / "weights.safetensors").unlink(), FileNotFoundError, "does not exist"),
        (lambda folder, _: (folder / "config.json").write_text("{"), ValueError, "is not JSON"),
        (lambda folder, _: (folder / "config.json").write_text("[]"), ValueError, "must hold a JSON object"),
        (with_config(type="sig_deg"), ValueError, "must hold a denoiser; its config.json says 'sig_deg'"),
        (with_config(sigma_data=-1.0), ValueError, "sigma_data must be"),
        (with_config(network={"kind": "mlp", "dim": 2, "width": 16, "blocks": 2}), ValueError, "must be .* of shape"),
        (with_weights(lambda tensors: tensors.pop("first.bias")), ValueError, "missing: first.bias"),
        (with_weights(lambda tensors: tensors.update(more=torch.ones(1))), ValueError, "unknown: more"),
        (with_weights(lambda tensors: tensors["final.bias"].fill_(torch.nan)), ValueError, "final.bias is not finite"),
        (
            with_weights(lambda tensors: tensors.update({"final.bias": torch.zeros(3).double()})),
            ValueError,
            r"final.bias must be torch.float32 of shape \(3,\); it is torch.float64",
        ),
        (
            lambda folder, _: torch.save({"first.bias": torch.zeros(16)}, folder / "weights.safetensors"),
            ValueError,
            "not a complete safetensors file .* pickles are not loaded",
        ),
    ],
)
def test_broken_files_are_refused(spoil, error, match, tmp_path):
    with pytest.raises(error, match=match):
        broken(tmp_path, spoil)


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing is not a folder"):
        NetworkDenoiser.load(tmp_path / "nothing")

"""DDPM++ and NCSN++: the function that other implementations compute, with inputs that a student can learn from."""

import json

import pytest
import torch
from images_tiny import check_widened, normal, seeded
from song_reference import CONFIG, KINDS, Reference, config_of

from sdesig.images.song_unet import SongUNet
from sdesig.sigdeg.networks import NETWORKS, make_network

every_kind = pytest.mark.parametrize("changes", KINDS.values(), ids=KINDS.keys())


def of(label=None, reference=None, **changes):
    """With the weights of a reference; without one of the configuration that is changed so, with random ones."""
    if reference is None:
        torch.manual_seed(0)
        return seeded(SongUNet(**config_of(**changes), label=label))
    network = SongUNet(**reference.config(), label=label)
    network.load_state_dict(reference.edm())
    return network.eval()


def inputs(batch=3, scale=1.0):
    """x, noise levels, conditions, extra inputs."""
    extra = scale * normal(batch, 3, 2, 16, 16, seed=4)
    return normal(batch, 2, 16, 16), torch.tensor([0.3, -1.0, 1.5])[:batch], scale * normal(2, seed=3), extra


def wide(network, seed=1):
    """With 2 conditions and 3 extra inputs, and weights that make use of them."""
    return seeded(network.widened(2, 3), seed)


@every_kind
def test_it_computes_what_other_implementations_do(changes):
    """Those are score-SDE's algorithm on the blocks of diffusers; their positional embedding is in float32."""
    reference, (x, noise, _, _) = Reference(**changes).double(), inputs()
    expected = reference(x.double(), noise.double())
    network = of(reference=reference).double()
    tolerance = 1e-12 if network.embedding == "fourier" else 1e-6
    torch.testing.assert_close(network(x.double(), noise.double()), expected, rtol=tolerance, atol=tolerance)
    other = Reference(**changes, seed=1).double()(x.double(), noise.double())
    assert (other - expected).abs().max() > 0.1


def published(levels, blocks, width=128, *, noise=1, residual=False, labels=0):
    """Number of parameters by the tables of the papers: 3 channels, attention at the second level and in the middle."""

    def linear(a, b):
        return a * b + b

    def conv(a, b, kernel=3):
        return linear(a * kernel**2, b)

    def block(a, b, resampled=False):
        skip = conv(a, b, 1) if a != b or resampled else 0
        return 2 * a + conv(a, b) + linear(4 * width, b) + 2 * b + conv(b, b) + skip

    def attention(a):
        return 2 * a + conv(a, 3 * a, 1) + conv(a, a, 1)

    total = linear(noise * width, 4 * width) + linear(4 * width, 4 * width) + noise * width * labels
    total += conv(3, width)
    skips, now, shown = [width], width, 3
    for k, multiplier in enumerate(levels):
        if k:
            total += block(now, now, True)
            total += conv(shown, now) if residual else 0
            shown = now
            skips.append(now)
        for _ in range(blocks):
            total += block(now, multiplier * width) + (attention(multiplier * width) if k == 1 else 0)
            now = multiplier * width
            skips.append(now)
    total += 2 * block(now, now) + attention(now)
    for k, multiplier in reversed(list(enumerate(levels))):
        total += block(now, now, True) if k < len(levels) - 1 else 0
        for _ in range(blocks + 1):
            total += block(now + skips.pop(), multiplier * width)
            now = multiplier * width
        total += attention(now) if k == 1 else 0
    return total + 2 * now + conv(now, 3)


@pytest.mark.parametrize(
    "config, expected, millions",
    [
        ({}, published((2, 2, 2), 4), 55.7),
        ({"embedding": "fourier", "encoder": "residual"}, published((2, 2, 2), 4, noise=2, residual=True), 56.4),
        ({"multipliers": (1, 2, 2, 2)}, published((1, 2, 2, 2), 4), 61.8),
        ({"multipliers": (1, 2, 2, 2), "blocks": 8}, published((1, 2, 2, 2), 8), 106.6),
    ],
)
def test_the_published_networks_have_their_number_of_parameters(config, expected, millions):
    """EDM's for CIFAR-10 has 55 733 891: the 9 labels of augmentation, which are left out here, have 9 x 128."""
    with torch.device("meta"):
        network = SongUNet(3, 32, **config)
    assert sum(p.numel() for p in network.parameters()) == expected
    assert expected / 1e6 == pytest.approx(millions, abs=0.05)
    assert published((2, 2, 2), 4, labels=9) == 55_733_891


@every_kind
def test_a_widened_network_computes_what_it_did_before(changes):
    """To the bit, whatever the new inputs are."""
    network = of(**changes)
    copy = network.widened(2, 3).eval()
    assert (copy.conditions, copy.extra, copy.event) == (2, 3, (2, 16, 16))
    for scale in (0.0, 1.0, 1e3):
        x, noise, conditions, extra = inputs(scale=scale)
        assert torch.equal(copy(x, noise, conditions, extra), network(x, noise))
        assert torch.equal(copy(x, noise, conditions.expand(3, 2), extra), network(x, noise))


@every_kind
def test_a_widened_network_is_a_copy_that_can_learn_from_its_new_inputs(changes):
    copy = check_widened(of(**changes), inputs(), ["conv_extra.weight", "map_conditions.weight"])
    assert all(p.grad is not None for p in copy.parameters())


@every_kind
def test_rows_are_independent(changes):
    network = wide(of(**changes))
    x, noise, conditions, extra = inputs()
    conditions = torch.stack([conditions, -conditions, 2 * conditions])
    whole = network(x, noise, conditions, extra)
    for k in range(3):
        alone = network(x[k : k + 1], noise[k : k + 1], conditions[k : k + 1], extra[k : k + 1])
        torch.testing.assert_close(alone, whole[k : k + 1], rtol=1e-4, atol=1e-4)


@every_kind
@pytest.mark.parametrize("widen", [False, True], ids=["narrow", "wide"])
def test_a_configuration_makes_the_network_again(changes, widen):
    network = wide(of(**changes)) if widen else of(**changes)
    config = json.loads(json.dumps(NETWORKS.config(network)))
    assert config["kind"] == "song_unet"
    again = make_network(config).eval()
    assert NETWORKS.config(again) == config
    again.load_state_dict(network.state_dict())
    assert torch.equal(again(*inputs()), network(*inputs()))


@every_kind
def test_zero_last_gives_zeros(changes):
    network = wide(of(**changes))
    assert network(*inputs()).abs().max() > 0.01
    network.zero_last()
    assert torch.equal(network(*inputs()), torch.zeros(3, 2, 16, 16))


def test_mixed_precision_computes_in_bfloat16():
    network = wide(of(**KINDS["ncsnpp"]))
    exact = network(*inputs())
    network.mixed_precision = True
    rough = network(*inputs())
    assert rough.dtype == torch.float32
    assert 1e-5 < (rough - exact).abs().max() < 0.2 * exact.abs().max()


# --- labels ----------------------------------------------------------------------------------------------------------


def test_labels_are_the_models():
    """One-hot, times the root of their number."""
    reference, (x, noise, _, _) = Reference(classes=5), inputs()
    labels = torch.tensor([4, 0, 2])
    expected = reference(x, noise, labels)
    assert (reference(x, noise, labels.flip(0)) - expected).abs().max() > 1e-2
    torch.testing.assert_close(of(reference=reference)(x, noise, labels), expected, rtol=1e-4, atol=1e-4)
    for label in (0, 3):
        one = of(label, reference)
        torch.testing.assert_close(one(x, noise), reference(x, noise, [label] * 3), rtol=1e-4, atol=1e-4)


def test_a_student_of_one_class_starts_as_its_teacher():
    network = of(3, classes=5)
    copy = network.widened(2, 3).eval()
    assert torch.equal(copy(*inputs()), network(*inputs()[:2]))
    again = make_network(json.loads(json.dumps(NETWORKS.config(copy)))).eval()
    again.load_state_dict(copy.state_dict())
    assert torch.equal(again(*inputs()), copy(*inputs()))


# --- refusals --------------------------------------------------------------------------------------------------------


def made(**changes):
    return SongUNet(**{**CONFIG, **changes})


def ask(x=(2, 2, 16, 16), conditions=(2,), extra=(2, 3, 2, 16, 16)):
    tensors = [None if shape is None else torch.zeros(shape) for shape in (conditions, extra)]
    return made(conditions=2, extra=3)(torch.zeros(x), torch.ones(x[0]), *tensors)


def labelled(labels):
    return made(classes=5)(torch.zeros(2, 2, 16, 16), torch.ones(2), labels)


@pytest.mark.parametrize(
    "call, error, match",
    [
        (lambda: ask(x=(2, 3, 16, 16)), ValueError, r"x must have shape \(batch, 2, 16, 16\); got \(2, 3, 16, 16\)"),
        (lambda: ask(extra=None), ValueError, "extra must have shape .*; got None"),
        (lambda: ask(conditions=(3,)), ValueError, r"conditions must have 2 numbers .*; got shape \(3,\)"),
        (lambda: made(conditions=2).widened(2, 1), ValueError, "widened needs a network without extra inputs"),
        (lambda: made(channels=0), ValueError, "channels must be >= 1; got 0"),
        (lambda: made(size=15), ValueError, r"size must be a multiple of 2, for multipliers \(1, 2\); got 15"),
        (lambda: made(width=6), ValueError, "width must be a multiple of 4; got 6"),
        (lambda: made(multipliers=()), ValueError, "multipliers must have one number per level; got none"),
        (lambda: made(multipliers=(1, 0)), ValueError, r"multipliers\[1\] must be >= 1; got 0"),
        (lambda: made(blocks=0), ValueError, r"blocks must be in \[1, 1000\]; got 0"),
        (lambda: made(attention=(4,)), ValueError, "attention must be one of 16, 8; got 4"),
        (lambda: made(embedding="learned"), ValueError, "embedding must be one of 'positional', 'fourier'"),
        (lambda: made(encoder="skip"), ValueError, "encoder must be one of 'standard', 'residual'; got 'skip'"),
        (lambda: made(dropout=0.1), TypeError, "dropout"),
        (lambda: made(label=2), ValueError, "label must be None for a model without classes; got 2"),
        (lambda: made(label=5, classes=5), ValueError, r"label must be in \[0, 4\]; got 5"),
        (lambda: made(label="cat", classes=5), TypeError, "label must be an integer; got 'cat'"),
        (lambda: made(classes=5).widened(2, 1), ValueError, "label must be given for a student"),
        (lambda: labelled(None), ValueError, r"labels must be given, int64 of shape \(2,\), or one label.*; got None"),
        (lambda: labelled(torch.zeros(2)), ValueError, "labels must be given, int64 .*; got torch.float32"),
        (lambda: labelled(torch.tensor([1, 5])), ValueError, r"labels must be in \[0, 4\]; got 1 to 5"),
    ],
)
def test_refusals(call, error, match):
    with pytest.raises(error, match=match):
        call()

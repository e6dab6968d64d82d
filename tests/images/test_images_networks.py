"""diffusers' UNet as one of our networks: the same function as before, with inputs that it can learn from."""

import json
import sys

import pytest
import torch
from images_tiny import SKIPS, TINY, check_widened, normal, seeded, tiny_unet

from sdesig.images import DiffusersUNet
from sdesig.sigdeg.networks import NETWORKS, make_network

KINDS = {
    "plain": {},
    "variances": {"out_channels": 2},
    "centred": {"center_input_sample": True},
    "skips, Fourier": SKIPS,
}
every_kind = pytest.mark.parametrize("changes", KINDS.values(), ids=KINDS.keys())


def inputs(network, batch=3, scale=1.0):
    """x, timesteps, conditions, extra inputs."""
    extra = scale * normal(batch, 3, *network.event, seed=4)
    return normal(batch, *network.event), torch.tensor([1.5, 20.25, 900.0])[:batch], scale * normal(2, seed=3), extra


def wide(network, seed=1):
    """With 2 conditions and 3 extra inputs, and weights that make use of them."""
    return seeded(network.widened(2, 3), seed)


@every_kind
def test_it_computes_what_the_model_does(changes):
    unet = tiny_unet(**changes)
    network = DiffusersUNet(tiny_unet(**changes))
    x, noise, _, _ = inputs(network)
    expected = unet(x, noise).sample[:, : unet.config.in_channels]
    assert network.event == (unet.config.in_channels, 8, 8)
    assert torch.equal(network(x, noise), expected)
    whole = network(x, torch.tensor(7.0).expand(3))
    assert torch.equal(whole, unet(x, 7).sample[:, : unet.config.in_channels])


@every_kind
def test_a_widened_network_computes_what_it_did_before(changes):
    """To the bit, whatever the new inputs are."""
    network = DiffusersUNet(tiny_unet(**changes))
    copy = network.widened(2, 3).eval()
    assert (copy.conditions, copy.extra, copy.event) == (2, 3, network.event)
    for scale in (0.0, 1.0, 1e3):
        x, noise, conditions, extra = inputs(network, scale=scale)
        assert torch.equal(copy(x, noise, conditions, extra), network(x, noise))
        assert torch.equal(copy(x, noise, conditions.expand(3, 2), extra), network(x, noise))


@every_kind
def test_a_widened_network_is_a_copy_that_can_learn_from_its_new_inputs(changes):
    network = DiffusersUNet(tiny_unet(**changes))
    check_widened(network, inputs(network), ["unet.class_embedding.conditions.weight", "unet.conv_in.extra.weight"])


@every_kind
def test_rows_are_independent(changes):
    network = wide(DiffusersUNet(tiny_unet(**changes)))
    x, noise, conditions, extra = inputs(network)
    conditions = torch.stack([conditions, -conditions, 2 * conditions])
    whole = network(x, noise, conditions, extra)
    for k in range(3):
        alone = network(x[k : k + 1], noise[k : k + 1], conditions[k : k + 1], extra[k : k + 1])
        torch.testing.assert_close(alone, whole[k : k + 1], rtol=1e-4, atol=1e-4)


@every_kind
@pytest.mark.parametrize("widen", [False, True], ids=["narrow", "wide"])
def test_a_configuration_makes_the_network_again(changes, widen):
    network = DiffusersUNet(tiny_unet(**changes))
    network = wide(network) if widen else network
    config = json.loads(json.dumps(NETWORKS.config(network)))
    assert config["kind"] == "unet2d"
    again = make_network(config).eval()
    assert NETWORKS.config(again) == config
    again.load_state_dict(network.state_dict())
    assert torch.equal(again(*inputs(network)), network(*inputs(network)))


@every_kind
def test_zero_last_gives_zeros(changes):
    network = wide(DiffusersUNet(tiny_unet(**changes)))
    assert network(*inputs(network)).abs().max() > 0.01
    network.zero_last()
    assert torch.equal(network(*inputs(network)), torch.zeros(3, *network.event))


@every_kind
def test_other_weights_may_be_called(changes):
    """As students do: torch.func.functional_call, with gradients with respect to the weights that are given."""
    network = wide(DiffusersUNet(tiny_unet(**changes)))
    other = wide(DiffusersUNet(tiny_unet(seed=5, **changes)), seed=6)
    weights = {name: p.detach().requires_grad_() for name, p in other.named_parameters()}
    expected = other(*inputs(network))
    found = torch.func.functional_call(network, weights, inputs(network))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    found.square().sum().backward()
    expected.square().sum().backward()
    for name, p in other.named_parameters():
        if p.requires_grad:
            torch.testing.assert_close(weights[name].grad, p.grad, rtol=1e-3, atol=1e-4)
    assert all(p.grad is None for p in network.parameters())


def test_mixed_precision_computes_in_bfloat16():
    network = wide(DiffusersUNet(tiny_unet()))
    exact = network(*inputs(network))
    network.mixed_precision = True
    rough = network(*inputs(network))
    assert rough.dtype == torch.float32
    assert 1e-5 < (rough - exact).abs().max() < 0.2 * exact.abs().max()


def test_a_student_has_no_dropout():
    network = DiffusersUNet(tiny_unet(dropout=0.5)).train()
    x, noise, _, _ = inputs(network)
    assert not torch.equal(network(x, noise), network(x, noise))
    copy = network.widened(2, 3).train()
    assert torch.equal(copy(*inputs(network)), network.eval()(x, noise))
    assert copy.config["unet"]["dropout"] == 0


# --- labels ----------------------------------------------------------------------------------------------------------


def test_labels_are_the_models():
    unet = tiny_unet(num_class_embeds=5)
    x, noise, _, _ = inputs(DiffusersUNet(tiny_unet()))
    labels = torch.tensor([4, 0, 2])
    expected = unet(x, noise, class_labels=labels).sample
    assert (unet(x, noise, class_labels=labels.flip(0)).sample - expected).abs().max() > 1e-3
    per_sample = DiffusersUNet(tiny_unet(num_class_embeds=5))
    assert torch.equal(per_sample(x, noise, labels), expected)
    for label in (0, 3):
        one = DiffusersUNet(tiny_unet(num_class_embeds=5), label=label)
        assert torch.equal(one(x, noise), unet(x, noise, class_labels=torch.full((3,), label)).sample)


def test_a_student_of_one_class_starts_as_its_teacher():
    network = DiffusersUNet(tiny_unet(num_class_embeds=5), label=3)
    copy = network.widened(2, 3).eval()
    assert torch.equal(copy(*inputs(network)), network(*inputs(network)[:2]))
    again = make_network(json.loads(json.dumps(NETWORKS.config(copy)))).eval()
    again.load_state_dict(copy.state_dict())
    assert torch.equal(again(*inputs(network)), copy(*inputs(network)))


# --- refusals --------------------------------------------------------------------------------------------------------


def ask(x=(2, 1, 8, 8), conditions=(2,), extra=(2, 3, 1, 8, 8)):
    network = DiffusersUNet(tiny_unet()).widened(2, 3)
    tensors = [None if shape is None else torch.zeros(shape) for shape in (conditions, extra)]
    return network(torch.zeros(x), torch.ones(x[0]), *tensors)


def of(label=None, **changes):
    pytest.importorskip("diffusers")
    return DiffusersUNet({**TINY, **changes}, label=label)


def labelled(labels):
    return of(num_class_embeds=5)(torch.zeros(2, 1, 8, 8), torch.ones(2), labels)


@pytest.mark.parametrize(
    "call, error, match",
    [
        (lambda: ask(x=(2, 3, 8, 8)), ValueError, r"x must have shape \(batch, 1, 8, 8\); got \(2, 3, 8, 8\)"),
        (lambda: ask(x=(2, 1, 16, 16)), ValueError, r"x must have shape \(batch, 1, 8, 8\); got \(2, 1, 16, 16\)"),
        (lambda: ask(extra=(2, 2, 1, 8, 8)), ValueError, r"extra must have shape \(2, 3, 1, 8, 8\)"),
        (lambda: ask(extra=None), ValueError, "extra must have shape .*; got None"),
        (lambda: ask(conditions=(3,)), ValueError, r"conditions must have 2 numbers .*; got shape \(3,\)"),
        (lambda: ask(conditions=None), ValueError, "conditions must have 2 numbers .*; got shape None"),
        (lambda: of().widened(2, 1).widened(2, 1), ValueError, "widened needs a network without extra inputs"),
        (lambda: of(in_channels=6), ValueError, "out_channels must be in_channels or twice .*; got 1 for 6"),
        (lambda: of(sample_size=(8, 16)), ValueError, r"sample_size must be one number.*; got \[8, 16\]"),
        (lambda: of(sample_size=None), ValueError, "sample_size must be one number.*; got None"),
        (lambda: of(sample_size=7), ValueError, "sample_size must be .* a multiple of 2; got 7"),
        (lambda: of(class_embed_type="timestep"), ValueError, "class_embed_type must be None.*; got 'timestep'"),
        (
            lambda: of(time_embedding_type="learned", num_train_timesteps=10),
            ValueError,
            "time_embedding_type must be 'positional' or 'fourier'",
        ),
        (lambda: of(label=2), ValueError, "label must be None for a model without classes; got 2"),
        (lambda: of(label=5, num_class_embeds=5), ValueError, r"label must be in \[0, 4\]; got 5"),
        (lambda: of(label=-1, num_class_embeds=5), ValueError, r"label must be in \[0, 4\]; got -1"),
        (lambda: of(label="cat", num_class_embeds=5), TypeError, "label must be an integer; got 'cat'"),
        (lambda: of(num_class_embeds=5).widened(2, 1), ValueError, "label must be given for a student"),
        (lambda: labelled(None), ValueError, r"labels must be given, int64 of shape \(2,\), or one label.*; got None"),
        (lambda: labelled(torch.zeros(2)), ValueError, "labels must be given, int64 .*; got torch.float32"),
        (lambda: labelled(torch.tensor([1])), ValueError, r"labels must be .*; got torch.int64 of shape \(1,\)"),
        (lambda: labelled(torch.tensor([1, 5])), ValueError, r"labels must be in \[0, 4\]; got 1 to 5"),
        (lambda: labelled(torch.tensor([-1, 4])), ValueError, r"labels must be in \[0, 4\]; got -1 to 4"),
        (
            lambda: of(**SKIPS)(torch.zeros(2, 3, 8, 8), torch.tensor([1.0, -0.5])),
            ValueError,
            "noise must be > 0 for a UNet with a Fourier embedding; got -0.5",
        ),
    ],
)
def test_refusals(call, error, match):
    with pytest.raises(error, match=match):
        call()


def test_sizes_may_be_given_as_a_pair():
    assert of(sample_size=(8, 8)).event == (1, 8, 8)


def test_without_diffusers_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(ImportError, match=r"pip install 'sdesig\[images\] @ git\+https"):
        DiffusersUNet(TINY)

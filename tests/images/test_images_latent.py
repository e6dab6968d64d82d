"""The autoencoder of a latent diffusion: as diffusers' pipelines scale it, and a student's samples become images."""

import pytest
import torch
from images_tiny import change_json, change_weights, normal, save_pipeline, seeded, tiny_unet

from sdesig.images import load_autoencoder, load_teacher
from sdesig.images.latent import Autoencoder
from sdesig.sampling import GaussianReference, PathSpace
from sdesig.sigdeg import SigDEG

SIZES = {
    "block_out_channels": (8, 8),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "norm_num_groups": 4,
    "sample_size": 16,
}


def gaussian(**changes):
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    return seeded(
        diffusers.AutoencoderKL(**{**SIZES, "latent_channels": 4, "scaling_factor": 0.3, **changes}), scale=0.1
    )


def quantized(**changes):
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    options = {"latent_channels": 4, "num_vq_embeddings": 20, "vq_embed_dim": 3, "scaling_factor": 0.6}
    return seeded(diffusers.VQModel(**SIZES, **{**options, **changes}), scale=0.1)


def saved(folder, model, name="vae"):
    model.save_pretrained(folder / name)
    return folder


MEAN, STD = [0.1, -0.2, 0.3, 0.5], [1.0, 2.0, 0.5, 3.0]
MODELS = {
    "scaled": (gaussian, lambda z: 0.3 * z),
    "shifted": (lambda: gaussian(shift_factor=0.25), lambda z: 0.3 * (z - 0.25)),
    "per channel": (
        lambda: gaussian(latents_mean=MEAN, latents_std=STD),
        lambda z: 0.3 * (z - torch.tensor(MEAN).reshape(4, 1, 1)) / torch.tensor(STD).reshape(4, 1, 1),
    ),
    "quantized": (quantized, lambda z: 0.6 * z),
}


@pytest.mark.parametrize("kind", MODELS)
def test_latents_are_scaled_as_in_the_pipelines(kind, tmp_path):
    """The formulas of the Stable Diffusion, Flux, EDM-Playground and LDM pipelines."""
    make, scaled = MODELS[kind]
    model, images = make(), normal(5, 3, 16, 16).clamp(-1, 1)
    autoencoder = load_autoencoder(saved(tmp_path, model, "vqvae" if kind == "quantized" else "vae"))
    with torch.no_grad():
        encoded = model.encode(images)
        z = encoded.latents if kind == "quantized" else encoded.latent_dist.mean
        rebuilt = model.decode(z).sample
    latents = autoencoder.encode(images)
    assert latents.shape == (5, 3 if kind == "quantized" else 4, 8, 8)
    torch.testing.assert_close(latents, scaled(z), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(autoencoder.decode(latents), rebuilt, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(autoencoder.encode(images, batch=2), latents, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(autoencoder.decode(latents, batch=2), rebuilt, rtol=1e-4, atol=1e-4)


def test_draws_have_the_encoders_law(tmp_path):
    """N(mean, std^2) of the encoder, scaled: z-scores of 16000 normals; each of two bounds fails once in 10^6."""
    autoencoder, images = load_autoencoder(saved(tmp_path, gaussian())), normal(1, 3, 16, 16).clamp(-1, 1)
    law = gaussian().encode(images).latent_dist
    draws = autoencoder.encode(images.expand(64, -1, -1, -1), torch.Generator().manual_seed(3))
    scores = ((draws / 0.3 - law.mean) / law.std).detach()
    n = scores.numel()
    assert abs(scores.mean()) < 5 / n**0.5
    assert abs(scores.square().mean() - 1) < 5 * (2 / n) ** 0.5
    again = autoencoder.encode(images.expand(64, -1, -1, -1), torch.Generator().manual_seed(3))
    assert torch.equal(again, draws)


def test_a_latent_diffusion_is_distilled_in_its_latent_space(diffusers, tmp_path):
    """Teacher and autoencoder from one folder: data become latents, a student's samples images."""
    folder = save_pipeline(tmp_path, tiny_unet(in_channels=4, out_channels=4), diffusers.DDIMScheduler())
    saved(folder, gaussian())
    teacher, autoencoder = load_teacher(folder), load_autoencoder(folder)
    latents = autoencoder.encode(normal(20, 3, 16, 16).clamp(-1, 1), torch.Generator().manual_seed(0))
    assert latents.shape[1:] == teacher.event == (4, 8, 8)
    assert repr(autoencoder) == "Autoencoder(AutoencoderKL, 3 to 4 channels, sides by 2)"
    reference = GaussianReference.fit(latents, "dct")
    student = SigDEG.from_teacher(teacher, PathSpace(teacher.event, (0.05, 50.0), reference), depth=2)
    samples = student.sample(3, 4).values
    images = autoencoder.decode(samples)
    assert images.shape == (3, 3, 16, 16)
    with torch.no_grad():
        expected = gaussian().decode(samples / 0.3).sample
    torch.testing.assert_close(images, expected, rtol=1e-4, atol=1e-4)


def loaded(tmp_path, spoil=lambda folder: None):
    folder = saved(tmp_path, gaussian())
    spoil(folder / "vae")
    return load_autoencoder(folder)


WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.mark.parametrize(
    "call, error, match",
    [
        (
            lambda f: loaded(f).encode(normal(2, 1, 16, 16)),
            ValueError,
            r"images must have shape \(n, 3, height, width\)",
        ),
        (lambda f: loaded(f).encode(normal(2, 3, 15, 16)), ValueError, r"multiples of 2; got \(2, 3, 15, 16\)"),
        (lambda f: loaded(f).encode(normal(3, 16, 16)), ValueError, r"images must have shape .*got \(3, 16, 16\)"),
        (lambda f: loaded(f).encode(torch.zeros(2, 3, 16, 16).int()), TypeError, "images must have a real floating"),
        (lambda f: loaded(f).encode(normal(2, 3, 16, 16), 3), TypeError, "generator must be a torch.Generator; got 3"),
        (lambda f: loaded(f).encode(normal(2, 3, 16, 16), batch=0), ValueError, "batch must be >= 1; got 0"),
        (
            lambda f: loaded(f).decode(normal(2, 3, 8, 8)),
            ValueError,
            r"latents must have shape \(n, 4, height, width\)",
        ),
        (lambda f: load_autoencoder(f), FileNotFoundError, "has neither of the folders vae, vqvae: it is no latent"),
        (lambda f: load_autoencoder(f / "none"), FileNotFoundError, "is not a folder, nor the id of a model"),
        (
            lambda f: loaded(f, lambda vae: change_json(vae / "config.json", _class_name="AutoencoderTiny")),
            ValueError,
            "must be one of 'AutoencoderKL', 'VQModel'; got 'AutoencoderTiny'",
        ),
        (
            lambda f: loaded(
                f, lambda vae: change_weights(vae / WEIGHTS, lambda t: t["quant_conv.bias"].fill_(torch.nan))
            ),
            ValueError,
            "vae: quant_conv.bias is not finite",
        ),
        (
            lambda f: loaded(f, lambda vae: (vae / WEIGHTS).rename(vae / "model.bin")),
            ValueError,
            r"has no \*.safetensors weights, only model.bin. Pickles are never loaded",
        ),
    ],
)
def test_refusals(call, error, match, tmp_path):
    with pytest.raises(error, match=match):
        call(tmp_path)


def test_autoencoders_are_in_evaluation_mode_while_they_are_used():
    """The middle block of an encoder has dropout where a configuration asks for it: here it is put in."""
    autoencoder = Autoencoder(gaussian())
    for part in (autoencoder.model.encoder, autoencoder.model.decoder):
        part.mid_block.resnets[0].dropout.p = 0.5
    images = normal(2, 3, 16, 16)
    evaluated = autoencoder.eval().encode(images)
    rebuilt = autoencoder.decode(evaluated)
    autoencoder.train()
    assert torch.equal(autoencoder.encode(images), evaluated)
    assert torch.equal(autoencoder.decode(evaluated), rebuilt)
    assert autoencoder.model.encoder.mid_block.resnets[0].dropout.training

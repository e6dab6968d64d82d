"""Damaged models of diffusers and pipelines: one line that names the file; keys of a later version are ignored."""

import copy
import json
import warnings

import pytest

pytest.importorskip("diffusers")

import diffusers
import torch
from images_tiny import change_json, save_pipeline, tiny_unet
from test_images_latent import gaussian
from test_images_student import diffusers_denoiser, student_of

from sdesig._files import FileError
from sdesig.images import SigDEGPipeline
from sdesig.images.latent import load_autoencoder
from sdesig.images.teachers import load_teacher
from sdesig.sigdeg import SigDEG
from sdesig.sigdeg.network_denoiser import ModelDenoiser

DAMAGED = ("x", -1, 10**30, 10**7, True, ["x"], {"x": 1})


def refusals(file, load, root, keys=None):
    """Every key, damaged in every way, is harmless or refused in one line that names the folder and the key."""
    config = json.loads(file.read_text())
    count = 0
    for key in keys or config:
        for value in DAMAGED:
            changed = copy.deepcopy(config)
            changed[key] = value
            file.write_text(json.dumps(changed))
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    load()
            except (ValueError, OSError) as error:
                text, count = str(error), count + 1
                assert len(text.splitlines()) == 1, text
                assert len(text) < 1000
                assert str(root) in text, f"{key} = {value!r}: {text}"
    file.write_text(json.dumps(config))
    load()
    return count


def teacher(folder):
    return save_pipeline(folder, tiny_unet(), diffusers.DDPMScheduler())


def test_unets(tmp_path):
    folder = teacher(tmp_path)
    keys = ("sample_size", "in_channels", "block_out_channels", "layers_per_block", "down_block_types", "norm_eps")
    file = folder / "unet" / "config.json"
    assert (
        refusals(file, lambda: load_teacher(folder), folder, (*keys, "act_fn", "norm_num_groups", "_class_name")) > 40
    )


def test_schedulers(tmp_path):
    folder = teacher(tmp_path)
    keys = ("num_train_timesteps", "beta_start", "beta_schedule", "trained_betas", "prediction_type", "_class_name")
    file = folder / "scheduler" / "scheduler_config.json"
    assert refusals(file, lambda: load_teacher(folder), folder, keys) > 25


def test_autoencoders(tmp_path):
    gaussian().save_pretrained(tmp_path / "vae")
    keys = ("in_channels", "latent_channels", "block_out_channels", "scaling_factor", "shift_factor", "latents_mean")
    assert refusals(tmp_path / "vae" / "config.json", lambda: load_autoencoder(tmp_path), tmp_path, keys) > 20


def test_students_and_pipelines(tmp_path):
    student = student_of(diffusers_denoiser(tiny_unet()))
    SigDEGPipeline(student).save_pretrained(tmp_path)

    def load():
        return SigDEGPipeline.from_pretrained(tmp_path)

    assert refusals(tmp_path / "model_index.json", load, tmp_path, ("_class_name", "vae")) > 6
    assert refusals(tmp_path / "generator" / "config.json", load, tmp_path, ("network", "denoiser", "depth")) > 15
    for content in ("[" * 100_000, '{"a": 1}', "[1]", "{"):
        (tmp_path / "report.json").write_text(content)
        with pytest.raises(FileError, match=rf"^{tmp_path}/report.json "):
            load()


@pytest.mark.parametrize("key", ["of_a_later_version", "another_one"])
def test_keys_that_diffusers_does_not_know_are_ignored_with_a_warning(key, tmp_path):
    """In a teacher, in its student, which is made from its configuration, and in files of both."""
    folder = teacher(tmp_path / "teacher")
    plain = load_teacher(folder)
    change_json(folder / "unet" / "config.json", **{key: 3})
    with pytest.warns(UserWarning, match=f"UNet2DModel .* does not know {key}: ignored"):
        later = load_teacher(folder)
    x = torch.zeros(2, *plain.event)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        student = student_of(later)
        student.save(tmp_path / "student")
        later.save(tmp_path / "denoiser")
        SigDEG.load(tmp_path / "student")
    assert torch.equal(later(x, torch.tensor(1.0)), plain(x, torch.tensor(1.0)))
    assert key not in (tmp_path / "student" / "config.json").read_text()
    file = tmp_path / "denoiser" / "config.json"
    config = json.loads(file.read_text())
    config["network"]["unet"][key] = {"a": [1]}
    file.write_text(json.dumps(config))
    with pytest.warns(UserWarning, match=f"does not know {key}: ignored"):
        again = ModelDenoiser.load(tmp_path / "denoiser")
    assert torch.equal(again(x, torch.tensor(1.0)), plain(x, torch.tensor(1.0)))


def test_keys_of_a_later_autoencoder_are_ignored_with_a_warning(tmp_path):
    gaussian().save_pretrained(tmp_path / "vae")
    change_json(tmp_path / "vae" / "config.json", of_a_later_version=3)
    with pytest.warns(UserWarning, match="AutoencoderKL .* does not know of_a_later_version: ignored"):
        load_autoencoder(tmp_path)

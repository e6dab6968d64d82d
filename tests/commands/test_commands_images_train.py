"""`sdesig teacher` on images: what it trains, records and goes on from, and what it refuses."""

import json
import sys

import numpy as np
import pytest
import torch
from command_lines import main
from images_problem import make_pictures

from sdesig.commands import main as cli
from sdesig.commands.main import COMMANDS, FILE_ONLY, options_of
from sdesig.images.diffusers_unet import DiffusersUNet
from sdesig.images.image_data import load_images
from sdesig.sigdeg import NetworkDenoiser, TrainingOptions, UNet, train_teacher

TINY = ["--widths", "8", "--batch", "4", "--iterations", "3"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return make_pictures(tmp_path_factory.mktemp("pictures"))


def train(pictures, out, *flags):
    main(["teacher", "--data", str(pictures.data), "--out", str(out), *TINY, *flags])


def same(one, other):
    first, second = one.state_dict(), other.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_train_teacher_is_the_library_call(tmp_path, pictures, capsys, options):
    state = torch.get_rng_state()
    train(pictures, tmp_path / "a", "--flip", "--seed", "3", "--patch", "2", "--log-sigma", "-1", "1")
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(3)
    made = train_teacher(
        UNet(1, 8, widths=(8,), patch=2),
        load_images(pictures.data),
        tmp_path / "b",
        TrainingOptions(iterations=3, seed=3),
        batch=4,
        log_sigma=(-1.0, 1.0),
        flip=True,
        progress=False,
    )
    assert same(NetworkDenoiser.load(tmp_path / "a" / "teacher"), made)
    found = options(tmp_path / "a")
    digest = load_images(pictures.data).digest
    assert found["data"] == {"source": str(pictures.data), "sha256": digest, "n": 24, "shape": [1, 8, 8]}
    assert (found["network"]["patch"], found["batch"], found["flip"]) == (2, 4, True)
    shown = capsys.readouterr().out
    assert shown.startswith("sdesig teacher\n")
    assert digest in shown
    assert shown.endswith(f"-> {tmp_path / 'a' / 'teacher'}\n")


@pytest.mark.usefixtures("diffusers")
def test_the_network_of_diffusers(tmp_path, pictures, options):
    train(pictures, tmp_path, "--network", "unet2d", "--widths", "8", "16", "--attention", "1", "--layers", "1")
    network = NetworkDenoiser.load(tmp_path / "teacher").network
    assert isinstance(network, DiffusersUNet)
    assert network.unet.config.down_block_types == ["DownBlock2D", "AttnDownBlock2D"]
    assert options(tmp_path)["network"]["kind"] == "unet2d"


def test_sizes_channels_and_the_cache(tmp_path, pictures, options):
    flags = ["--size", "4", "--crop", "6", "--channels", "3", "--image-cache", str(tmp_path / "cache")]
    train(pictures, tmp_path / "a", *flags, "--precision", "bfloat16")
    assert NetworkDenoiser.load(tmp_path / "a" / "teacher").event == (3, 4, 4)
    assert options(tmp_path / "a")["training"]["precision"] == "bfloat16"
    (cached,) = (tmp_path / "cache").glob("images-*.npy")
    assert np.array_equal(np.load(cached), load_images(pictures.data, size=4, crop=6, channels=3).pixels.numpy())


def test_compile(tmp_path, pictures, compiled_batches):
    train(pictures, tmp_path / "a", "--compile")
    assert compiled_batches == [4] * 4
    train(pictures, tmp_path / "b")
    assert same(*(NetworkDenoiser.load(tmp_path / name / "teacher") for name in "ab"))


def test_a_stopped_run_goes_on_to_the_same_end(tmp_path, pictures, monkeypatch, fails):
    clip, calls = torch.nn.utils.clip_grad_norm_, []

    def interrupted(*arguments):
        calls.append(None)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return clip(*arguments)

    command = ["teacher", "--data", pictures.data, *TINY, "--checkpoint-every", "1", "--out"]
    with monkeypatch.context() as patch:
        patch.setattr(torch.nn.utils, "clip_grad_norm_", interrupted)
        assert "all iterations that were completed are kept" in fails(*command, tmp_path / "a", status=130)
    train(pictures, tmp_path / "a", "--checkpoint-every", "1")
    train(pictures, tmp_path / "b")
    assert same(*(NetworkDenoiser.load(tmp_path / name / "teacher") for name in "ab"))
    assert "has a run with other options (batch: 4, now 5)" in fails(*command, tmp_path / "a", "--batch", "5")


def test_config(tmp_path, pictures, options):
    file = tmp_path / "config.json"
    given = {"data": str(pictures.data), "widths": [8], "batch": 4, "iterations": 2, "flip": True, "channels": 1}
    file.write_text(json.dumps(given))
    main(["teacher", "--config", str(file), "--out", str(tmp_path / "run"), "--batch", "3"])
    found = options(tmp_path / "run")
    assert (found["batch"], found["training"]["iterations"], found["flip"]) == (3, 2, True)


@pytest.mark.parametrize("name", sorted({*COMMANDS} - {"demo", "tour"}))
def test_every_command_has_help_and_a_config(name, capsys, tmp_path, fails):
    with pytest.raises(SystemExit) as stop:
        main([name, "--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    names = [option.name for option in options_of(COMMANDS[name])]
    assert len({*names}) == len(names)
    assert "config" in names
    for option in options_of(COMMANDS[name]):
        flag = f"--{option.name.replace('_', '-')} "
        assert (flag in shown.replace(",", " ")) == (not option.positional and option.name not in FILE_ONLY)
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"iteratoins": 2}))
    assert fails(name, "--config", file).startswith(f"{file}: 'iteratoins' is not an option")


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--data", "nowhere"], "a folder, a .tar, FILE.npz:ARRAY or hf:NAME[:SPLIT]; nowhere does not exist"),
        (["--batch", "0"], "batch must be in [1, 1073741824]; got 0"),
        (["--widths", "12"], "widths must be one or more multiples of 8; got (12,)"),
        (["--patch", "3"], "size must be a multiple of 3, for 1 widths and patch 3; got 8"),
        (["--attention", "0"], "attention and layers must be left out for the network 'unet'"),
        (["--crop", "9"], "crop must fit into every image"),
        (["--ema", "1"], "ema must be in [0, 1); got 1.0"),
        (["--device", "nowhere"], "device must be one that torch can use here; got 'nowhere'"),
        (["--learning-rate", "1e3", "--warmup", "0", "--iterations", "20"], "lower the learning rate"),
    ],
)
def test_refusals(flags, message, tmp_path, pictures, fails):
    command = ["teacher", "--data", pictures.data, "--out", tmp_path / "run", *TINY]
    assert message in fails(*command, *flags)
    assert not (tmp_path / "run" / "teacher").exists()


@pytest.mark.parametrize("option", ["size", "crop", "channels"])
def test_data_that_are_not_images_have_no_size(option, tmp_path, fails):
    """The digits, which are the data where none are given, are vectors."""
    message = fails("teacher", f"--{option}", "3", "--out", tmp_path / "run")
    assert message == f"{option} must be left out for data that are not images: digits"


def test_corrupt_images_are_named_up_to_a_limit(tmp_path, fails):
    broken = make_pictures(tmp_path / "p", n=3).data / "001.png"
    broken.write_bytes(broken.read_bytes()[:60])
    command = ["teacher", "--data", broken.parent, "--out", tmp_path / "run", *TINY]
    assert "at most max_corrupt=0 broken images; found 1 image, 001.png" in fails(*command, "--max-corrupt", "0")
    with pytest.warns(UserWarning, match=r"skipped 1 image, 001\.png"):
        main(list(map(str, command)))


@pytest.mark.parametrize(
    "error",
    [
        torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nand more"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] data. DefaultCPUAllocator: not enough memory: you tried"),
    ],
)
def test_out_of_memory_names_the_batch(error, tmp_path, pictures, fails, monkeypatch):
    def full(*_):
        raise error

    monkeypatch.setattr(UNet, "compute", full)
    message = fails("teacher", "--data", pictures.data, "--out", tmp_path, *TINY)
    assert message.startswith("out of memory with batch 4, widths (8,): choose less (")
    assert message.endswith(")")


def test_other_errors_of_torch_are_not_hidden(tmp_path, pictures, fails, monkeypatch):
    def broken(*_):
        raise RuntimeError("something else")

    monkeypatch.setattr(UNet, "compute", broken)
    message = fails("teacher", "--data", pictures.data, "--out", tmp_path, *TINY)
    assert message == "RuntimeError: something else; SDESIG_TRACEBACK=1 shows where"


@pytest.mark.parametrize("package", ["PIL", "diffusers"])
def test_without_the_extra_it_is_named(package, tmp_path, pictures, fails, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, "sdesig.images.image_data", raising=False)
    command = ["teacher", "--data", pictures.data, "--out", tmp_path, *TINY]
    message = fails(*command, "--network", "unet2d")
    assert "pip install 'sdesig[images] @ git+" in message
    assert package in message


def test_other_missing_packages_are_not_hidden(tmp_path, pictures, fails, monkeypatch):
    def broken(**_):
        raise ModuleNotFoundError("No module named 'nothing'", name="nothing")

    monkeypatch.setattr(cli, "parse", lambda *_, **__: broken())
    assert (
        fails("teacher", "--data", pictures.data, "--out", tmp_path, *TINY)
        == "No module named 'nothing'; SDESIG_TRACEBACK=1 shows where"
    )

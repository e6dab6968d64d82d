"""Data and teachers that commands are given."""

import numpy as np
import pytest
import torch

from sdesig.commands.inputs import check_same_paths, load_data, load_teacher
from sdesig.digits import load_digits
from sdesig.digits import load_teacher as load_digits_teacher


@pytest.mark.parametrize("name", ["data", "images"])
@pytest.mark.parametrize("shape", [(5, 3), (5, 1, 4, 4), (2, 3, 2, 2)])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_arrays_are_used_as_they_are(name, shape, dtype, tmp_path):
    values = np.random.default_rng(0).normal(3.0, 5.0, shape).astype(dtype)
    np.savez_compressed(tmp_path / "file.npz", **{name: values, "labels": np.arange(5)})
    found, identity = load_data(str(tmp_path / "file.npz"))
    assert found.dtype == torch.float32
    assert np.array_equal(found.numpy(), values.astype(np.float32))
    assert identity["name"] == str(tmp_path / "file.npz")


def test_digits():
    assert torch.equal(load_data("digits")[0], load_digits()[0])
    assert load_data("digits")[1]["name"] == load_teacher("digits")[1]["name"] == "digits"
    x = torch.randn(2, 64, generator=torch.Generator().manual_seed(0))
    snr = torch.tensor(1.0)
    assert torch.equal(load_teacher("digits")[0](x, snr), load_digits_teacher()(x, snr))


@pytest.mark.parametrize(
    "arrays, message",
    [
        ({"pixels": np.zeros((3, 2))}, "it has no array data or images, but pixels"),
        ({}, "it has no array data or images, but none"),
        ({"data": np.zeros(3)}, "data must have shape (n >= 2, dim) or (n >= 2, channels, size, size); got (3,)"),
        ({"data": np.zeros((3, 4, 4))}, "got (3, 4, 4)"),
        ({"images": np.zeros((3, 1, 4, 5))}, "images must have shape"),
        ({"data": np.zeros((1, 4))}, "got (1, 4)"),
        ({"data": np.zeros((3, 0))}, "got (3, 0)"),
        ({"data": np.zeros((3, 4), dtype=np.uint8)}, "data must be floating point; it is uint8"),
        ({"data": np.full((3, 4), np.nan)}, "data must be finite"),
        ({"data": np.full((3, 4), 1e300)}, "data must be finite in float32"),
        ({"data": np.array([{"a": 1}, 2], dtype=object)}, "cannot be used: Object arrays cannot be loaded"),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
def test_arrays_that_are_refused(arrays, message, tmp_path):
    np.savez(tmp_path / "file.npz", **arrays)
    with pytest.raises(ValueError) as error:
        load_data(str(tmp_path / "file.npz"))
    assert message in str(error.value)
    assert str(tmp_path / "file.npz") in str(error.value)


def test_files_that_are_refused(tmp_path):
    file = tmp_path / "file.npz"
    with pytest.raises(FileNotFoundError, match=r"data must be 'digits' or a \.npz file, .*; .* does not exist"):
        load_data(str(file))
    np.savez(file, data=np.random.default_rng(0).normal(size=(100, 2)))
    whole = file.read_bytes()
    for broken in (b"", b"text", whole[:500], whole[:400] + b"\0\1\2\3" + whole[404:]):
        file.write_bytes(broken)
        with pytest.raises(ValueError, match=str(file)):
            load_data(str(file))
    np.save(tmp_path / "file.npy", np.zeros((3, 2)))
    with pytest.raises(ValueError, match=r"is not a complete \.npz file"):
        load_data(str(tmp_path / "file.npy"))


def test_teachers_that_are_refused(tmp_path, problem):
    with pytest.raises(FileNotFoundError, match="teacher must be 'digits' or a folder"):
        load_teacher(str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match=r"no config\.json"):
        load_teacher(str(tmp_path))
    with pytest.raises(ValueError, match="must hold a denoiser"):
        load_teacher(problem.student("student"))


def test_the_difference_of_paths_is_named():
    one = {"seeds": [0], "depth": 4, "clock": {"name": "snr", "variance": [0.5] * 100}}
    check_same_paths("a", one, "b", {**one, "seeds": [7, 8]})
    with pytest.raises(ValueError, match="a and b must have the same paths; depth differs: 4 and 6"):
        check_same_paths("a", one, "b", {**one, "depth": 6})
    with pytest.raises(ValueError, match="cells differs: None and 8"):
        check_same_paths("a", one, "b", {**one, "cells": 2**3})
    with pytest.raises(ValueError) as error:
        check_same_paths("a", one, "b", {**one, "clock": {"name": "snr", "variance": 0.5}})
    assert len(str(error.value)) < 200

"""The command line with --device, in one process and in two: what it writes is what it writes on the CPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from command_lines import main
from device_job import make_problem, run
from safetensors.torch import load_file
from virtual_device import unavailable

from sdesig.sampling import GaussianReference, PathSpace
from sdesig.sigdeg import MLP, NetworkDenoiser, Samples, SigDEG

JOB = Path(__file__).with_name("device_job.py")


@pytest.fixture(scope="module")
def problem(tmp_path_factory):
    """Data, a teacher and a generator of two coordinates, in files."""
    folder = tmp_path_factory.mktemp("problem")
    data = np.random.default_rng(0).normal(size=(40, 2)) * [1.0, 0.3]
    np.savez(folder / "data.npz", data=data)
    torch.manual_seed(0)
    teacher = NetworkDenoiser(MLP(2, width=8, blocks=1), 0.7)
    teacher.save(folder / "teacher")
    reference = GaussianReference.fit(torch.from_numpy(data).float(), "pca")
    space = PathSpace((2,), (0.01, 100.0), reference, cells=2**3, depth=4)
    SigDEG.from_teacher(teacher, space, depth=2).save(folder / "student")
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Pictures, a teacher and a generator of them, in files."""
    return make_problem(tmp_path_factory.mktemp("images") / "problem")


def weights(folder):
    return load_file(folder / "weights.safetensors")


def commands(problem, out):
    files = ["--teacher", str(problem / "teacher"), "--data", str(problem / "data.npz")]
    short = ["--iterations", "2", "--warmup", "1"]
    plain = ["--pairs", "local", "--grid", "even", "--snr", "0.01", "100"]
    fine = ["--teacher-steps", "8", "--teacher-cells", "4", "--verdict-seeds", "4"]
    yield (
        ["teacher", "--data", files[3], "--width", "8", "--blocks", "1", "--batch", "8", *short],
        out / "teacher",
    )
    yield (
        ["distill", *files, *fine, *short, "--evaluations", "8", "--depth", "2", "--steps", "2", "4", *plain],
        out / "student",
    )
    yield ["sample", str(problem / "student"), "--n", "3", "--steps", "2"], out / "samples.npz"


def test_commands(agrees, problem, tmp_path):
    def compute(device):
        out = tmp_path / device
        out.mkdir()
        for command, file in commands(problem, out):
            main([*command, "--device", device, "--out", str(file)])
        trained = [weights(out / "teacher" / "teacher"), weights(out / "student" / "student")]
        return [*trained, Samples.load(out / "samples.npz")]

    agrees(compute, rtol=1e-2, atol=2e-3, draws=True, stays=False)


def results(folder):
    rows = json.loads((folder / "report" / "report.json").read_text())
    numbers = [number["value"] for row in rows for number in row["measured"]]
    numbers += [row["pathwise_rmse"] for row in rows if row["pathwise_rmse"]]
    return [*trained(folder), Samples.load(folder / "images.npz").values, torch.tensor(numbers)]


def trained(folder):
    networks = [weights(folder / name / name) for name in ("teacher", "student")]
    return [value for network in networks for _, value in sorted(network.items())]


@pytest.fixture(scope="module")
def on_cpu(images):
    """Folder of what one process makes on the CPU."""
    run("cpu", images.parent / "cpu", images)
    return images.parent / "cpu"


def test_commands_for_images(agrees, on_cpu, images, tmp_path):
    def compute(device):
        if device == "cpu":
            return results(on_cpu)
        run(device, tmp_path, images)
        return results(tmp_path)

    agrees(compute, rtol=1e-2, atol=2e-2, draws=True, stays=False)


@pytest.mark.skipif(unavailable() is not None, reason=str(unavailable()))
def test_two_processes(on_cpu, images, tmp_path):
    """As torchrun starts them, on the virtual device: they train what one process trains."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(JOB)]
    command += ["virt", str(tmp_path), str(images), "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    for two, one in zip(trained(tmp_path), trained(on_cpu), strict=True):
        torch.testing.assert_close(two, one, rtol=1e-2, atol=2e-2)

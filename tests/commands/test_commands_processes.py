"""Two processes make what one makes, also after they were killed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from images_problem import make_pictures
from processes_job import run
from safetensors.torch import load_file

from sdesig.sigdeg import Samples

JOB = Path(__file__).with_name("processes_job.py")
SHARDS = 4


def launch(folder, pictures, *death):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(JOB)]
    command += [str(folder), str(pictures.data), str(pictures.teacher), *death]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Of one process, and of two that were killed twice and started again."""
    folder = tmp_path_factory.mktemp("processes")
    pictures = make_pictures(folder / "pictures")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sdesig.sigdeg.path_cache.NUMBERS", 0)  # both are set again by the job, and put back here
        patch.setattr("sdesig.evaluation.comparison.Comparison.seconds_per_1000", None)
        run(str(folder / "one"), str(pictures.data), str(pictures.teacher))
    two = folder / "two"
    assert launch(two, pictures, "training").returncode != 0
    assert not (two / "teacher" / "teacher").exists()
    stats = [json.loads(line)["iteration"] for line in (two / "teacher" / "stats.jsonl").read_text().splitlines()]
    assert stats == [2]
    assert launch(two, pictures, "caching").returncode != 0
    assert (two / "teacher" / "teacher").exists()
    assert 1 <= len(list((two / "paths").glob("paths-*"))) < SHARDS
    last = launch(two, pictures)
    assert last.returncode == 0, last.stderr
    return folder / "one", two, last


def test_both_were_there(folders):
    assert {file.name for file in folders[1].glob("process-*")} == {"process-0-of-2", "process-1-of-2"}


def test_one_of_them_speaks(folders):
    assert folders[2].stdout.count("sdesig distill") == 1
    assert folders[2].stdout.count("| converged path ") == folders[2].stdout.count("| method ")


@pytest.mark.parametrize("name", ["teacher/teacher", "student/student"])
def test_weights(name, folders):
    """Sums of two are in one order only."""
    one, two = (load_file(folder / name / "weights.safetensors") for folder in folders[:2])
    assert all(torch.equal(value, two[key]) for key, value in one.items())


def test_cached_paths(folders):
    one, two = (sorted((folder / "paths").glob("paths-*")) for folder in folders[:2])
    assert [file.name for file in one] == [file.name for file in two] == [f"paths-{k:05}.safetensors" for k in range(4)]
    for first, second in zip(one, two, strict=True):
        tensors = load_file(second)
        assert all(torch.equal(value, tensors[key]) for key, value in load_file(first).items())


def test_samples(folders):
    one, two = (Samples.load(folder / "images.npz") for folder in folders[:2])
    assert two.seeds == list(range(7))
    assert one.identity == two.identity
    assert torch.equal(one.values, two.values)


def test_samples_of_the_report(folders):
    """Blocks of seeds: none is missing, none is there twice."""
    one, two = (sorted((folder / "report" / "samples").glob("seeds-*")) for folder in folders[:2])
    assert [file.name for file in one] == [file.name for file in two]
    assert len(one) == 6
    for first, second in zip(one, two, strict=True):
        tensors = load_file(second)
        found = load_file(first)
        assert found.keys() == {key.replace(str(folders[1]), str(folders[0])) for key in tensors}
        for key, value in tensors.items():
            assert torch.equal(value, found[key.replace(str(folders[1]), str(folders[0]))])


def test_the_report(folders):
    one, two = (json.loads((folder / "report" / "report.json").read_text()) for folder in folders[:2])
    for first, second in zip(one, two, strict=True):
        assert first["pathwise_rmse"] == second["pathwise_rmse"]
        for number, other in zip(first["measured"], second["measured"], strict=True):
            assert number["metric"] == other["metric"]
            assert number["value"] == pytest.approx(other["value"], rel=1e-9, abs=1e-9)

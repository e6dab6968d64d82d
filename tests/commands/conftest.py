"""A small problem in files: 2-d data, an untrained MLP as the teacher, and untrained generators of it."""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from command_lines import main

from sdesig.sampling import GaussianReference, PathSpace, StepGrid
from sdesig.sigdeg import MLP, NetworkDenoiser, SigDEG

SNR = (0.01, 100.0)


class Problem(NamedTuple):
    """Paths of files, and the arguments that name the first two."""

    data: Path
    teacher: Path
    folder: Path

    @property
    def flags(self):
        return ["--teacher", str(self.teacher), "--data", str(self.data)]

    def student(self, name, *, depth=2, reference="pca", snr=SNR, event=2, path_depth=4):
        """Folder of an untrained generator, made when it is first asked for."""
        folder = self.folder / name
        if not folder.exists():
            torch.manual_seed(1)
            values = torch.randn(100, event, generator=torch.Generator().manual_seed(0))
            teacher = NetworkDenoiser(MLP(event, width=16, blocks=1), 1.0)
            gaussian = GaussianReference.fit(values, reference)
            space = PathSpace((event,), snr, gaussian, cells=2**6, depth=path_depth)
            SigDEG.from_teacher(teacher, space, depth=depth).save(folder)
        return str(folder)


@pytest.fixture(scope="session")
def problem(tmp_path_factory):
    folder = tmp_path_factory.mktemp("problem")
    values = np.random.default_rng(0).normal(size=(100, 2)) * [1.0, 0.3]
    np.savez(folder / "data.npz", data=values)
    torch.manual_seed(0)
    NetworkDenoiser(MLP(2, width=16, blocks=1), 0.7).save(folder / "teacher")
    StepGrid((0.0, 0.7, 1.0)).save(folder / "grid.json")
    return Problem(folder / "data.npz", folder / "teacher", folder)


@pytest.fixture(autouse=True)
def short_verdicts(request, monkeypatch):
    """But where verdicts are tested."""
    if request.path.name != "test_commands_verdict.py":
        monkeypatch.setattr("sdesig.commands.distill.affordable", lambda evaluations: 5000)


@pytest.fixture
def fails(capsys):
    """Runs a command that must fail, with one line on standard error besides progress bars; returns the message."""

    def run(*arguments, status=2):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == status
        error = capsys.readouterr().err
        assert "Traceback" not in error
        last = error.splitlines()[-1]
        assert last.startswith("sdesig: ")
        return last.removeprefix("sdesig: ")

    return run


@pytest.fixture
def options():
    """Reads the options.json of a run."""
    return lambda folder: json.loads((Path(folder) / "options.json").read_text())

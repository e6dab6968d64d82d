"""What a wheel has, and what is said about what it leaves out."""

import zipfile
from pathlib import Path

import pytest
from command_lines import main

import sdesig
from sdesig import digits
from sdesig.commands import demo
from sdesig.digits import load_student, load_teacher, path_space
from sdesig.sigdeg import SigDEG

ROOT = Path(__file__).parents[1]


@pytest.fixture
def without_students(tmp_path, monkeypatch):
    """As it is where a wheel was installed."""
    for part in digits.FOLDER.iterdir():
        if part.name != "students":
            (tmp_path / part.name).symlink_to(part)
    monkeypatch.setattr(digits, "FOLDER", tmp_path)


def test_a_wheel_has_all_but_the_students(tmp_path):
    builders = pytest.importorskip("hatchling.builders.wheel")
    (made,) = builders.WheelBuilder(str(ROOT)).build(directory=str(tmp_path))
    with zipfile.ZipFile(made) as wheel:
        names = {name for name in wheel.namelist() if name.startswith("sdesig/")}
    sources = {str(file.relative_to(ROOT)) for file in (ROOT / "sdesig").rglob("*.py")}
    assert sources <= names
    assert {"sdesig/py.typed", "sdesig/digits/teacher/weights.safetensors", "sdesig/digits/grid.json"} <= names
    assert not [name for name in names if "students" in name]
    assert Path(made).stat().st_size < 4e6
    assert Path(made).name == f"sdesig-{sdesig.__version__}-py3-none-any.whl"


def test_missing_students_are_told_in_one_line(without_students, tmp_path, capsys):
    with pytest.raises(FileNotFoundError, match=r"digits/depth-2 is not in a wheel: .* checkout .* `sdesig distill`"):
        load_student("depth-2")
    with pytest.raises(SystemExit):
        main(["sample", "digits/depth-2", "--out", str(tmp_path / "a.npz")])
    assert capsys.readouterr().err.splitlines()[-1].startswith("sdesig: digits/depth-2 is not in a wheel")


def test_unknown_students():
    with pytest.raises(ValueError, match="name must be one of depth-1, depth-2, plain; got 'depth-3'"):
        load_student("depth-3")


def test_the_demo_runs_without_them(without_students, capsys):
    student = SigDEG.from_teacher(load_teacher(), path_space(), depth=4)
    found = [sampler.key for sampler in demo.samplers(student, demo.QUICK)]
    assert not {"plain", "depth-1", "depth-2"} & set(found)
    assert found[-1] == "depth-4"
    assert "Rows of shipped generators are left out: digits/plain is not in a wheel" in capsys.readouterr().out

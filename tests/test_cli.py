"""The command line: the tour writes its pictures, bad values are one line and exit status 2."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from sdesig.cli import main
from validation import studies


def test_demo_writes_three_pictures(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["sdesig", "demo", "--out", str(tmp_path / "new")])
    main()
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [
        "areas.png",
        "path.png",
        "reverse_diffusion.png",
    ]
    assert "E[A_01 H_0 W_1]" in capsys.readouterr().out


def test_errors_are_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["sdesig", "demo", "--out", str(tmp_path), "--seed", "-5"])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert capsys.readouterr().err == "sdesig: seeds must lie in [0, 2^63); got -5\n"


def test_module_has_help():
    run = subprocess.run([sys.executable, "-m", "sdesig", "--help"], capture_output=True, text=True, check=True)
    assert "demo" in run.stdout


@pytest.fixture
def runs(monkeypatch):
    """What `sdesig validate` asks for; the verdict is that the study is not called "wrong"."""
    calls = []

    def run_studies(names, *, full, out):
        calls.append((names, full, out))
        return "wrong" not in names

    monkeypatch.setattr(studies, "run_studies", run_studies)
    return calls


def test_validate_passes_on_its_options_and_the_verdict(tmp_path, runs):
    main(["validate"])
    main(["validate", "one", "two", "--full", "--out", str(tmp_path)])
    main(["validate", "--quick"])
    with pytest.raises(SystemExit) as stop:
        main(["validate", "wrong"])
    assert stop.value.code == 1
    assert runs == [
        ((), False, studies.RESULTS),
        (("one", "two"), True, tmp_path),
        ((), False, studies.RESULTS),
        (("wrong",), False, studies.RESULTS),
    ]


def test_validate_as_a_module_is_the_same_command(monkeypatch, runs):
    monkeypatch.setattr(sys, "argv", ["validation", "one", "--full"])
    runpy.run_module("validation", run_name="__main__")
    assert runs == [(("one",), True, studies.RESULTS)]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--quick", "--full"], "only one of --quick and --full may be given"),
        (["nothing"], f"study must be one of {', '.join(map(repr, studies.STUDIES))}; got 'nothing'"),
    ],
)
def test_validate_rejects(arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["validate", *arguments])
    assert stop.value.code == 2
    assert capsys.readouterr().err.strip() == f"sdesig: {message}"


def test_validate_without_the_source_checkout(monkeypatch, capsys):
    monkeypatch.delitem(sys.modules, "validation.studies")
    monkeypatch.delitem(sys.modules, "validation")
    monkeypatch.setattr(sys, "path", [folder for folder in sys.path if not Path(folder, "validation").is_dir()])
    monkeypatch.setattr(sys, "path_importer_cache", {})
    with pytest.raises(SystemExit) as stop:
        main(["validate"])
    assert stop.value.code == 2
    assert "source checkout" in capsys.readouterr().err

"""The command line: the tour writes its pictures, bad values are one line and exit status 2."""

import subprocess
import sys

import pytest

from sdesig.cli import main


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

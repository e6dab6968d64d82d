"""The command line: what is printed for help, errors of one line, the tour, the demo and the validation."""

import runpy
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sdesig._interrupts import Interrupted
from sdesig.commands import tour
from sdesig.commands.main import COMMANDS, main
from validation import studies


def test_tour_writes_three_pictures(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["sdesig", "tour", "--out", str(tmp_path / "new")])
    main()
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [
        "areas.png",
        "path.png",
        "reverse_diffusion.png",
    ]
    assert "E[A_01 H_0 W_1]" in capsys.readouterr().out


def test_errors_are_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["sdesig", "tour", "--out", str(tmp_path), "--seed", "-5"])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert capsys.readouterr().err == "sdesig: seeds must lie in [0, 2^63); got -5\n"


@pytest.mark.parametrize(
    "error, status, message",
    [
        (FloatingPointError("the state is not finite"), 2, "the state is not finite"),
        (FileNotFoundError("no\nfile"), 2, "no file"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (Interrupted("two of three are kept"), 130, "interrupted; two of three are kept"),
        (Interrupted("two of three are kept", signal.SIGTERM), 143, "interrupted; two of three are kept"),
    ],
)
def test_exit_status(error, status, message, monkeypatch, capsys):
    def run(out, seed):
        raise error

    monkeypatch.setattr(tour, "run_tour", run)
    with pytest.raises(SystemExit) as stop:
        main(["tour"])
    assert stop.value.code == status
    assert capsys.readouterr().err == f"sdesig: {message}\n"


@pytest.mark.parametrize(
    "error, message",
    [
        (RuntimeError("a\nbug"), "RuntimeError: a bug; SDESIG_TRACEBACK=1 shows where"),
        (KeyError("seed"), "KeyError: it has no 'seed'; SDESIG_TRACEBACK=1 shows where"),
        (ZeroDivisionError("division by zero"), "ZeroDivisionError: division by zero; SDESIG_TRACEBACK=1 shows where"),
        (RecursionError("maximum"), "RecursionError: it is nested too deeply; SDESIG_TRACEBACK=1 shows where"),
        (AssertionError(), "AssertionError: AssertionError; SDESIG_TRACEBACK=1 shows where"),
        (ImportError("no part", name="sdesig.part"), "no part; SDESIG_TRACEBACK=1 shows where"),
        (MemoryError(), "there is not enough memory for it"),
    ],
)
@pytest.mark.parametrize("asked", ["", "0", "1"])
def test_what_nobody_expected_is_one_line_and_the_traceback_is_there_if_asked_for(
    error, message, asked, monkeypatch, capsys
):
    def run(out, seed):
        raise error

    monkeypatch.setattr(tour, "run_tour", run)
    monkeypatch.setenv("SDESIG_TRACEBACK", asked)
    with pytest.raises(SystemExit) as stop:
        main(["tour"])
    assert stop.value.code == 2
    shown = capsys.readouterr().err
    assert shown.endswith(f"sdesig: {message}\n")
    assert ("in run\n" in shown) == ("Traceback" in shown) == (asked == "1")


def test_help_says_how_to_see_a_traceback(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "SDESIG_TRACEBACK=1" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        ["demo"],
        ["tour"],
        ["validate"],
        ["floor"],
        ["distill"],
        ["train-teacher"],
        ["evaluate"],
        ["sample", "--model", "m"],
        ["images", "train-teacher"],
        ["images", "cache", "--teacher", "t"],
        ["images", "distill", "--teacher", "t"],
        ["images", "evaluate", "--teacher", "t"],
        ["images", "sample", "--model", "m"],
    ],
    ids=" ".join,
)
def test_outputs_that_cannot_be_written_are_found_before_the_work(arguments, tmp_path, monkeypatch, capsys):
    """In a file, in a folder that may not be written to, and of the other kind; nothing is read before."""
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.npz").mkdir()

    def read_only(*, dir):
        raise PermissionError(13, "Permission denied", str(dir))

    for out, error in (("file/new.npz", None), ("new.npz", read_only), (None, None)):
        if out is None:
            of_a_file = arguments[-1] == "m" or arguments == ["floor"]
            out = "folder.npz" if of_a_file else "file"
            arguments = [*arguments, *(["--force"] if arguments[-1] == "m" else [])]
        with monkeypatch.context() as patch:
            if error is not None:
                patch.setattr("tempfile.TemporaryFile", error)
            with pytest.raises(SystemExit) as stop:
                main([*arguments, "--out", str(tmp_path / out)])
        assert stop.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("sdesig: ")
        assert str(tmp_path / out) in line
        assert "out" in line
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "folder.npz"]


def test_demo_passes_on_its_options(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr("sdesig.commands.demo.run_demo", lambda out, *, seed, quick: calls.append((out, seed, quick)))
    main(["demo"])
    main(["demo", "--out", str(tmp_path), "--seed", "3", "--quick"])
    assert calls == [(Path("runs/demo"), 0, False), (tmp_path, 3, True)]


def test_module_has_help():
    run = subprocess.run([sys.executable, "-m", "sdesig", "--help"], capture_output=True, text=True, check=True)
    for name in COMMANDS:
        assert name in run.stdout


@pytest.mark.parametrize(
    "command, shown",
    [
        ("demo", ["--out PATH", "(default: runs/demo)", "--quick", "its numbers mean nothing"]),
        ("tour", ["(default: runs/tour)", "First seed of all paths. (default: 0)"]),
        ("train-teacher", ["--iterations INT", "(default: 5000)", "(default: -0.5 1.5)", "(default: runs/teacher)"]),
        ("distill", ["--teacher-scheme STR", "(default: path_average)", "--steps INT INT", "(default: 4 32)"]),
        (
            "distill",
            ["--only-coefficients, --no-only-coefficients", "a shorter run goes on. (default: 10000)"],
        ),
        ("distill", ["1/400 and 400", "1/6400", "--cell {solver,plain}", "--reference {pca,scalar,coordinates,none}"]),
        ("sample", ["--model PATH", "(required)", "(default: samples.npz)", "(default: 1024)"]),
        ("evaluate", ["--baselines, --no-baselines", "(default: 4 8 16 32)", "(default: 2000)"]),
        ("floor", ["(default: 1 2 4)", "(default: 10000)", "--teacher-steps INT"]),
        ("validate", ["--quick", "--full"]),
    ],
)
def test_help_shows_defaults(command, shown, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for part in shown:
        assert part in text


@pytest.mark.parametrize("arguments", [[], ["nothing"], ["tour", "--nothing"], ["distill", "--cell", "other"]])
def test_bad_flags_are_the_parsers(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert "Traceback" not in capsys.readouterr().err


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

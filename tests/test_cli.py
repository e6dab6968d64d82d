"""The command line: its options and their help, errors of one line, the tour, the demo and the validation."""

import errno
import re
import runpy
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Literal, get_args, get_origin

import pytest

import sdesig
from sdesig._interrupts import Interrupted
from sdesig.commands.main import COMMANDS, FILE_ONLY, FORMER, RARE, main, options_of
from validation import __main__ as validation
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
    def run(tour):
        raise error

    monkeypatch.setattr("sdesig.commands.tour.Tour.run", run)
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
    def run(tour):
        raise error

    monkeypatch.setattr("sdesig.commands.tour.Tour.run", run)
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
        ["floor"],
        ["distill"],
        ["teacher"],
        ["evaluate"],
        ["cache"],
        ["sample", "m"],
        ["distill", "--teacher", "t"],
        ["evaluate", "--teacher", "t"],
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
    monkeypatch.setattr("sdesig.commands.demo.Demo.run", lambda demo: calls.append((demo.out, demo.seed, demo.quick)))
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
        (
            "teacher",
            ["--iterations INT", "(default: 5000, of images 20000)", "runs/teacher)"],
        ),
        (
            "distill",
            ["--teacher-scheme STR", "(default: path_average)", "--steps INT INT", "of images 256)"],
        ),
        (
            "distill",
            ["--only-coefficients, --no-only-coefficients", "a shorter run goes on. (default: 10000)"],
        ),
        (
            "distill",
            ["1/400 and 400", "1/6400", "--cell {solver,plain}", "--reference STR", "coordinates, none"],
        ),
        (
            "sample",
            ["MODEL", "(required)", "(default: samples.npz)", "default 1024, of images 64", "--count INT, --n INT"],
        ),
        (
            "evaluate",
            [
                "[MODEL ...]",
                "--samplers [STR ...]",
                "(default: none, of images pixels)",
                "(default: 4 8 16 32, of images 5 10 20)",
                "(default: 2000)",
                "unipc",
            ],
        ),
        ("floor", ["(default: 1 2 4)", "(default: 10000)", "--teacher-steps INT"]),
        ("cache", ["--paths INT", "(default: 8192)", "--teacher-cache of distill"]),
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


FLAG = re.compile(r"--[a-z][a-z-]*")


def help_of(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        main([*arguments, "--help"])
    assert stop.value.code == 0
    return capsys.readouterr().out


def options():
    return [(name, option) for name, command in COMMANDS.items() for option in options_of(command)]


def has_flag(option):
    return not option.positional and option.name not in FILE_ONLY


def test_there_are_few_flags():
    assert sum(has_flag(option) for _, option in options()) <= 120


@pytest.mark.parametrize("name", COMMANDS)
def test_the_flags_are_those_that_the_help_shows(name, capsys):
    heads = re.findall(r"^. (--.*?)(?:  |$)", help_of(capsys, name), re.M)
    shown = {flag for head in heads for flag in FLAG.findall(head)}
    wanted = {f"--{option.name.replace('_', '-')}" for option in options_of(COMMANDS[name]) if has_flag(option)}
    assert {flag for flag in shown if not flag.startswith("--no-")} - {"--count"} == wanted


def test_the_groups_of_options_exist():
    """Nothing is in a list that no command has, or in two."""
    names = {option.name for _, option in options()}
    assert names >= RARE | FILE_ONLY
    assert not RARE & FILE_ONLY


def test_help_texts_are_phrases():
    for name, option in options():
        first = option.text.partition(" ")[0]
        assert len(option.text.split()) >= 3, (name, option.name)
        assert first[:1].isupper(), (name, option.name, option.text)
        assert first not in ("Of", "See", "As"), (name, option.name, option.text)
        assert option.text.endswith("."), (name, option.name)
        assert "\n" not in option.text


def element(kind):
    """The type of a value, or of each of several, that is given if it is not None."""
    parts = [part for part in get_args(kind) if part not in (type(None), ...)]
    return kind if not parts or get_origin(kind) is Literal else element(parts[0])


def test_an_option_is_the_same_everywhere():
    """One type; where it takes one value here and several there, they are of that type."""
    kinds = {}
    for name, option in options():
        kinds.setdefault(option.name, {})[name] = element(option.kind)
    assert all(len({*found.values()}) == 1 for found in kinds.values()), kinds


def test_an_option_says_the_same_everywhere():
    """But for what it is a number or a folder of."""
    own = {"out", "steps", "depth", "n", "seed", "batch", "paths", "teacher_steps", "floor_groups"}
    texts = {}
    for _, option in options():
        texts.setdefault(option.name, set()).add(option.text)
    assert {name for name, found in texts.items() if len(found) > 1} <= own
    for name in own - {"out", "steps", "seed"}:
        assert len({text.partition(" ")[0] for text in texts[name]}) == 1, texts[name]


@pytest.mark.parametrize("name", COMMANDS)
def test_the_usual_options_fit_one_screen(name, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "120")
    first, _, rare = help_of(capsys, name).partition(" rare options ")
    assert len(first.splitlines()) <= 45
    assert (rare == "") == (not any(option.name in RARE for option in options_of(COMMANDS[name])))


def test_help_mentions_version_and_completion(capsys):
    shown = help_of(capsys)
    assert "--version" in shown
    assert "--tyro-print-completion {bash,zsh,tcsh}" in " ".join(shown.split())


def test_version(capsys):
    main(["--version"])
    assert capsys.readouterr().out == f"sdesig {sdesig.__version__}\n"


def test_completion(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--tyro-print-completion", "bash"])
    assert stop.value.code in (None, 0)
    shown = capsys.readouterr().out
    assert all(name in shown for name in COMMANDS)
    assert "--only-coefficients" in shown


@pytest.mark.parametrize("name, now", FORMER.items())
def test_an_earlier_command_is_told_what_it_is_now(name, now, capsys):
    with pytest.raises(SystemExit) as stop:
        main([name, "--out", "x"])
    assert stop.value.code == 2
    assert capsys.readouterr().err == f"sdesig: {name} is now {now}\n"


# --- validation ------------------------------------------------------------------------------------------------------


@pytest.fixture
def runs(monkeypatch):
    """What `python -m validation` asks for; the verdict is that the study is not called "wrong"."""
    calls = []

    def run_studies(names, *, full, out):
        calls.append((tuple(names), full, out))
        return "wrong" not in names

    monkeypatch.setattr(studies, "STUDIES", dict.fromkeys(("one", "two", "wrong")))
    monkeypatch.setattr(studies, "run_studies", run_studies)
    monkeypatch.setattr(validation, "run_studies", run_studies)
    return calls


def test_validation_passes_on_its_options_and_the_verdict(tmp_path, runs):
    for arguments, status in (
        ([], 0),
        (["one", "two", "--full", "--out", str(tmp_path)], 0),
        (["--quick"], 0),
        (["wrong"], 1),
    ):
        with pytest.raises(SystemExit) as stop:
            validation.main(arguments)
        assert stop.value.code == status
    assert runs == [
        ((), False, studies.RESULTS),
        (("one", "two"), True, tmp_path),
        ((), False, studies.RESULTS),
        (("wrong",), False, studies.RESULTS),
    ]


def test_validation_is_a_module(monkeypatch, runs):
    monkeypatch.setattr(sys, "argv", ["validation", "one", "--full"])
    monkeypatch.delitem(sys.modules, "validation.__main__")
    with pytest.raises(SystemExit) as stop:
        runpy.run_module("validation", run_name="__main__")
    assert stop.value.code == 0
    assert runs == [(("one",), True, studies.RESULTS)]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--quick", "--full"], "argument --full: not allowed with argument --quick"),
        (["nothing"], f"study must be one of {', '.join(map(repr, studies.STUDIES))}; got 'nothing'"),
        (["--out", f"{__file__}/new"], "argument --out: must be a folder that can be written to; got "),
    ],
)
def test_validation_rejects(arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        validation.main(arguments)
    assert stop.value.code == 2
    assert f"python -m validation: error: {message}" in capsys.readouterr().err


def test_what_a_study_raises_is_no_wrong_argument(tmp_path, monkeypatch):
    def broken(names, *, full, out):
        raise ValueError("a study failed")

    monkeypatch.setattr(validation, "run_studies", broken)
    with pytest.raises(ValueError, match="a study failed"):
        validation.main(["--out", str(tmp_path)])


def test_validation_asks_before_the_work_whether_it_can_write(tmp_path, monkeypatch, runs, capsys):
    def refuse(**_):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    with pytest.raises(SystemExit) as stop:
        validation.main(["--out", str(tmp_path)])
    assert (stop.value.code, runs) == (2, [])
    assert f"must be a folder that can be written to; got {tmp_path} (Permission denied)" in capsys.readouterr().err


def test_the_package_works_without_the_validation():
    for file in Path(sdesig.__file__).parent.rglob("*.py"):
        assert not re.search(r"(from|import) validation", file.read_text())

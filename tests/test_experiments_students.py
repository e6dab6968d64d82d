"""The experiments that train students, in small: the files that they write, and what is in them."""

import functools
import json
import math
from dataclasses import replace

import pytest
import torch
from matplotlib.image import imread

from experiments.digits import __main__ as digits
from experiments.digits import floors as digits_floors
from experiments.digits import scaling as digits_scaling
from experiments.digits import setting as digits_setting
from experiments.digits import study as digits_study
from experiments.digits import table as digits_table
from experiments.toy_mixture import __main__ as toy
from experiments.toy_mixture import setting as toy_setting
from sdesig.digits import load_grid, load_teacher, path_space
from sdesig.evaluation import Comparison
from sdesig.sampling import CanonicalSDE, Floor, StepGrid, TeacherOptions
from sdesig.sigdeg import SigDEG

FULL_RUNS = dict(digits_setting.RUNS)
AVERAGE, TWO = "path-average, reference", "SDE-DPM-Solver++(2M)"


@pytest.fixture(scope="module", autouse=True)
def small():
    """Without timings, and with short teacher paths and trainings."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sdesig.evaluation.comparison.Comparison.seconds_per_1000", lambda *_: math.nan)
        whole = toy_setting.options
        patch.setattr(toy_setting, "options", lambda *arguments: tiny(whole(*arguments)))
        patch.setattr(toy, "TEACHER", TeacherOptions(steps=32, cells=32))
        patch.setattr(digits_floors, "TeacherOptions", lambda steps: TeacherOptions(steps=32, cells=32))
        runs = {name: replace(run, options=tiny(run.options)) for name, run in digits_setting.RUNS.items()}
        patch.setattr(digits_study, "RUNS", runs)
        patch.setattr(digits_setting, "RUNS", runs)
        yield


def tiny(options):
    """Two iterations on 32 paths of few fine steps."""
    teacher = replace(options.teacher_options, steps=options.teacher_options.cells)
    training = replace(options.training, iterations=2)
    return replace(options, paths=32, evaluations=128, teacher_options=teacher, training=training)


def check_figure(file):
    assert min(imread(file).shape[:2]) > 200


# --- mixture ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def toy_run(tmp_path_factory, small):
    """Folders of runs and results, and report.json."""
    folder = tmp_path_factory.mktemp("toy")
    toy.main(toy_arguments(folder))
    return folder, json.loads((folder / "results" / "report.json").read_text())


def toy_arguments(folder):
    small = ("--iterations", "2", "--seeds", "20", "--groups", "10")
    return ["--runs", str(folder / "runs"), "--out", str(folder / "results"), *small]


def test_the_mixture_has_a_row_per_sampler_and_steps(toy_run):
    rows = toy_run[1]["rows"]
    students = [f"Sig-DEG, depth {depth}" for depth in (1, 2, 4)]
    solvers = ["Euler = SDE-DPM-Solver++(1)", TWO, "path-average", AVERAGE]
    expected = [(name, n) for name in solvers for n in (4, 8, 16, 32)] + [(s, n) for s in students for n in (4, 8, 16)]
    assert [(row["method"], row["steps"]) for row in rows] == expected
    for row in rows:
        assert ("ratio" in row) == (row["floor"] is not None) == (row["method"] in students)
        assert "seconds_per_1000" not in row
        assert row["pathwise_median"] > 0
        assert 0 < row["pathwise_rmse"] < 3


def test_the_mixture_has_all_floors(toy_run):
    floors = [Floor(**floor) for floor in toy_run[1]["floors"]]
    assert [(floor.depth, floor.steps) for floor in floors] == [(d, n) for d in (1, 2, 4) for n in (4, 8, 16)]
    assert all(floor.groups == 10 and floor.rmse > 0 for floor in floors)


def test_the_mixture_writes_its_files(toy_run):
    results = toy_run[0] / "results"
    assert {file.name for file in results.iterdir()} == {"report.json", "report.md", "errors.png", "paths.png"}
    text = (results / "report.md").read_text()
    assert "20 seeds" in text
    assert text.count("\n| ") == 1 + len(toy_run[1]["rows"])
    for name in ("errors.png", "paths.png"):
        check_figure(results / name)


def test_the_mixture_goes_on_from_its_students(toy_run, monkeypatch):
    folder, report = toy_run

    def refuse(*_):
        raise AssertionError("trained again")

    monkeypatch.setattr(toy_setting, "distill", refuse)
    toy.main(toy_arguments(folder))
    assert json.loads((folder / "results" / "report.json").read_text()) == report


# --- digits ----------------------------------------------------------------------------------------------------------


def coarse(teacher, space):
    """A comparison on paths of fewer cells."""
    return Comparison(teacher, replace(space, cells=2**8), truth_steps=64)


@pytest.fixture(scope="module")
def digits_run(tmp_path_factory, small):
    """Folder of both parts. 70 seeds for the table: more than the pixels, of which it has covariances."""
    folder = tmp_path_factory.mktemp("digits")
    arguments = ["--runs", str(folder / "runs"), "--out", str(folder / "results"), "--groups", "8"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sdesig._intervals.RESAMPLES", 50)
        patch.setattr(digits_table, "Comparison", functools.partial(Comparison, truth_steps=64))
        digits.main([*arguments, "--seeds", "70", "--frechet-seeds", "50", "--part", "table"])
        patch.setattr(digits_study, "Comparison", coarse)
        patch.setattr(digits_floors, "TeacherOptions", lambda steps: TeacherOptions(steps=16, cells=16))
        digits.main([*arguments, "--study-seeds", "8", "--part", "study"])
    return folder


def test_digits_write_their_files(digits_run):
    results = digits_run / "results"
    figures = {"errors.png", "steps.png", "floors.png", "study.png"}
    assert {file.name for file in results.iterdir()} == {
        *("report.json", "report.md", "study.json", "study.md"),
        *figures,
    }
    for name in figures:
        check_figure(results / name)


def test_the_table_of_digits(digits_run):
    report = json.loads((digits_run / "results" / "report.json").read_text())
    assert set(report) == {"n", "frechet_seeds", "rows", "targets", "floors"}
    assert (report["n"], report["frechet_seeds"]) == (70, 50)
    found = {(row["method"], row["steps"]): row for row in report["rows"]}
    assert len(found) == len(report["rows"])
    for steps in (4, 8, 10, 16, 32):
        for depth in (1, 2, 4):
            row = found[f"Sig-DEG, depth {depth}", steps]
            assert row["depth"] == depth
            assert (row["floor"] is None) == (steps == 10)
            assert row["pathwise_rmse"] > 0
    assert found["Euler = SDE-DPM-Solver++(1)", 1000]["pathwise_rmse"] < found[TWO, 4]["pathwise_rmse"]
    assert found["plain Sig-DEG, depth 2", 100]["floor"] is None
    assert found["DDIM", 8]["pathwise_rmse"] is None
    assert all({"frechet_distance", "frechet_distance_pixels"} <= set(row) for row in report["rows"])
    assert not any("seconds_per_1000" in row for row in report["rows"])


def test_the_targets_of_digits(digits_run):
    """All are measured, and stand in the report."""
    report = json.loads((digits_run / "results" / "report.json").read_text())
    assert len(report["targets"]) >= 16
    for line in report["targets"]:
        assert set(line) == {"target", "measured", "passed"}
        assert line["passed"] in ("yes", "no", "too few seeds")
        assert (line["passed"] == "too few seeds") == line["measured"].endswith("(?)")
        assert "nan" not in line["measured"]
    text = (digits_run / "results" / "report.md").read_text()
    assert "## Targets" in text
    assert "50 seeds" in text
    assert text.count("\n| ") == 2 + len(report["rows"]) + len(report["targets"])


def test_the_study_of_digits(digits_run):
    study = json.loads((digits_run / "results" / "study.json").read_text())
    assert {row["question"] for row in study["rows"]} == {"training", "depth", "pairs", "cell", "clock", "grid"}
    for row in study["rows"]:
        assert set(row) == {"question", "variant", "rmse_4", "rmse_8", "rmse_16"}
        assert "nan" not in " ".join(map(str, row.values()))
    clocks = [f"{clock}, {grid} grid" for clock in digits_study.CLOCKS for grid in ("even", "chosen") for _ in range(3)]
    assert [row["clock"] for row in study["floors"]] == clocks
    text = (digits_run / "results" / "study.md").read_text()
    assert text.count("\n| ") == 2 + len(study["rows"]) + len(study["floors"])
    assert "8 seeds" in text


def test_rows_of_one_run_agree(digits_run):
    """The study names some runs twice: as variants of several questions."""
    study = json.loads((digits_run / "results" / "study.json").read_text())
    found = {(row["question"], row["variant"]): row for row in study["rows"]}
    same = [found["training", "coefficients and network"], found["depth", "depth 4"], found["grid", "chosen, trained"]]
    assert len({(row["rmse_4"], row["rmse_8"], row["rmse_16"]) for row in same}) == 1
    assert found["grid", "even, untrained"]["rmse_8"] != found["grid", "chosen, untrained"]["rmse_8"]


def test_students_are_what_their_runs_say(digits_run):
    for name, run in digits_setting.RUNS.items():
        folder = digits_run / "runs" / name
        made, recorded = SigDEG.load(folder / "student"), json.loads((folder / "options.json").read_text())
        assert (made.depth, made.kind) == (run.depth, run.cell)
        assert (made.space.grid == StepGrid()) == run.even
        assert run.even or made.space.grid == load_grid()
        assert bool((made.space.reference.variance > 0).any()) == (run.reference != "none")
        assert bool(made.space.reference.basis) == (run.reference == "pca")
        assert recorded["distillation"]["pairs"] == run.options.pairs
        assert recorded["training"]["iterations"] == 2


def test_runs_that_share_paths_agree_in_what_the_paths_depend_on():
    """As they are at full length: a cache refuses other paths, but hours into the experiment."""
    shared = {}
    for run in FULL_RUNS.values():
        if run.options.pairs != "local":
            training = run.options.training
            key = (run.reference, run.even, run.options.teacher_options, run.options.paths, training.seed)
            shared.setdefault(run.cache, set()).add(key)
    assert {cache: len(keys) for cache, keys in shared.items()} == dict.fromkeys(shared, 1)
    assert len(shared) == len({key for keys in shared.values() for key in keys})


def test_shipping_copies_the_students(digits_run, tmp_path, monkeypatch):
    monkeypatch.setattr(digits, "FOLDER", tmp_path)
    digits.main(["--runs", str(digits_run / "runs"), "--part", "ship"])
    assert {folder.name for folder in (tmp_path / "students").iterdir()} == {"plain", "depth-1", "depth-2"}
    assert SigDEG.load(tmp_path / "students" / "plain").kind == "plain"


def test_the_study_of_what_stops_students_writes_its_files(tmp_path, monkeypatch):
    """A group at a time; the other one stays in the file."""
    monkeypatch.setattr(digits_scaling, "choose_grid", lambda *_, **__: load_grid())
    monkeypatch.setattr(digits_scaling, "Comparison", functools.partial(Comparison, truth_steps=64))
    monkeypatch.setattr(digits_scaling, "EVALUATIONS", 128)
    monkeypatch.setattr(digits_scaling, "BY_STEP", 2)
    variants = (digits_scaling.GROUPS["pairs"][0],)
    unrolled = digits_scaling.Variant("unrolled", "mean", depth=2)
    others = (unrolled, digits_scaling.Variant(width=16, steps=(8, 8), shown="coefficients", law=1.0))
    digits_scaling.scaling("pairs", 1, 40, tmp_path, variants)
    digits_scaling.scaling("students", 1, 40, tmp_path, others)
    groups = json.loads((tmp_path / "scaling.json").read_text())
    assert list(groups) == ["pairs", "students"]
    for chosen, report in zip((variants, others), groups.values(), strict=True):
        names = ["untrained", *(variant.name for variant in chosen)]
        assert [row["variant"] for row in report["rows"]] == list(report["steps"]) == names
        assert "ratio_8" not in report["rows"][1]
        assert all(row["ratio_8"][0] > 0 for row in report["rows"][2:])
        for steps in report["steps"].values():
            after, at_end = steps["after the step"], steps["at the end"]
            assert len(after) == len(at_end) == digits_scaling.BY_STEP
            assert after[-1] == pytest.approx(at_end[-1])  # the last step is at the end
    assert (tmp_path / "scaling.md").read_text().count("\n| ") == (2 + 2 + 2 * 3) + (2 + 3 + 3 * 3)


@pytest.mark.parametrize("shown", ["state", "points"])
def test_what_else_a_student_is_shown_changes_nothing_before_training(shown):
    """And what it is shown: y_n of unit variance; points of the mean path, of which the last is the increment."""
    setting = object.__new__(digits_scaling.Setting)
    setting.teacher, setting.space = load_teacher(), path_space()
    sde = CanonicalSDE(setting.teacher, reference=setting.space.reference)
    usual, other = (setting.student(digits_scaling.Variant(shown=kind)) for kind in ("coefficients", shown))
    path = setting.space.paths(range(3))
    times = setting.space.times(4)
    (noise,) = other.cell.noise_by_step("additive", path.partial_signatures(times)[2:3])
    u = torch.randn((3, 64), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ends = []
        for made in (usual, other):
            made.cell.eval()
            ends.append(made.cell.advance(sde, times[2], times[3], u, (u, u), noise)[0])
    torch.testing.assert_close(*ends)
    found = _shown_by(other, sde, times, u, noise)
    if shown == "state":
        y, tau = sde.reference.from_reference(u, times[2]), times[2].float()
        torch.testing.assert_close(found[:, -1], y / (tau * (1 + other.cell.sigma_data**2 * tau)).sqrt())
        return
    torch.testing.assert_close(found[:, 3], _shown_by(usual, sde, times, u, noise)[:, 0])


def _shown_by(student, sde, times, u, noise):
    seen = []
    student.cell.denoiser.register_forward_hook(lambda _, inputs, __: seen.append(inputs[3]))
    with torch.no_grad():
        student.cell.advance(sde, times[2], times[3], u, (u, u), noise)
    return seen[0]

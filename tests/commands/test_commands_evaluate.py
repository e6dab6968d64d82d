"""`sdesig evaluate` and `sdesig floor`: their numbers are the library's, and what they refuse."""

import json

import pytest
from command_lines import main

from sdesig.commands.inputs import load_data, load_teacher
from sdesig.evaluation import (
    Comparison,
    FeatureStatistics,
    calibrated_sampler,
    frechet_distance,
    generator_sampler,
    training_free,
)
from sdesig.evaluation.metrics import pathwise_errors
from sdesig.sampling import GaussianReference, PathSpace, TeacherOptions, information_floor
from sdesig.sigdeg import SigDEG

COLUMNS = {
    "method",
    "depth",
    "steps",
    "nfe",
    "pathwise_rmse",
    "pathwise_rmse_se",
    "floor",
    "key",
    "seconds_per_1000",
}


def rows_of(folder):
    """Without that of the converged paths, the first one."""
    first, *rows = json.loads((folder / "report.json").read_text())
    assert first["key"] == "converged-path"
    return rows


def test_evaluate_generators_and_training_free_samplers(tmp_path, problem, capsys, options):
    models = [problem.student("student"), problem.student("depth-1", depth=1)]
    command = ["evaluate", *models, *problem.flags, "--steps", "2", "4", "--n", "20", "--first-seed", "5"]
    main([*command, "--floor-groups", "10", "--out", str(tmp_path)])
    rows = rows_of(tmp_path)
    assert len(rows) == 2 * (6 + 2)
    assert all({*row} >= COLUMNS for row in rows)
    assert {row["method"]: row["depth"] for row in rows if row["depth"]} == dict(zip(models, (2, 1), strict=True))
    assert all((row["floor"] is None) == (row["depth"] is None) for row in rows)
    assert all((row["pathwise_rmse"] is None) == (row["key"] in ("ddim", "path-average-flow")) for row in rows)
    assert all(row["frechet_distance"] > 0 for row in rows)
    teacher, student = load_teacher(str(problem.teacher)).denoiser, SigDEG.load(models[0])
    comparison = Comparison(teacher, student.space, truth_steps=64)
    sampler = generator_sampler("one", student, (4,))
    ends = comparison.follow([(comparison.truth, 64), (sampler, 4)], range(5, 25))
    errors = pathwise_errors(ends["one", 4], ends["converged-path", 64])
    (row,) = (row for row in rows if row["method"] == models[0] and row["steps"] == 4)
    assert row["pathwise_rmse"] == pytest.approx(errors.square().mean().sqrt().item(), rel=1e-5)
    found = options(tmp_path)
    assert [model["name"] for model in found["models"]] == models
    assert (found["n"], found["first_seed"], found["snr"]) == (20, 5, [0.01, 100.0])
    text = (tmp_path / "report.md").read_text()
    assert "| path-average, reference " in text
    assert models[1] in text
    assert text.split("\n\n")[1] in capsys.readouterr().out


def test_samplers_of_others_on_both_grids(tmp_path, problem, diffusers):
    """Those by diffusers too, in the order of the command line."""
    names = ["ipndm-4", "unipc-karras", "sde-dpm++3m-karras", "deis", "euler-karras"]
    command = ["evaluate", *problem.flags, "--samplers", *names, "--steps", "4", "--snr", "0.01", "100"]
    main([*command, "--reference", "scalar", "--n", "20", "--out", str(tmp_path)])
    rows = rows_of(tmp_path)
    assert [row["key"] for row in rows] == names
    assert [row["pathwise_rmse"] is not None for row in rows] == [False, False, True, False, True]


def test_calibrated_samplers(tmp_path, problem, fails, monkeypatch):
    """Rows are those of the library; a second run, at the same steps, measures nothing again."""
    names = ["path-average-calibrated", "ddim-calibrated"]
    command = ["evaluate", *problem.flags, "--steps", "4", "--snr", "0.01", "100", "--reference", "scalar"]
    main([*command, "--samplers", *names, "--n", "20", "--out", str(tmp_path)])
    rows = rows_of(tmp_path)
    assert [row["key"] for row in rows] == names
    assert [row["method"] for row in rows] == ["path-average, calibrated", "DDIM, calibrated"]
    teacher, (data, _) = load_teacher(str(problem.teacher)).denoiser, load_data(str(problem.data))
    comparison = Comparison(teacher, PathSpace((2,), (0.01, 100.0), GaussianReference.fit(data, "scalar"), depth=4))
    plain = training_free(comparison.space, (4,))["path-average"]
    ours = calibrated_sampler(plain, teacher, comparison.space, progress=False)
    truth = comparison.truth, comparison.truth_steps
    found = comparison.follow([(ours, 4), truth], range(20))
    error = (found["path-average-calibrated", 4] - found[truth[0].key, truth[1]]).square().mean().sqrt()
    assert rows[0]["pathwise_rmse"] == pytest.approx(error.item(), rel=1e-4)
    monkeypatch.setattr("sdesig.evaluation.samplers.calibrate", None)
    main([*command, "--samplers", *names, "--n", "20", "--out", str(tmp_path)])
    for name in ("er-sde-3-calibrated", "unipc-calibrated", "calibrated"):
        assert "samplers must be" in fails(*command, "--samplers", name, "--n", "20", "--out", str(tmp_path))


def test_evaluate_against_the_teachers_own_law(tmp_path, problem, options):
    """Of the seeds that follow: the rows are those of the library."""
    command = ["evaluate", *problem.flags, "--samplers", "euler", "--steps", "4", "--snr", "0.01", "100"]
    main([*command, "--reference", "scalar", "--n", "25", "--law", "20", "--first-seed", "5", "--out", str(tmp_path)])
    (row,) = rows_of(tmp_path)
    assert (row["law_seeds"], row["law_n"], options(tmp_path)["law"]) == ([30, 49], 20, 20)
    teacher, (data, _) = load_teacher(str(problem.teacher)).denoiser, load_data(str(problem.data))
    comparison = Comparison(teacher, PathSpace((2,), (0.01, 100.0), GaussianReference.fit(data, "scalar"), depth=4))
    law = comparison.follow([(comparison.truth, comparison.truth_steps)], range(30, 50))
    samples = comparison.follow([(training_free(comparison.space, (4,))["euler"], 4)], range(5, 30))["euler", 4]
    (converged,) = law.values()
    wanted = frechet_distance(samples, FeatureStatistics.of(converged), converged)
    assert row["law_frechet_distance"] == pytest.approx(wanted.value, rel=1e-4)
    assert row["law_frechet_distance_se"] == pytest.approx(wanted.standard_error, rel=1e-4)
    assert "20 converged paths of other seeds, 30 to 49" in (tmp_path / "report.md").read_text()


def test_evaluate_without_generators_or_enough_samples(tmp_path, problem, options):
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"n": 2, "steps": [3], "reference": "none", "snr": [0.1, 10]}))
    main(["evaluate", *problem.flags, "--config", str(config), "--out", str(tmp_path / "run")])
    rows = rows_of(tmp_path / "run")
    assert [row["steps"] for row in rows] == [3] * 6
    assert all("frechet_distance" not in row and row["floor"] is None for row in rows)
    assert options(tmp_path / "run")["reference"] == "none"
    assert options(tmp_path / "run")["snr"] == [0.1, 10]


def test_evaluate_only_generators(tmp_path, problem, fails):
    command = ["evaluate", problem.student("student"), *problem.flags, "--samplers", "--steps", "2"]
    command += ["--n", "2", "--out", str(tmp_path)]
    main(command)
    assert [row["method"] for row in rows_of(tmp_path)] == [problem.student("student")]
    main([*command, "--first-seed", "1"])
    assert sorted(file.name for file in (tmp_path / "samples").glob("seeds-*")) == [
        "seeds-00000000.safetensors",
        "seeds-00000001.safetensors",
    ]
    message = fails(*command, "--teacher", problem.student("student"))
    assert "must hold a denoiser" in message


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--n", "1"], "n must be in [2, 10000000]; got 1"),
        (["--first-seed", "-1"], "first_seed must be in [0, 9223372036854773808]; got -1"),
        (["--law", "-1"], "law must be >= 0; got -1"),
        (["--law", "1"], "law must be in [2, 10000000]; got 1"),
        (["--law", "2"], "law must be None or have, as seeds, more than 2 seeds; got 2"),
        (["--floor-groups", "-1"], "floor_groups must be >= 0; got -1"),
        (["--samplers"], "models must name a generator without samplers"),
        (["--samplers", "heun"], "samplers must be one of 'euler', 'ddim'"),
        (["--steps", "2000"], "steps must be in [1, 1280]; got 2000"),
        (["--steps", "0"], "steps must be >= 1; got 0"),
    ],
)
def test_evaluate_refuses(flags, message, tmp_path, problem, fails):
    assert message in fails("evaluate", *problem.flags, "--out", tmp_path, *flags)
    assert not (tmp_path / "report.json").exists()


def test_a_generator_that_is_nowhere(tmp_path, problem, fails):
    assert fails("evaluate", "nowhere", *problem.flags, "--out", tmp_path).endswith("digits/plain; got 'nowhere'")


def test_shipped_generators_and_samplers_by_their_names(tmp_path, capsys):
    """Beside the teacher's own sampler in more steps; the keys are those of the command line."""
    command = ["evaluate", "digits/depth-1", "digits/plain", "--samplers", "path-average", "--teacher-steps", "6"]
    with pytest.raises(SystemExit):
        main([*command, "--out", str(tmp_path)])  # the plain one has another grid
    assert "must have one grid of steps" in capsys.readouterr().err
    del command[2]
    main([*command, "--n", "2", "--steps", "2", "--out", str(tmp_path)])
    assert [(row["key"], row["steps"]) for row in rows_of(tmp_path)] == [
        ("euler", 6),
        ("path-average", 2),
        ("digits/depth-1", 2),
    ]


@pytest.mark.parametrize(
    "name, changes, message",
    [
        ("student", {}, "models must be different folders"),
        ("range", {"snr": (0.02, 100.0)}, "must have the same paths; t0 differs"),
        ("square", {"event": 4}, "models must make samples of shape (2,), as the teacher does;"),
    ],
)
def test_evaluate_refuses_generators_that_do_not_fit(name, changes, message, tmp_path, problem, fails):
    models = [problem.student("student"), problem.student(name, **changes)]
    assert message in fails("evaluate", *models, *problem.flags, "--out", tmp_path)


def test_evaluate_refuses_another_basis_or_grid(tmp_path, problem, fails):
    student = SigDEG.load(problem.student("student"))
    student.get_buffer("mean").add_(0.5)
    student.save(tmp_path / "moved")
    command = ["evaluate", problem.student("student"), tmp_path / "moved", *problem.flags, "--out", tmp_path / "run"]
    assert "must have one Gaussian reference; mean or basis differ" in fails(*command)
    command.remove(tmp_path / "moved")
    assert "reference must not be given with models" in fails(*command, "--reference", "scalar")
    assert "snr must not be given with models" in fails(*command, "--snr", "1", "2")
    config = json.loads((tmp_path / "moved" / "config.json").read_text())
    (tmp_path / "moved" / "config.json").write_text(json.dumps({**config, "grid": [0.0, 0.7, 1.0]}))
    assert "must have one grid of steps" in fails("evaluate", tmp_path / "moved", *command[1:])


def test_floor_is_the_librarys(tmp_path, problem, capsys):
    command = ["floor", *problem.flags, "--snr", "0.01", "100", "--reference", "scalar", "--steps", "2"]
    flags = ["--depth", "1", "3", "--floor-groups", "20", "--teacher-scheme", "euler", "--teacher-steps", "16"]
    main([*command, *flags, "--out", str(tmp_path / "floor.json")])
    teacher, (data, _) = load_teacher(str(problem.teacher)).denoiser, load_data(str(problem.data))
    space = PathSpace((2,), (0.01, 100.0), GaussianReference.fit(data, "scalar"), depth=4)
    found = json.loads((tmp_path / "floor.json").read_text())
    shown = capsys.readouterr().out
    for depth, floor in zip((1, 3), found["floors"], strict=True):
        options = TeacherOptions("euler", 16, 1)
        wanted = information_floor(teacher, space, steps=2, depth=depth, groups=20, teacher_options=options)
        assert {**floor, "quantiles": tuple(floor["quantiles"])} == vars(wanted)
        assert f"{wanted.rmse:.5f} +- {wanted.standard_error:.5f}" in shown
    assert found["options"]["teacher_scheme"] == "euler"
    assert found["options"]["reference"] == "scalar"


def test_floor_refuses(tmp_path, problem, fails):
    (tmp_path / "floor.json").write_text("{}")
    command = ["floor", *problem.flags, "--floor-groups", "2"]
    assert "floor.json exists already; give another --out" in fails(*command, "--out", tmp_path / "floor.json")
    assert fails(*command, "--depth", "0") == "depth must be in [1, 4096]; got 0"
    assert fails(*command, "--steps", "0") == "steps must be >= 1; got 0"
    assert fails(*command, "--floor-groups", "1") == "floor_groups must be >= 2; got 1"
    assert fails(*command, "--teacher-steps", "0") == "steps must be in [1, 1048576]; got 0"
    assert "scheme must be one of" in fails(*command, "--teacher-scheme", "other")

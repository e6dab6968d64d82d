"""`make demo` in small: what it writes and prints. Untrained generators stand for those that are shipped."""

import contextlib
import functools
import io
import json
import math
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from matplotlib.image import imread

from sdesig.commands import demo
from sdesig.digits import load_teacher, path_space
from sdesig.evaluation import Comparison
from sdesig.sampling.path_space import EVEN
from sdesig.sigdeg import SigDEG

KEYS = {
    *("key", "method", "depth", "steps", "nfe", "pathwise_rmse", "pathwise_rmse_se", "pathwise_rmse_low"),
    *("pathwise_rmse_high", "pathwise_median", "seeds_apart", "floor", "seconds_per_1000", "n", "digest"),
    *("frechet_distance", "frechet_distance_se", "frechet_distance_pixels", "frechet_distance_pixels_se"),
    *("law_frechet_distance", "law_frechet_distance_se", "law_frechet_distance_pixels"),
    *("law_frechet_distance_pixels_se", "law_seeds", "law_n", "law_digest", "seeds_changed", "seeds_changed_se"),
}
FILES = ("report.json", "report.md", "errors.png", "methods.png", "steps.png")
EULER, DDIM = "Euler = SDE-DPM-Solver++(1)", "DDIM"
FLOORED = {"Sig-DEG, depth 1 (shipped)": 1, "Sig-DEG, depth 2 (shipped)": 2, "Sig-DEG, depth 4": 4}
TRAINING_FREE = (
    *("SDE-DPM-Solver++(2M)", "path-average", "path-average, reference"),
    "path-average, reference, chosen grid",
)
HAS_UNIPC = bool(find_spec("diffusers"))
FLOWS = (
    *(DDIM, "path-average, reference, probability flow"),
    *("DPM-Solver++(2M) ODE", "DPM-Solver++(3M) ODE", "iPNDM-4", *["UniPC"] * HAS_UNIPC),
)
SAMPLERS = (
    *("euler", "ddim", "sde-dpm++2m", "path-average", "path-average-reference", "path-average-grid"),
    *("path-average-flow", "dpm-solver++2m", "dpm-solver++3m", "ipndm-4", *["unipc"] * HAS_UNIPC),
    *("plain", "depth-1", "depth-2", "depth-4"),
)
METHODS = (EULER, DDIM, *TRAINING_FREE, *FLOWS[1:], "plain Sig-DEG, depth 2 (shipped)", *FLOORED)


def untrained(name):
    """A student of the name's kind."""
    torch.manual_seed(0)
    plain = name == "plain"
    space = replace(path_space("none"), grid=EVEN) if plain else path_space()
    depth = {"plain": 2, "depth-1": 1, "depth-2": 2}[name]
    return SigDEG.from_teacher(load_teacher(), space, depth=depth, cell="plain" if plain else "solver").eval()


def run_small(out):
    """What it prints. 70 seeds, more than the 64 pixels that covariances are of."""
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as printed:
        size = replace(demo.QUICK, iterations=2, seeds=70, groups=4, teacher_steps=(4, 8))
        patch.setattr(demo, "QUICK", size)
        patch.setattr(demo, "load_student", untrained)
        patch.setattr(demo, "path_space", lambda: replace(path_space(), cells=2**8))
        patch.setattr(demo, "Comparison", functools.partial(Comparison, truth_steps=128))
        patch.setattr("sdesig.evaluation.comparison.TIMED", 50)
        demo.Demo(out, quick=True).run()
    return printed.getvalue()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder, what was printed, and report.json."""
    out = tmp_path_factory.mktemp("demo") / "new"
    printed = run_small(out)
    return out, printed, json.loads((out / "report.json").read_text())


def test_rows_have_the_documented_keys(made):
    report = made[2]
    assert set(report) == {"n", "seeds", "rows"}
    assert (report["n"], report["seeds"]) == (70, "0 to 69")
    assert all(set(row) == KEYS for row in report["rows"])


def test_every_method_has_its_steps(made):
    found = [(row["method"], row["steps"]) for row in made[2]["rows"]]
    expected = [(name, steps) for name in METHODS for steps in ((4, 8) if name == EULER else (4, 8, 16, 32))]
    assert found == expected
    assert tuple(dict.fromkeys(row["key"] for row in made[2]["rows"])) == SAMPLERS


def test_values_are_numbers_or_missing(made):
    """Flows have another limit: no pathwise error. Floors are of generators with the reference."""
    for row in made[2]["rows"]:
        assert row["nfe"] == row["steps"]
        assert row["n"] == 70
        for key in ("frechet_distance", "frechet_distance_pixels", "law_frechet_distance"):
            assert row[key] > row[f"{key}_se"] > 0
            assert math.isfinite(row[key])
        assert row["seconds_per_1000"] > 0
        assert (row["seeds_apart"] is None) == (row["method"] in FLOWS)
        for key in ("pathwise_rmse", "pathwise_rmse_se", "pathwise_median"):
            assert (row[key] is None) == (row["method"] in FLOWS)
            assert row[key] is None or 0 < row[key] < 10
        assert (row["floor"] is not None) == (row["method"] in FLOORED)
        assert row["depth"] == (2 if row["method"].startswith("plain") else FLOORED.get(row["method"]))


def test_untrained_generators_are_the_path_average_scheme(made):
    """On the chosen grid, and on the same paths, but for when the correction is made; that of depth 1 lacks the second
    coefficient, and that of depth 4 is near after two iterations of warm-up."""
    found = {(row["method"], row["steps"]): row["pathwise_rmse"] for row in made[2]["rows"]}
    for steps in (4, 8, 16, 32):
        expected = found["path-average, reference, chosen grid", steps]
        assert found["Sig-DEG, depth 2 (shipped)", steps] == pytest.approx(expected, rel=0.05)
        assert found["Sig-DEG, depth 4", steps] == pytest.approx(expected, rel=0.05)
        assert found["Sig-DEG, depth 1 (shipped)", steps] > 1.05 * expected


def test_errors_fall_with_the_steps(made):
    found = {(row["method"], row["steps"]): row["pathwise_rmse"] for row in made[2]["rows"]}
    for name in TRAINING_FREE:
        assert found[name, 32] < found[name, 8] < found[name, 4], name


def test_the_report_has_the_table_and_the_figures(made):
    out, _, report = made
    text = (out / "report.md").read_text()
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    assert len(lines) == 1 + len(report["rows"])
    assert all(title in lines[0] for title in demo.COLUMNS.values())
    assert "70 seeds" in text
    for name in ("errors", "methods", "steps"):
        assert f"![{name}]({name}.png)" in text


@pytest.mark.parametrize("name", ["errors.png", "methods.png", "steps.png"])
def test_figures_open(made, name):
    image = imread(made[0] / name)
    assert image.ndim == 3
    assert min(image.shape[:2]) > 300
    assert np.ptp(image[..., :3]) > 0.5


def test_the_last_lines_name_the_files(made):
    out, printed, _ = made
    *_, verdict = [line for line in printed.splitlines() if "evaluations Sig-DEG" in line]
    assert verdict.startswith("At 8 evaluations Sig-DEG of depth 4 is 0.")
    lines = printed.splitlines()
    assert lines[-6:-1] == [f"  -> {out / name}" for name in FILES]
    assert lines[-1].endswith(" s")


def test_the_verdict_is_of_the_rows(made):
    found = {(row["method"], row["steps"]): row["pathwise_rmse"] for row in made[2]["rows"]}
    mine, two = found["Sig-DEG, depth 4", 8], found["SDE-DPM-Solver++(2M)", 8]
    assert f"is {mine:.3f} off" in made[1]
    assert f"{mine / two:.2f} times SDE-DPM-Solver++(2M)" in made[1]
    assert f"{mine / found['path-average, reference, chosen grid', 8]:.2f} times the untrained path-average" in made[1]


def test_nothing_else_is_left(made):
    """The student, but not its teacher paths; no temporary files."""
    out = made[0]
    assert {path.name for path in out.iterdir()} == {*FILES, "distillation"}
    assert not (out / "distillation" / "paths").exists()
    assert SigDEG.load(out / "distillation" / "student").depth == 4


def test_a_second_run_in_the_folder_finds_the_same(made):
    out, _, report = made
    run_small(out)
    again = json.loads((out / "report.json").read_text())
    for one, other in zip(report["rows"], again["rows"], strict=True):
        assert {**one, "seconds_per_1000": 0} == {**other, "seconds_per_1000": 0}
        assert one["n"] == 70


def test_the_generator_is_that_of_its_seed_alone(tmp_path):
    """Whatever state torch's global generator is in, which is another in every process; and it is left in it."""
    size, states = replace(demo.QUICK, iterations=2), []
    for k in range(2):
        torch.manual_seed(k)
        before = torch.get_rng_state()
        states.append(demo.distilled(size, 5, tmp_path / str(k)).state_dict())
        assert torch.equal(torch.get_rng_state(), before)
    other = demo.distilled(size, 6, tmp_path / "other").state_dict()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert any(not torch.equal(states[0][name], other[name]) for name in other)

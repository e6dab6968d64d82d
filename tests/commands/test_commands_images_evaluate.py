"""`sdesig evaluate`: its report is the library's, and what it refuses."""

import json
import sys
from functools import partial

import pytest
import torch
from command_lines import main
from images_problem import SNR, make_diffusers_model, make_latent_model, make_pictures

from sdesig.evaluation import Comparison, generator_sampler, training_free
from sdesig.evaluation.frechet import FeatureStatistics
from sdesig.evaluation.metrics import pathwise_errors
from sdesig.evaluation.pixels import to_floats, to_uint8
from sdesig.images.image_data import load_images
from sdesig.images.peers import peer_samples
from sdesig.sampling import GaussianReference, PathSpace, StepGrid
from sdesig.sigdeg import NetworkDenoiser, SigDEG, UNet

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.trace:DeprecationWarning")
SMALL = ["--steps", "2", "4", "--teacher-steps", "8", "--n", "20"]
EULER = ["--samplers", "euler"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return make_pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def models(pictures):
    """Folders of untrained generators of depth 1 and 2, on short paths and a grid that is not even."""
    teacher = NetworkDenoiser.load(pictures.teacher)
    reference = GaussianReference.fit(load_images(pictures.data).floats(), "dct")
    space = PathSpace((1, 8, 8), (0.01, 100.0), reference, cells=2**5, grid=StepGrid((0.0, 0.4, 1.0)), depth=4)
    folders = []
    for depth in (1, 2):
        folders.append(str(pictures.data.parent / f"depth-{depth}"))
        SigDEG.from_teacher(teacher, space, depth=depth).save(folders[-1])
    return folders


@pytest.fixture(autouse=True)
def no_timing(monkeypatch):
    monkeypatch.setattr("sdesig.evaluation.comparison.Comparison.seconds_per_1000", lambda *_: 1.5)


@pytest.fixture
def short(monkeypatch):
    """Paths of few cells where no generator sets them."""
    monkeypatch.setattr("sdesig.commands.options.PathSpace", partial(PathSpace, cells=2**5))
    monkeypatch.setattr("sdesig.commands.evaluate.Comparison", partial(Comparison, truth_steps=16))


@pytest.fixture
def perceptual(tmp_path):
    class Square(torch.nn.Module):
        def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return (a - b).square().flatten(1).mean(1)

    example = torch.rand(2, 1, 8, 8), torch.rand(2, 1, 8, 8)
    torch.jit.trace(Square(), example).save(tmp_path / "square.pt")
    return str(tmp_path / "square.pt")


def rows_of(folder):
    return json.loads((folder / "report.json").read_text())


def test_the_folder_of_a_training_is_refused(pictures, tmp_path, fails):
    (tmp_path / "options.json").write_text('{"training": {"iterations": 3}}')
    message = fails("evaluate", *pictures.flags, *SMALL, "--out", str(tmp_path))
    assert message == f"out must not have another kind of run: {tmp_path} has one; give another folder"


@pytest.mark.usefixtures("diffusers")
def test_generators_and_other_samplers(pictures, models, perceptual, tmp_path, options, capsys):
    command = ["evaluate", *models, *pictures.flags, *SMALL, "--perceptual", perceptual]
    main([*command, "--first-seed", "3", "--floor-groups", "3", "--out", str(tmp_path / "run"), "--batch", "16"])
    rows = rows_of(tmp_path / "run")
    names = list(dict.fromkeys(row["method"] for row in rows))
    own = [sampler.label for sampler in training_free(SigDEG.load(models[0]).space, (2, 4)).values()]
    assert names == ["converged path", *own[:-1], "UniPC", *models]
    assert len(rows) == 1 + 2 * (len(names) - 1) + 1
    assert rows[0]["steps"] == 32
    assert [row["steps"] for row in rows if row["method"] == own[0]] == [2, 4, 8]
    student, teacher = SigDEG.load(models[1]), NetworkDenoiser.load(pictures.teacher)
    comparison = Comparison(teacher, student.space)
    ends = comparison.follow([(comparison.truth, 32), (generator_sampler("one", student, (4,)), 4)], range(3, 23))
    converged, samples = ends["converged-path", 32], ends["one", 4]
    row = rows[-1]
    images, errors = to_uint8(samples), pathwise_errors(samples, converged)
    numbers = {number["metric"]: number for number in row["measured"]}
    assert row["pathwise_rmse"] == pytest.approx(errors.square().mean().sqrt().item(), rel=1e-4)
    real = FeatureStatistics.of(load_images(pictures.data).floats().flatten(1))
    wanted = real.distance(FeatureStatistics.of(to_floats(images).flatten(1)))
    assert numbers["FD-pixels"]["value"] == pytest.approx(wanted, rel=1e-3)
    square = (to_floats(images) - to_floats(to_uint8(converged))).square().mean().item()
    assert numbers["perceptual (square)"]["value"] == pytest.approx(square, rel=1e-3)
    assert all(number["ema"] is True and number["seeds"] == [3, 22] for number in row["measured"])
    assert 0 < row["floor"] < 1
    assert all((row["floor"] is None) == (row["depth"] is None) for row in rows)
    found = options(tmp_path / "run")
    assert [model["name"] for model in found["models"]] == models
    assert (found["n"], found["first_seed"], found["snr"], found["batch"]) == (20, 3, [0.01, 100.0], 16)
    assert found["extractors"] == {"pixels": "pixels"}
    shown = capsys.readouterr().out
    assert "sdesig evaluate\n" in shown
    assert (tmp_path / "run" / "report.md").read_text() in shown
    for name in ("errors.png", "images-2.png", "images-4.png", "images-8.png"):
        assert (tmp_path / "run" / name).exists()


@pytest.mark.usefixtures("diffusers")
def test_unipc_is_the_peer_from_the_same_start(pictures, models, tmp_path):
    command = ["evaluate", models[0], *pictures.flags, "--samplers", "unipc", *SMALL[:3]]
    main([*command, "--n", "20", "--teacher-steps", "0", "--out", str(tmp_path)])
    rows = {(row["method"], row["steps"]): row for row in rows_of(tmp_path)}
    assert list(rows) == [("converged path", 32), ("UniPC", 2), ("UniPC", 4), (models[0], 2), (models[0], 4)]
    teacher, student = NetworkDenoiser.load(pictures.teacher), SigDEG.load(models[0])
    path = student.space.paths(20)
    y = student.space.reference.from_reference(student.space.start(path), path.t0)
    images = to_uint8(peer_samples(teacher, y, 4, snr=student.space.snr))
    real = FeatureStatistics.of(load_images(pictures.data).floats().flatten(1))
    wanted = real.distance(FeatureStatistics.of(to_floats(images).flatten(1)))
    (found,) = (number for number in rows["UniPC", 4]["measured"] if number["metric"] == "FD-pixels")
    assert found["value"] == pytest.approx(wanted, rel=1e-3)
    assert rows["UniPC", 4]["pathwise_rmse"] is None


def test_without_generators_the_flags_say_on_which_paths(pictures, tmp_path, options, short):
    """A model of diffusers, over its whole range: every sampler keeps to its table of noise levels."""
    folder = make_diffusers_model(tmp_path / "model")
    command = ["evaluate", "--teacher", str(folder), "--data", str(pictures.data), "--grid", "even", *SMALL]
    names = ["euler", "ddim", "sde-dpm++2m", "path-average", "path-average-reference", "unipc", "dpmsolver++(2M)"]
    main([*command, "--samplers", *names, "--out", str(tmp_path / "run")])
    rows = rows_of(tmp_path / "run")
    assert len({row["method"] for row in rows}) == 8
    assert rows[0]["measured"][0]["ema"] is None
    assert options(tmp_path / "run")["snr"][0] == pytest.approx(1 / 6400)


def test_what_is_there_is_not_drawn_again(pictures, models, tmp_path, monkeypatch, fails):
    command = ["evaluate", *models, *pictures.flags, *SMALL, "--out", str(tmp_path)]
    main([*command, "--samplers", "euler", "ddim"])
    first = rows_of(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(UNet, "compute", None)
        main([*command, "--samplers", "euler", "ddim"])
        assert rows_of(tmp_path) == first
        main([*command, "--samplers", "euler"])
        assert len(rows_of(tmp_path)) == len(first) - 2
    other = NetworkDenoiser.load(pictures.teacher)
    other.network.zero_last()
    other.save(tmp_path / "other")
    assert "has a run with other options (teacher.sha256: " in fails(*command, *EULER, "--teacher", tmp_path / "other")


def test_a_latent_model(tmp_path, short):
    folder, data = make_latent_model(tmp_path / "model"), make_pictures(tmp_path / "p", channels=3, size=16).data
    command = ["evaluate", "--teacher", str(folder), "--decoder", str(folder), "--data", str(data), *SNR]
    main([*command, *SMALL, "--samplers", "--grid", "even", "--out", str(tmp_path / "run")])
    rows = rows_of(tmp_path / "run")
    assert [row["method"] for row in rows] == ["converged path", "Euler = SDE-DPM-Solver++(1)"]
    assert rows[1]["pathwise_rmse"] > 0
    assert rows[1]["measured"][0]["reference_digest"] == load_images(data).digest


def test_config(pictures, models, tmp_path, options):
    given = {"teacher": str(pictures.teacher), "data": str(pictures.data), "models": models, "n": 20, "samplers": []}
    (tmp_path / "c.json").write_text(json.dumps({**given, "steps": [2], "teacher_steps": 0, "extractor": ["pixels"]}))
    main(["evaluate", "--config", str(tmp_path / "c.json"), "--out", str(tmp_path / "run"), "--n", "21"])
    assert [row["method"] for row in rows_of(tmp_path / "run")] == ["converged path", *models]
    assert options(tmp_path / "run")["n"] == 21


@pytest.mark.parametrize(
    "given, message",
    [
        (["--samplers", "heun"], "samplers must be one of 'euler', 'ddim'"),
        (["--n", "19"], "n must be in [20, 10000000]; got 19"),
        (["--first-seed", "-1"], "first_seed must be in [0, 9223372036854775788]; got -1"),
        (["--teacher-steps", "-1"], "teacher_steps must be >= 0; got -1"),
        (["--teacher-steps", "64"], "steps must be in [1, 32]; got 64"),
        (["--steps", "0"], "steps must be >= 1; got 0"),
        (["--batch", "0"], "batch must be >= 1; got 0"),
        (["--floor-groups", "-1"], "floor_groups must be >= 0; got -1"),
        (["--extractor", "nowhere.pt"], "extractor must be 'inception', 'pixels' or a TorchScript file; nowhere.pt"),
        (["--perceptual", "nowhere.pt"], "perceptual distance must be 'lpips' or a TorchScript file; nowhere.pt"),
        (["--channels", "3"], "images must have shape (1, 8, 8), as the teacher"),
        (["--snr", "1", "2"], "snr must not be given with models, which set it"),
        (["--reference", "x"], "reference must not be given with models, which set it; got x"),
        (["--device", "nowhere"], "device must be one that torch can use here; got 'nowhere'"),
    ],
)
def test_refusals(given, message, pictures, models, tmp_path, fails):
    command = ["evaluate", *models, *pictures.flags, *SMALL, *EULER, "--out", tmp_path]
    if "--samplers" in given:
        command = ["evaluate", *models, *pictures.flags, *SMALL, "--out", tmp_path]
    assert message in fails(*command, *given)
    assert not (tmp_path / "report.json").exists()


def test_without_the_extra_it_is_named_before_any_work(pictures, models, tmp_path, fails, monkeypatch):
    """UniPC, of diffusers, is one of the samplers for images."""
    monkeypatch.setitem(sys.modules, "diffusers", None)
    monkeypatch.setattr(UNet, "compute", None)
    message = fails("evaluate", *models, *pictures.flags, *SMALL, "--out", tmp_path)
    assert "diffusers: pip install 'sdesig[images] @ git+" in message
    assert not list(tmp_path.iterdir())


def test_data_must_be_given(pictures, models, tmp_path, fails):
    message = fails("evaluate", *models, "--teacher", pictures.teacher, "--out", tmp_path)
    assert message.startswith("data must be given")


def test_out_of_memory_names_the_batch(pictures, models, tmp_path, fails, monkeypatch):
    def full(*_):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(UNet, "compute", full)
    command = ["evaluate", *models, *pictures.flags, *SMALL, *EULER, "--out", tmp_path]
    assert fails(*command) == "out of memory with batch 250: choose less (CUDA out of memory.)"

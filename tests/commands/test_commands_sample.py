"""`sdesig sample`: seeds, files, pictures, and the same paths again."""

import matplotlib.image
import numpy as np
import pytest
import torch
from command_lines import main

from sdesig.brownian import BrownianPath
from sdesig.commands.sample import as_images, parse_seeds, write_images
from sdesig.digits import load_student
from sdesig.sigdeg import Samples, SigDEG


def test_samples_are_the_librarys(tmp_path, problem, capsys):
    out = tmp_path / "new" / "a.npz"
    main(["sample", problem.student("student"), "--n", "5", "--steps", "4", "--batch", "2", "--out", str(out)])
    found, wanted = Samples.load(out), SigDEG.load(problem.student("student")).sample(5, 4)
    torch.testing.assert_close(found.values, wanted.values)
    assert found.identity == wanted.identity
    assert "no picture: samples of shape (2,) are not images" in capsys.readouterr().out
    assert sorted(file.name for file in out.parent.iterdir()) == ["a.json", "a.npz"]


@pytest.mark.parametrize("flags, batches", [(["--batch", "200"], 6), (["--batch", "2000"], 1), ([], 2)])
def test_the_path_of_a_seed_is_made_once(flags, batches, tmp_path, problem, monkeypatch):
    model, made, make_path = problem.student("student"), [], BrownianPath.__init__

    def counted(self, *arguments, **options):
        make_path(self, *arguments, **options)
        made.append(list(self.seeds))

    monkeypatch.setattr(BrownianPath, "__init__", counted)
    main(["sample", model, "--n", "1030", "--steps", "1", *flags, "--out", str(tmp_path / "a.npz")])
    assert [seed for seeds in made for seed in seeds] == list(range(1030))
    assert len(made) == batches


def test_default_is_64_samples_in_8_steps(tmp_path, problem, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main(["sample", problem.student("student")])
    found = Samples.load("samples.npz")
    assert (found.seeds, found.steps) == (list(range(64)), 8)


def test_seeds_and_ranges(tmp_path, problem):
    out = tmp_path / "a.npz"
    main(["sample", problem.student("student"), "--seeds", "7", "0:3", "5", "--out", str(out)])
    assert Samples.load(out).seeds == [7, 0, 1, 2, 5]
    assert list(parse_seeds("4")) == [4]
    assert list(parse_seeds("4:6")) == [4, 5]


@pytest.mark.parametrize("text", ["", "a", "3:3", "5:1", "1:", ":4", "1:2:3", "1.5"])
def test_bad_seeds(text):
    with pytest.raises(ValueError, match="seeds must be numbers, or ranges a:b with a < b; got"):
        parse_seeds(text)


def test_replay_gives_the_same_images(tmp_path, problem):
    model, first = problem.student("student"), tmp_path / "first.npz"
    main(["sample", model, "--seeds", "3", "9", "4", "--out", str(first)])
    main(["sample", model, "--replay", str(first), "--out", str(tmp_path / "same.npz")])
    main(["sample", model, "--replay", str(first), "--steps", "64", "--out", str(tmp_path / "more.npz")])
    one, again, more = (Samples.load(tmp_path / f"{name}.npz") for name in ("first", "same", "more"))
    assert torch.equal(one.values, again.values)
    assert again.seeds == more.seeds == [3, 9, 4]
    assert (again.steps, more.steps) == (8, 64)
    assert not torch.equal(one.values, more.values)


def test_replay_of_another_generator_on_the_same_paths(tmp_path, problem):
    first, second = tmp_path / "a.npz", tmp_path / "b.npz"
    main(["sample", problem.student("student"), "--n", "3", "--out", str(first)])
    main(["sample", problem.student("depth-1", depth=1), "--replay", str(first), "--out", str(second)])
    assert Samples.load(first).identity == Samples.load(second).identity


@pytest.mark.parametrize(
    "name, changes, difference",
    [
        ("scalar", {"reference": "scalar"}, "clock differs"),
        ("range", {"snr": (0.02, 100.0)}, "t0 differs: 0.01 and 0.02"),
        ("deep", {"path_depth": 6}, "depth differs: 4 and 6"),
        ("wide", {"event": 4, "reference": "none"}, "row_shape differs: [2] and [4]"),
    ],
)
def test_replay_refuses_other_paths(name, changes, difference, tmp_path, problem, fails):
    first = tmp_path / "first.npz"
    model = problem.student("none", reference="none") if name == "wide" else problem.student("student")
    main(["sample", model, "--n", "2", "--out", str(first)])
    other = problem.student(name, **changes)
    message = fails("sample", other, "--replay", first, "--out", tmp_path / "b.npz")
    assert message.startswith(f"{first} and {other} must have the same paths; ")
    assert difference in message
    assert not (tmp_path / "b.npz").exists()


def test_what_was_stopped_leaves_no_file_in_the_way(tmp_path, problem, monkeypatch):
    """The same command then draws the samples."""
    folder = tmp_path / "out"
    command = ["sample", problem.student("student"), "--n", "3", "--steps", "2", "--out", str(folder / "a.npz")]

    def stop(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(SigDEG, "sample", stop)
        with pytest.raises(SystemExit) as stopped:
            main(command)
    assert (stopped.value.code, [*folder.glob("*")]) == (130, [])
    main(command)
    assert sorted(file.name for file in folder.iterdir()) == ["a.json", "a.npz"]


def test_files_are_not_overwritten(tmp_path, problem, fails):
    command = ["sample", problem.student("square", event=4), "--out", str(tmp_path / "a.npz")]
    main([*command, "--n", "2"])
    assert "a.npz exists already; give another --out, or --force to overwrite it" in fails(*command)
    (tmp_path / "a.npz").unlink()
    assert "a.png exists already" in fails(*command)
    main([*command, "--n", "3", "--force"])
    assert len(Samples.load(tmp_path / "a.npz").seeds) == 3


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--steps", "65"], "steps must be in [1, 64]; got 65"),
        (["--steps", "0"], "steps must be >= 1; got 0"),
        (["--n", "0"], "n must be in [1, 10000000]; got 0"),
        (["--batch", "0"], "batch must be >= 1; got 0"),
        (["--seeds", "-1"], "seeds must lie in [0, 2^63); got -1"),
        (["--n", "3", "--seeds", "1"], "only one of --n, --seeds and --replay may be given"),
        (["--n", "3", "--replay", "x.npz"], "only one of --n, --seeds and --replay may be given"),
        (["--replay", "nothing.npz"], "nothing.npz does not exist"),
        (["--out", "a.png"], "out must be a .npz file; got a.png"),
    ],
)
def test_sample_refuses(flags, message, tmp_path, problem, fails):
    model = problem.student("student")
    assert fails("sample", model, "--out", tmp_path / "a.npz", *flags) == message
    assert not list(tmp_path.iterdir())


def test_a_model_that_is_nowhere(tmp_path, fails):
    wanted = "model must be a folder with a generator or one of digits/depth-1, digits/depth-2, digits/plain; got "
    assert fails("sample", "nowhere", "--out", tmp_path / "a.npz") == f"{wanted}'nowhere'"
    assert "got 'digits/nothing'" in fails("sample", "digits/nothing", "--out", tmp_path / "a.npz")


@pytest.mark.parametrize("name", ["depth-1", "depth-2", "plain"])
def test_shipped_generators_have_names(name, tmp_path):
    main(["sample", f"digits/{name}", "--n", "2", "--steps", "4", "--out", str(tmp_path / "a.npz")])
    assert torch.equal(Samples.load(tmp_path / "a.npz").values, load_student(name).sample(2, 4).values)


def test_replay_refuses_other_files(problem, tmp_path, fails):
    message = fails("sample", problem.student("student"), "--replay", problem.data, "--out", tmp_path / "a.npz")
    assert f"{problem.data} is not a file of samples" in message


def test_square_vectors_are_shown(tmp_path, problem):
    main(["sample", problem.student("square", event=4), "--n", "5", "--out", str(tmp_path / "a.npz")])
    picture = matplotlib.image.imread(tmp_path / "a.png")
    assert picture.shape[:2] == (2 * 34, 3 * 34)  # 2 rows of 3, each of 2x2 grey values magnified to 32x32


def test_what_is_an_image():
    assert as_images(torch.zeros(5, 64)).shape == (5, 1, 8, 8)
    assert as_images(torch.zeros(5, 3, 6, 6)).shape == (5, 3, 6, 6)
    assert as_images(torch.zeros(5, 1, 6, 6)).shape == (5, 1, 6, 6)
    for shape in ((5, 1), (5, 2), (5, 63), (5, 2, 6, 6), (5, 3, 6, 5), (5, 6, 6)):
        assert as_images(torch.zeros(shape)) is None


@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_of_the_picture(channels, tmp_path):
    values = torch.linspace(-1.5, 1.5, 3 * channels * 40 * 40).reshape(3, channels, 40, 40)
    write_images(tmp_path / "a.png", values)
    pixels = (matplotlib.image.imread(tmp_path / "a.png")[..., :3] * 255).round().astype(int)
    assert pixels.shape == (2 * 42, 2 * 42, 3)
    for k, (row, column) in enumerate([(0, 0), (0, 1), (1, 0)]):
        shown = pixels[42 * row + 1 : 42 * row + 41, 42 * column + 1 : 42 * column + 41].transpose(2, 0, 1)
        wanted = np.clip((values[k].numpy() + 1) * 127.5, 0, 255)
        assert np.abs(shown - wanted).max() <= 0.5 + 1e-4
    assert (pixels[42:, 42:] == 255).all()


def test_pictures_have_256_images_at_most(tmp_path):
    write_images(tmp_path / "a.png", torch.zeros(300, 1, 32, 32))
    assert matplotlib.image.imread(tmp_path / "a.png").shape[:2] == (16 * 34, 16 * 34)

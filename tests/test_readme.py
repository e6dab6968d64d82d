"""Every Python example of the README runs, in order, and shows what it says; its numbers are those of the reports."""

import json
import re
from pathlib import Path

import diffusers
import pytest
import torch

import sdesig.solvers
from sdesig.commands.main import COMMANDS
from sdesig.evaluation import (
    Comparison,
    SampleStore,
    generator_sampler,
    paired_ratio,
    root_mean_square,
    table_cell,
    training_free,
)
from sdesig.sampling import GaussianReference, PathSpace
from sdesig.sigdeg import NetworkDenoiser, SigDEG, UNet
from sdesig.solvers import SCHEMES

README = Path(__file__).parent.parent / "README.md"
EXPERIMENTS = README.parent / "experiments"


def image_models(folder):
    """A tiny pipeline, returned, and the student of a tiny teacher in runs/mine."""
    torch.manual_seed(0)
    kinds = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",), "block_out_channels": (8,)}
    unet = diffusers.UNet2DModel(8, in_channels=3, out_channels=3, norm_num_groups=4, layers_per_block=1, **kinds)
    teacher = NetworkDenoiser(UNet(3, 8, widths=(8,)), 0.5)
    reference = GaussianReference(0.0, 0.25)
    student = SigDEG.from_teacher(teacher, PathSpace((3, 8, 8), (0.01, 100.0), reference), depth=2)
    student.save(folder / "runs/mine/student")
    pipeline = diffusers.DDPMPipeline(unet, diffusers.DDPMScheduler())
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def check_that_it_learned(names):
    """In 8 steps on 2000 seeds it is nearer to the converged paths than the untrained scheme, by an interval of 95 % on
    the same paths, and by 4 % at least; nine seeds of ten end nearly the same in 8 and in 64 steps. The numbers of the
    README, of 4000 seeds, are within 4 standard errors of these."""
    generator = names["generator"]
    comparison = Comparison(names["denoiser"], generator.space, truth_steps=256, batch=1000)
    untrained = training_free(generator.space, (8,))["path-average-reference"]
    store = SampleStore(comparison, [untrained, generator_sampler("trained", generator, (8,))], range(2000))
    store.make(progress=False)
    before, after = (store.errors(key, 8) for key in (untrained.key, "trained"))
    value, _, high = paired_ratio(after, before)
    assert high < 1
    assert value < 0.96
    ends, started, apart, were_apart = map(
        float,
        re.search(
            r"ends (\S+) per coordinate .* the untrained scheme (\S+) .* seeds\); (\S+) % and (\S+) % of the seeds",
            re.sub(r"\s+", " ", README.read_text()),
        ).groups(),
    )
    for key, error, share in (("trained", ends, apart), (untrained.key, started, were_apart)):
        rmse, spread = root_mean_square(store.errors(key, 8))
        assert abs(rmse - error) < 4 * spread
        assert abs(store.seeds_apart(key, 8) - share / 100) < 4 * (share / 100 / 2000) ** 0.5
    distance = (names["samples"].values - names["again"].values).norm(dim=1)
    assert (distance < 0.3).sum() >= 85


def test_examples_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    assert len(blocks) >= 6
    names: dict[str, object] = {"pipeline": image_models(tmp_path)}
    for block in blocks:
        exec(compile(block, str(README), "exec"), names)
        if "distill(" in block:
            check_that_it_learned(names)
    assert [image.size for image in names["images"]] == [(8, 8)] * 2
    step, again = names["step"], names["again"]
    assert (step.coefficients - again.coefficients).abs().max() < 1e-5
    words = names["words_for_scheme"](strong=1.5, noise="additive")
    assert words == ((0,), (1,), (0, 0), (0, 1), (1, 0))
    torch.testing.assert_close(names["expected_signature"](dim=2, h=0.1, depth=4)[1, 1, 2, 2].item(), 0.1**2 / 8)
    estimate = names["estimate"]
    assert estimate.supports(1.0)
    assert estimate.refutes(1.5)
    radius = names["samples"].square().sum(-1).sqrt()
    assert abs(radius.mean() - 1.0) < 0.05


# --- numbers ---------------------------------------------------------------------------------------------------------


def rows_of(file):
    """The rows of a committed report.json by key and steps."""
    report = json.loads((EXPERIMENTS / file).read_text())
    rows = report["rows"] if isinstance(report, dict) else report
    return {(row["key"], row["steps"]): row for row in rows}


def by_label(file):
    """The same rows, as tables name them."""
    return {(row["method"], row["steps"]): row for row in rows_of(file).values()}


def tables():
    """Tables of the README, by the titles of their columns."""
    found = {}
    for block in re.findall(r"(?:^\|.*\n)+", README.read_text(), flags=re.MULTILINE):
        lines = [[text.strip() for text in line.strip("|").split("|")] for line in block.strip().splitlines()]
        found[lines[0][0]] = [dict(zip(lines[0], line, strict=True)) for line in lines[2:]]
    return found


def test_the_table_of_the_digits_is_the_demos():
    rows, table = by_label("digits/demo/report.json"), tables()["method"]
    assert len(table) > 12
    for line in table:
        row = rows[line["method"], int(line["evaluations"])]
        assert line["pathwise RMSE (95 %)"] == table_cell(row, "pathwise_rmse", 3)
        assert line["seeds apart"] == table_cell(row, "seeds_apart")
        assert line["floor"] == ("-" if row["floor"] is None else f"{row['floor']:.3f}")
        assert line["Frechet distance (classifier features)"] == table_cell(row, "frechet_distance")
        assert line["seconds per 1000"] == f"{row['seconds_per_1000']:.2f}"


def test_the_table_of_mnist_is_the_studys():
    rows, table = by_label("mnist/results/report.json"), tables()["10 evaluations, MNIST"]
    for line in table:
        row = rows[line["10 evaluations, MNIST"], 10]
        assert line["pathwise RMSE"] == ("-" if row["pathwise_rmse"] is None else f"{row['pathwise_rmse']:.3f}")
        assert line["Frechet distance"] == f"{row['frechet_distance']:.2f}"


AVERAGE, CHOSEN, OURS = "path-average-reference", "path-average-grid", "depth-4"
TWO, EULER, PLAIN = "sde-dpm++2m", "euler", "plain"
MNIST, CIFAR, CELEBA = "mnist/results", "cifar10/results-cpu", "celeba64/results-cpu"


def short(number, digits):
    """.117, as prose has it."""
    return f"{number:.{digits}f}".removeprefix("0")


def errors(*cells, digits=3):
    """Pathwise errors of (study, method, steps), in the order of the sentence."""
    return [
        short(rows_of(f"{study}/report.json")[method, steps]["pathwise_rmse"], digits) for study, method, steps in cells
    ]


def distances(*cells, digits=1):
    rows = [rows_of(f"{study}/report.json")[method, steps] for study, method, steps in cells]
    return [f"{row['frechet_distance']:.{digits}f}" for row in rows]


def worse(steps):
    """How many times the student of CelebA is as far off as the untrained scheme on its grid."""
    rows = rows_of(f"{CELEBA}/report.json")
    return f"{rows[OURS, steps]['pathwise_rmse'] / rows[CHOSEN, steps]['pathwise_rmse']:.1f}"


def target(study, k):
    """Value and interval of a target, with two digits."""
    measured = json.loads((EXPERIMENTS / study / "targets.json").read_text())[k]["measured"]
    return [f"{float(number):.2f}" for number in re.findall(r"[\d.]+", measured)]


def kept(*schedulers):
    """Percentages of seeds that keep their digit from 20 to 40 evaluations and from 40 to 80, by schedulers."""
    rows = json.loads((EXPERIMENTS / "same_image/results/mnist.json").read_text())
    share = {(row["scheduler"], row["nfe"]): f"{100 * row['same']:.0f}" for row in rows}
    return [share[scheduler, nfe] for scheduler in schedulers for nfe in (20, 40)]


CLAIMS = [
    (r"it is ([\d.]+) and ([\d.]+) times as far off in 50 and 100 steps", lambda: [worse(50), worse(100)]),
    (r"its Frechet distance is higher on MNIST \((\S+) against (\S+)\)",
     lambda: distances((MNIST, CHOSEN, 10), (MNIST, AVERAGE, 10), digits=2)),
    (r"CIFAR-10 \((\S+) against (\S+)\)", lambda: distances((CIFAR, CHOSEN, 10), (CIFAR, AVERAGE, 10))),
    (r"CelebA \((\S+) against (\S+)\)", lambda: distances((CELEBA, CHOSEN, 10), (CELEBA, AVERAGE, 10))),
    (r"its pathwise error too \((\S+) against (\S+)\)", lambda: errors((CELEBA, CHOSEN, 10), (CELEBA, AVERAGE, 10))),
    (r"teacher's own, in 1000 steps, is ([\d.]+):", lambda: distances((MNIST, EULER, 1000), digits=2)),
    (r"training takes (\S+) to (\S+), and repairs", lambda: errors((MNIST, CHOSEN, 10), (MNIST, OURS, 10))),
    (r"Sig-DEG's is (\S+) \((\S+)-(\S+)\) times the teacher's", lambda: target(MNIST, 0)),
    (r"perceptual distance to the teacher's images (\S+) times 2M's", lambda: [target(MNIST, 2)[0].removeprefix("0")]),
    (r"the paper's claim, has (\S+) \((\S+)-(\S+)\) times", lambda: target(MNIST, 1)),
    (r"and ends (\S+) off, 2M in 100 steps (\S+), the untrained scheme in 100 steps (\.\d+)",
     lambda: errors((MNIST, PLAIN, 100), (MNIST, TWO, 100), (MNIST, CHOSEN, 100))),
    (r"depth 4 in 10 steps ends (\S+) per pixel from the converged image, the untrained scheme (\S+), "
     r"SDE-DPM-Solver\+\+\(2M\) (\S+), in 20 steps (\S+), (\S+) and (\.\d+)",
     lambda: errors(*((CIFAR, method, n) for n in (10, 20) for method in (OURS, CHOSEN, TWO)))),
    (r"lowest Frechet distance, (\S+) in 10 steps, 2M (\S+), Sig-DEG (\S+), the teacher (\d+\.\d)",
     lambda: distances((CIFAR, "unipc", 10), (CIFAR, TWO, 10), (CIFAR, OURS, 10), (CIFAR, EULER, 1000))),
    (r"it is (\S+), (\S+) and (\S+) in 10 steps; in 20",
     lambda: errors(*((CELEBA, method, 10) for method in (OURS, CHOSEN, TWO)))),
    (r"in 20 steps (\S+) and \S+, but (\S+) untrained on the same grid",
     lambda: errors((CELEBA, OURS, 20), (CELEBA, CHOSEN, 20), digits=4)),
    (r"in 20 steps \S+ and (\S+), but", lambda: errors((CELEBA, TWO, 20))),
    (r"MNIST digits, (\S+) % of 1000 seeds end at the same digit in 20 and in 40 evaluations, (\S+) % in 40 and in 80",
     lambda: kept("path-average")),
    (r"DPM-Solver-SDE, .* has (\S+) % and (\S+) %, SDE-DPM-Solver\+\+\(2M\) (\S+) % and (\S+) %\. UniPC, .* "
     r"has (\S+) % and (\S+) %\.", lambda: kept("DPM-Solver-SDE", "SDE-DPM-Solver++(2M)", "UniPC")),
]  # fmt: skip


@pytest.mark.parametrize("pattern, numbers", CLAIMS, ids=[pattern[:30] for pattern, _ in CLAIMS])
def test_numbers_of_the_prose_are_those_of_the_reports(pattern, numbers):
    (found,) = re.findall(pattern, re.sub(r"\s+", " ", README.read_text()))
    given = [found] if isinstance(found, str) else list(found)
    assert [number.rstrip(",;.") for number in given] == numbers()


def test_a_claim_about_the_flows_and_the_path():
    """UniPC's Frechet distance is the lowest on CIFAR-10 in 10 steps, 2M's on MNIST."""
    for study, best in ((CIFAR, "unipc"), (MNIST, TWO)):
        ten = {key: row["frechet_distance"] for (key, n), row in rows_of(f"{study}/report.json").items() if n == 10}
        assert min(ten, key=ten.get) == best


def test_the_tables_have_all_schemes_and_commands():
    """Those of README and, of schemes, the one in the docstring of `sdesig.solvers`."""
    table = re.search(r"^\| `euler`.*?\n\n", README.read_text(), re.M | re.S)[0]
    assert {*re.findall(r"`(\w+)`", "".join(row.split("|")[1] for row in table.strip().splitlines()))} == {*SCHEMES}
    assert {*re.findall(r'^\| "(\w+)"', sdesig.solvers.__doc__, re.M)} == {*SCHEMES}
    assert {*re.findall(r"`sdesig (\w+)", README.read_text())} >= {*COMMANDS}

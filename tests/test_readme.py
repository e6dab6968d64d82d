"""The README is short, each of its examples runs alone and does what it says, and all that it points to is there."""

import contextlib
import io
import re
from pathlib import Path

import numpy as np
import pytest

import sdesig.solvers
from sdesig.evaluation import Comparison, SampleStore, generator_sampler, paired_ratio, training_free
from sdesig.solvers import SCHEMES

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```", README, re.M | re.S)


def run(block: str) -> dict:
    """The names that a block leaves, and `printed`."""
    names: dict = {}
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(block, "README.md", "exec"), names)
    return names | {"printed": printed.getvalue()}


def sentence(pattern: str) -> list[float]:
    """The numbers of a sentence."""
    return [float(number) for number in re.search(pattern, re.sub(r"\s+", " ", README)).groups()]


def test_it_is_short():
    assert len(README.encode()) <= 6 * 1024
    assert len(BLOCKS) == 3


def test_an_order_is_what_it_says():
    names = run(BLOCKS[0])
    assert names["printed"].splitlines()[-1] == re.search(r"The last line is `(.*?)`", README)[1]


def test_a_pipeline_follows_a_seed(tmp_path, monkeypatch):
    """All steps end at images, and those of 10 and of 40 steps are nearly one."""
    monkeypatch.chdir(tmp_path)
    pytest.importorskip("diffusers")
    block = BLOCKS[1].replace("    image =", "    images.append(").replace(".images[0]", ".images[0])")
    few, many = run("images = []\n" + block)["images"]
    difference = np.sqrt(np.square(np.asarray(few, dtype=float) - np.asarray(many, dtype=float)).mean())
    assert few.size == many.size == (8, 8)
    assert difference < 40  # grey levels; two seeds are about 100 apart


def test_a_distillation_learns(tmp_path, monkeypatch):
    """In 8 steps it is nearer to the converged paths than the untrained scheme: by an interval of 95 % on the same
    2000 seeds, and by the ratio of the README, of 4000 seeds, within 4 standard errors."""
    monkeypatch.chdir(tmp_path)
    names = run(BLOCKS[2])
    assert names["images"].shape == (100, 2)
    generator = names["generator"]
    untrained = training_free(generator.space, (8,))["path-average-reference"]
    comparison = Comparison(names["denoiser"], generator.space, truth_steps=256, batch=1000)
    store = SampleStore(comparison, [untrained, generator_sampler("trained", generator, (8,))], range(2000))
    store.make(progress=False)
    value, low, high = paired_ratio(store.errors("trained", 8), store.errors(untrained.key, 8))
    claimed, claimed_low, claimed_high = sentence(r"In 8 steps it ends (\S+) times \((\S+) to (\S+)\) as far")
    assert high < 1
    assert abs(value - claimed) < 2 * (high - low)
    assert claimed_low < claimed < claimed_high < 1


def test_what_it_shows_and_links_is_there():
    address = (
        r"https://(?:raw\.githubusercontent\.com/sdesig/sdesig/main|github\.com/sdesig/sdesig/blob/main)/([^)\s]+)"
    )
    files = re.findall(address, README)
    assert len(files) >= 10
    assert not [file for file in files if not (ROOT / file).exists()]
    assert not re.findall(r"\]\((?!https://)", README), "a package index shows no relative links"
    labels = {*re.findall(r"^\[(.+?)\]: ", README, re.M)}
    used = {*re.findall(r"\]\[(.+?)\]", README), *re.findall(r"\[([^\]\n]+)\](?![(\[:])", README)}
    assert labels <= used


def test_the_tables_of_schemes_have_all_of_them():
    """Those of the docstring of `sdesig.solvers` and of the page on how to choose."""
    text = (ROOT / "docs/how_to_choose.md").read_text()
    assert {*re.findall(r'"(\w+)"', text)} >= {*SCHEMES} - {"dpm_solver_1", "dpm_solver_2m"}
    assert {*re.findall(r'^\| "(\w+)"', sdesig.solvers.__doc__, re.M)} == {*SCHEMES}

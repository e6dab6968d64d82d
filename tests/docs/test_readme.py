"""The README is short, each of its examples runs alone and does what it says, and all that it points to is there.

The third example is that of the page docs/start/denoiser.md: tests/docs/test_denoiser_pages.py runs both.
"""

import contextlib
import io
import re
from pathlib import Path

import numpy as np
import pytest

import sdesig.solvers
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

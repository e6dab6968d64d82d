"""The README is short, each of its examples runs alone and does what it says, and all that it points to is there.

The third example is that of the page docs/start/denoiser.md: test_denoiser_pages.py runs both.
"""

import re

import numpy as np
import pytest
from notebooks import DOCS, blocks_of, run

import sdesig.solvers
from sdesig.solvers import SCHEMES

ROOT = DOCS.parent
README = (ROOT / "README.md").read_text()
BLOCKS = blocks_of("../README.md")
PEERS = ("dpm_solver_1", "dpm_solver_2m", "dpm_solver_3m", "seeds_2", "er_sde_3", "ipndm_4")


def test_it_is_short():
    assert len(README.encode()) <= 6 * 1024
    assert len(BLOCKS) == 3


def test_an_order_is_what_it_says(tmp_path, monkeypatch):
    names = run("README.md", BLOCKS[:1], monkeypatch, tmp_path)
    assert names["printed"].splitlines()[-1] == re.search(r"The last line is `(.*?)`", README)[1]


def test_a_pipeline_follows_a_seed(tmp_path, monkeypatch):
    """All steps end at images, and those of 10 and of 40 steps are nearly one."""
    pytest.importorskip("diffusers")
    block = BLOCKS[1][0].replace("    image =", "    images.append(").replace(".images[0]", ".images[0])")
    few, many = run("README.md", [("images = []\n" + block, None)], monkeypatch, tmp_path)["images"]
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
    """Those of the docstring of `sdesig.solvers` and, but for those to compare with, of the page on how to choose."""
    text = (ROOT / "docs/how_to_choose.md").read_text()
    assert {*re.findall(r'"(\w+)"', text)} >= {*SCHEMES} - {*PEERS}
    assert {*re.findall(r'^\| "(\w+)"', sdesig.solvers.__doc__, re.M)} == {*SCHEMES}

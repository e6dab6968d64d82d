"""Every notebook is committed without outputs, says how long it takes, and where to go from there."""

import re

import pytest
from notebooks import DOCS, check_committed, text_of

NAMES = sorted(path.stem for path in (DOCS / "examples").glob("*.ipynb"))


def test_there_are_six():
    assert len(NAMES) == 6


@pytest.mark.parametrize("name", NAMES)
def test_committed_without_outputs(name):
    check_committed(name)


@pytest.mark.parametrize("name", NAMES)
def test_says_how_long_it_takes_and_where_to_go(name):
    text = text_of(name)
    assert text.startswith("# ")
    assert f"/blob/main/docs/examples/{name}.ipynb)" in text
    assert re.search(r"about \d+ seconds on one core", text)
    assert "## Next" in text

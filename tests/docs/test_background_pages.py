"""Code on pages of the documentation runs, each block alone, and prints what stands in the block of text after it."""

import contextlib
import io
import re

import pytest
from page_numbers import ROOT

PAGES = [
    *sorted((ROOT / "docs/background").glob("*.md")),
    *(ROOT / "docs" / name for name in ("how_to_choose.md", "benchmarks.md", "not_tested.md", "faq.md")),
]
BLOCK = re.compile(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", re.M | re.S)
BLOCKS = [(page.stem, k, *block) for page in PAGES for k, block in enumerate(BLOCK.findall(page.read_text()))]


@pytest.mark.parametrize("code, shown", [block[2:] for block in BLOCKS], ids=[f"{b[0]}-{b[1]}" for b in BLOCKS])
def test_blocks_run(code, shown, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "<block>", "exec"), {"__name__": "__main__"})
    if shown:
        assert printed.getvalue() == shown


@pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])
def test_links_lead_to_files_and_headings(page):
    for target, heading in re.findall(r"\]\(((?!https:)[^)#\s]*)(?:#([\w-]+))?\)", page.read_text()):
        there = (page.parent / target).resolve() if target else page
        if there in PAGES:
            titles = re.findall(r"^#+ (.*)$", there.read_text(), re.M)
            slugs = {re.sub(r"[^\w\s-]", "", title).lower().replace(" ", "-") for title in titles}
            assert not heading or heading in slugs
        else:
            assert there.is_relative_to(ROOT / "docs") or there.exists(), target  # mkdocs checks those of the site

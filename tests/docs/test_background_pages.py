"""Code on pages of the documentation runs, each block alone, and prints what stands in the block of text after it."""

import pytest
from notebooks import DOCS, blocks_of, run

PAGES = [
    *(f"background/{page.name}" for page in sorted((DOCS / "background").glob("*.md"))),
    *("how_to_choose.md", "benchmarks.md", "not_tested.md", "faq.md"),
]
BLOCKS = [(f"{page}-{k}", block) for page in PAGES for k, block in enumerate(blocks_of(page))]


@pytest.mark.parametrize("name, block", BLOCKS, ids=[name for name, _ in BLOCKS])
def test_blocks_run(name, block, tmp_path, monkeypatch):
    run(name, [block], monkeypatch, tmp_path)

"""Runs what the documentation shows: code cells of notebooks, and code blocks of pages, without jupyter."""

import contextlib
import io
import json
import linecache
import re
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).parents[2] / "docs"


def read_notebook(name: str) -> dict[str, Any]:
    """The JSON of docs/examples/NAME.ipynb."""
    return json.loads((DOCS / "examples" / f"{name}.ipynb").read_text())


def text_of(name: str) -> str:
    """The text cells of a notebook, joined."""
    return "\n\n".join("".join(cell["source"]) for cell in read_notebook(name)["cells"] if cell["cell_type"] != "code")


def run_notebook(name: str, monkeypatch: Any, folder: Path) -> dict[str, Any]:
    """Run the code cells of a notebook in `folder`, in one namespace, without a display; returns the namespace.

    `printed` in it is all that the cells printed.
    """
    sources = ["".join(cell["source"]) for cell in read_notebook(name)["cells"] if cell["cell_type"] == "code"]
    return run(name, [(source, None) for source in sources], monkeypatch, folder)


def blocks_of(page: str) -> list[tuple[str, str | None]]:
    """The python blocks of docs/PAGE, each with the block of text right after it: what it prints, exactly."""
    found = re.findall(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", (DOCS / page).read_text(), re.M | re.S)
    return [(code, shown or None) for code, shown in found]


def run_page(page: str, monkeypatch: Any, folder: Path) -> dict[str, Any]:
    """Run the blocks of docs/PAGE in `folder`, in one namespace; returns the namespace."""
    return run(page, blocks_of(page), monkeypatch, folder)


def check_committed(name: str) -> None:
    """A notebook is committed without outputs, and with no more metadata than its kernel."""
    notebook = read_notebook(name)
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert notebook["metadata"].keys() <= {"kernelspec", "language_info"}
    assert notebook["metadata"]["kernelspec"] == {"display_name": "Python 3", "language": "python", "name": "python3"}
    for cell in notebook["cells"]:
        assert not cell.get("outputs"), cell["source"]
        assert cell.get("execution_count") is None, cell["source"]
        assert cell["metadata"] == {}, cell["source"]
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])


def run(name: str, blocks: list[tuple[str, str | None]], monkeypatch: Any, folder: Path) -> dict[str, Any]:
    """Run code in `folder`, in one namespace, without a display, and compare what it prints where that is given.

    The test is skipped where the code imports diffusers and that is missing.
    """
    if any(re.search(r"^(from|import) diffusers\b", source, re.MULTILINE) for source, _ in blocks):
        pytest.importorskip("diffusers")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MPLBACKEND", "agg")
    import matplotlib.pyplot as plt

    plt.switch_backend("agg")
    namespace: dict[str, Any] = {"__name__": "__main__", "display": print}
    said = ""
    try:
        for k, (source, shown) in enumerate(blocks):
            file = f"<{name}, code {k}>"
            linecache.cache[file] = (len(source), None, source.splitlines(True), file)  # tracebacks show the line
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                exec(compile(source, file, "exec"), namespace)
            if shown is not None:
                assert printed.getvalue() == shown, file
            said += printed.getvalue()
    finally:
        plt.close("all")
    return namespace | {"printed": said}

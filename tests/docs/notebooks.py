"""Runs what the documentation shows: code cells of notebooks, and code blocks of pages, without jupyter."""

import contextlib
import io
import json
import linecache
import re
from pathlib import Path
from typing import Any

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
    return _run(name, sources, monkeypatch, folder)


def run_page(page: str, monkeypatch: Any, folder: Path) -> dict[str, Any]:
    """Run the python blocks of docs/PAGE in `folder`, in one namespace; returns the namespace.

    A block of text right after a python block is what that block prints, exactly.
    """
    found = re.findall(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", (DOCS / page).read_text(), re.M | re.S)
    return _run(page, [code for code, _ in found], monkeypatch, folder, [shown or None for _, shown in found])


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


def _run(
    name: str, sources: list[str], monkeypatch: Any, folder: Path, shown: list[str | None] | None = None
) -> dict[str, Any]:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MPLBACKEND", "agg")
    import matplotlib.pyplot as plt

    plt.switch_backend("agg")
    namespace: dict[str, Any] = {"__name__": "__main__", "display": print}
    said = ""
    try:
        for k, source in enumerate(sources):
            file = f"<{name}, code {k}>"
            linecache.cache[file] = (len(source), None, source.splitlines(True), file)  # tracebacks show the line
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                exec(compile(source, file, "exec"), namespace)
            if shown and shown[k] is not None:
                assert printed.getvalue() == shown[k], file
            said += printed.getvalue()
    finally:
        plt.close("all")
    return namespace | {"printed": said}

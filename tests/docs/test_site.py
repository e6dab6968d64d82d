"""The pages of the site: navigation, links, names of the API, code. mkdocs, which builds it, is not needed."""

import ast
import importlib
import json
import re
import unicodedata
from pathlib import Path

import pytest

import sdesig
from sdesig.commands.main import COMMANDS

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
TOP = {"changelog.md": ROOT / "CHANGELOG.md"}
"""Pages whose files are at the top of the repository."""
PACKAGES = [f"sdesig.{path.stem}" for path in sorted((DOCS / "api").glob("*.md")) if path.stem != "sdesig"]
MODULES = ("sdesig.sde.problems", "sdesig.testing.strategies")
"""Public modules that are imported by themselves; their names are on the pages of their packages."""
EXPLAINED = {"sdesig.images.checkpoints", "sdesig.sampling.gaussian_reference"}
"""Modules whose docstrings are on the pages of their packages, since docstrings of their names point there."""
PAGES = {
    **{
        path.relative_to(DOCS).as_posix(): path
        for kind in ("md", "ipynb")
        for path in sorted(DOCS.rglob(f"*.{kind}"))
        if "examples/runs" not in path.as_posix()  # what the notebooks write when the site is built
    },
    **TOP,
}
_FENCE = re.compile(r"^( *)```.*?^\1``` *$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]+)(?: \"[^\"]*\")?\)")
_DESCRIBED = re.compile(r"^::: (\S+)$", re.MULTILINE)


def text_of(page: str) -> str:
    """Markdown of a page, or of the text cells of a notebook."""
    text = PAGES[page].read_text(encoding="utf-8")
    if page.endswith(".ipynb"):
        cells = json.loads(text)["cells"]
        text = "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    return text


def code_of(page: str) -> list[str]:
    """Python blocks of a page, or the code cells of a notebook."""
    if page.endswith(".ipynb"):
        cells = json.loads(PAGES[page].read_text(encoding="utf-8"))["cells"]
        return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    found = re.findall(r"^( *)```python.*?\n(.*?)^\1```", text_of(page), re.MULTILINE | re.DOTALL)
    return [re.sub(rf"^{indent}", "", code, flags=re.MULTILINE) for indent, code in found]


def navigation() -> list[str]:
    """Pages of the navigation in mkdocs.yml."""
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    (nav,) = re.findall(r"^nav:\n((?:[ #].*\n)+)", text, re.MULTILINE)
    return re.findall(r"^ *- [^:\n]+: (\S+)$", nav, re.MULTILINE)


def anchors_of(page: str) -> set[str]:
    """Anchors of headings, of described names, and those that are given."""
    text = text_of(page)
    described = set(_DESCRIBED.findall(text))
    text = _FENCE.sub("", text)
    found = (
        described | set(re.findall(r"\bid=\"([^\"]+)\"", text)) | set(re.findall(r"\{[^}\n]*#([\w.-]+)[^}\n]*\}", text))
    )
    for title in re.findall(r"^#{1,6} +(.*?)(?: *\{[^}]*\})? *#*$", text, re.MULTILINE):
        plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", title)
        plain = unicodedata.normalize("NFKD", plain).encode("ascii", "ignore").decode()
        slug = re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", plain).strip().lower())
        while slug in found:
            number = re.search(r"_(\d+)$", slug)
            slug = f"{slug[: number.start()]}_{int(number[1]) + 1}" if number else f"{slug}_1"
        found.add(slug)
    return found


def public(module: str) -> set[str]:
    """Names that may be imported from a module."""
    imported = importlib.import_module(module)
    if not hasattr(imported, "__all__"):
        return {name for name, value in vars(imported).items() if getattr(value, "__module__", "") == module}
    return set(imported.__all__)


def place(package: str, name: str) -> str:
    """A name of a package; where a module has the same name, mkdocstrings takes that, unless it is told twice."""
    return f"{name}.{name}" if (ROOT / package.replace(".", "/") / f"{name}.py").is_file() else name


def test_every_page_is_in_the_navigation_once_and_exists() -> None:
    pages = navigation()
    assert sorted(pages) == sorted(PAGES)
    assert all(path.is_file() for path in TOP.values())


@pytest.mark.parametrize("package", PACKAGES)
def test_every_exported_name_is_described_on_the_page_of_its_package(package: str) -> None:
    described = _DESCRIBED.findall(text_of(f"api/{package.removeprefix('sdesig.')}.md"))
    assert len(described) == len(set(described))
    expected = {f"{package}.{place(package, name)}" for name in public(package)}
    for module in MODULES:
        if module.startswith(f"{package}."):
            expected |= {f"{module}.{name}" for name in public(module) if not name.startswith("_")}
    assert set(described) - {*MODULES, *EXPLAINED} == expected


def test_every_package_with_names_has_a_page() -> None:
    folders = [path.parent.name for path in (ROOT / "sdesig").glob("*/__init__.py")]
    assert sorted(PACKAGES) == sorted(
        f"sdesig.{name}" for name in folders if hasattr(importlib.import_module(f"sdesig.{name}"), "__all__")
    )


def test_every_name_of_the_top_level_leads_to_its_description() -> None:
    found = dict(re.findall(r"^- \[`(\w+)`\]\(\w+\.md#(\S+)\)$", text_of("api/sdesig.md"), re.MULTILINE))
    assert sorted(found) == sorted(sdesig.__all__)
    for name, place in found.items():
        module, _, there = place.rpartition(".")
        assert there == name
        assert getattr(importlib.import_module(module), name) is getattr(sdesig, name)


def test_every_command_has_its_help() -> None:
    assert re.findall(r"^<!-- help: (\w+) -->$", text_of("command_line.md"), re.MULTILINE) == list(COMMANDS)


@pytest.mark.parametrize("page", PAGES)
def test_links_of_a_page_lead_somewhere(page: str) -> None:
    text = re.sub(r"`[^`\n]*`(?!\])", "", _FENCE.sub("", text_of(page)))
    for link in _LINK.findall(text):
        if re.match(r"\w+:", link):
            continue
        assert not link.startswith("/"), link
        path, _, anchor = link.partition("#")
        target = (PAGES[page].parent / path).resolve() if path else PAGES[page].resolve()
        there = next((name for name, file in PAGES.items() if file.resolve() == target), None)
        assert there is not None or target.exists(), f"{page}: {link}"
        assert target.is_relative_to(ROOT), link
        if anchor and there is not None:
            known = anchors_of(there)
            assert anchor in known or anchor.rpartition(".")[0] in known, f"{page}: {link}"


@pytest.mark.parametrize("page", PAGES)
def test_code_of_a_page_compiles_and_imports_exported_names(page: str) -> None:
    for code in code_of(page):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names if alias.name.partition(".")[0] == "sdesig"]
                assert set(modules) <= {"sdesig", *PACKAGES, *MODULES}, code
            elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "sdesig":
                assert node.module in ("sdesig", *PACKAGES, *MODULES), code
                packages = {
                    name.rpartition(".")[2] for name in (*PACKAGES, *MODULES) if name.startswith(f"{node.module}.")
                }
                unknown = {alias.name for alias in node.names} - public(node.module) - packages
                assert not unknown, f"{page}: {node.module} does not export {sorted(unknown)}"

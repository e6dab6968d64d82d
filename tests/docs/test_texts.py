"""The texts at the top of the repository agree with the package: versions, paths, commands, packages, links."""

import re
from itertools import pairwise
from pathlib import Path

import pytest

import sdesig

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "sdesig"
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
TEXTS = ["CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", *sorted(p.name for p in (ROOT / ".github").rglob("*.md"))]
SUFFIXES = (".py", ".md", ".toml", ".txt", ".cff", ".yml", ".yaml", ".png", ".ipynb")
OURS = ("sdesig", "validation", "experiments")


def words(text: str) -> list[str]:
    """Words of the code in a text, in line or in blocks."""
    blocks = re.findall(r"^```.*?\n(.*?)^```$", text, re.M | re.S)
    lines = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S))
    return [word.strip(",;:") for part in [*blocks, *lines] for word in part.split()]


def paths(text: str) -> list[str]:
    """Words of the code in a text that are paths in the repository."""
    found = [word for word in words(text) if "/" in word or word.endswith(SUFFIXES)]
    return [word for word in found if not word.startswith((".venv/", "site/", "--"))]


def missing(text: str) -> list[str]:
    """Paths of a text that are not there; a folder ends in /."""
    return [p for p in paths(text) if not ((ROOT / p).is_dir() if p.endswith("/") else (ROOT / p).is_file())]


def entries(text: str) -> dict[str, str]:
    """The `key: value` lines of a YAML file that are not indented; fails on other lines."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        if line and line[0] not in " #":
            key, value = re.fullmatch(r"([\w-]+):(?: +(\S.*))?", line).groups()
            assert key not in found
            found[key] = (value or "").strip('"')
    return found


def changelog_version(text: str) -> str:
    """The first version that has a heading."""
    return re.search(r"^## \[?(\d+\.\d+\.\d+[^\s\]]*)", text, re.M)[1]


def test_all_texts_have_the_version_of_the_package():
    project = (ROOT / "pyproject.toml").read_text()
    for version in re.findall(r'^version = "(.+)"$', project, re.M):  # none, if it is taken from the package
        assert version == sdesig.__version__
    assert entries((ROOT / "CITATION.cff").read_text())["version"] == sdesig.__version__
    assert changelog_version((ROOT / "CHANGELOG.md").read_text()) == sdesig.__version__


def test_a_version_is_found():
    assert changelog_version("# Changelog\n\n## Unreleased\n\n## [1.2.3rc1] - 2026-01-01\n\n## 1.0.0\n") == "1.2.3rc1"


def test_a_citation_has_what_it_must():
    found = entries((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= set(found)
    assert found["cff-version"] == "1.2.0"
    assert found["license"] == "Apache-2.0"


@pytest.mark.parametrize("line", ["no entry", "title:none", "title: a\ntitle: b"])
def test_what_is_no_yaml_is_found(line):
    with pytest.raises((AssertionError, AttributeError)):
        entries(line)


def test_all_that_contributing_names_is_there():
    assert len(paths(CONTRIBUTING)) > 40
    assert missing(CONTRIBUTING) == []


def test_what_is_not_there_is_found():
    text = "```\ncat gone/\n```\n\n`sdesig/_files.py`, `python tests/docs/none.py PAGE`\n"
    assert missing(text) == ["gone/", "tests/docs/none.py"]


def test_commands_of_contributing_exist():
    named = [after for word, after in pairwise(words(CONTRIBUTING)) if word == "make" and after.isalpha()]
    assert set(named) >= {"setup", "test", "lint", "docs", "bench", "gpu"}
    rules = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M)
    assert set(named) <= set(rules)
    for module in re.findall(r"-m ([\w.]+)", CONTRIBUTING):
        path = ROOT / module.replace(".", "/")
        assert module.split(".")[0] not in OURS or path.with_suffix(".py").is_file() or (path / "__main__.py").is_file()


def test_the_layout_has_every_package_in_the_order_of_imports():
    import test_public_api

    table = re.findall(r"^\| `sdesig/(\w+)/` \|", CONTRIBUTING, re.M)
    assert table == list(test_public_api.LAYERS)
    folders = {f"{path.parent.name}/" for path in (ROOT / "experiments").glob("*/__main__.py")}
    assert {path.split("/", 1)[1] for path in paths(CONTRIBUTING) if path.startswith("experiments/")} >= folders


@pytest.mark.parametrize("text", TEXTS)
def test_links_lead_somewhere(text):
    (file,) = [ROOT / text] if (ROOT / text).is_file() else (ROOT / ".github").rglob(text)
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)(?:#([\w-]+))?\)", file.read_text()):
        there = file.parent / target if target else file
        assert there.exists(), target
        titles = re.findall(r"^#+ (.*)$", there.read_text(), re.M) if anchor else []
        assert not anchor or anchor in [re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles]
    for path in re.findall(r"https://github\.com/sdesig/sdesig/blob/main/([\w./-]+)", file.read_text()):
        assert (ROOT / path).exists(), path

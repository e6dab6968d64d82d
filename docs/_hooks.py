"""Hooks of the site's build (`mkdocs.yml`): formulas, links that leave `docs/`, and the helps of the commands.

- Formulas become MathML, so that pages need no script and no other host.
- A relative link to a file outside `docs/` works as it stands on a page of the repository. On the site a picture is
  copied, and anything else is a link to the repository.
- Links in notebooks lead to the pages of the site.
- A name of the API in backticks, `BrownianPath`, is a link to it, if it has a capital letter or an underscore.
- A line `<!-- help: teacher -->` becomes the help of `sdesig teacher`.
"""

from __future__ import annotations

import html
import os
import posixpath
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

ROOT = Path(__file__).parent.parent
OUTSIDE = {"changelog.md": "CHANGELOG.md"}
"""Pages of the site whose files lie at the top of the repository."""
PICTURES = (".png", ".svg")

_LINK = re.compile(r"(?<=\]\()(?!\w+:|#|/)([^)\s#]+)(?=[)\s#])")
_HELP = re.compile(r"^<!-- help: (\w*) -->$", re.MULTILINE)
_FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)
_DOLLARS = re.compile(r"(?<![\\$])(\${1,2})(?=[^\s$])([^$]+?)(?<=[^\s\\])\1(?!\d)")
_CODE = re.compile(r"(<(pre|code|script|style|svg|math)\b.*?</\2>|<[^>]*>)", re.DOTALL)
_SCRIPT = re.compile(r"<script\b[^>]*>(?:(?!</script>).)*</script>", re.DOTALL)
_NAMED = re.compile(
    r"(<(a|h\d|pre|summary)\b.*?</\2>|<td>\s*<code>\w*</code>\s*</td>)|<code>(\w*[A-Z_]\w*)</code>", re.DOTALL
)
_FOREIGN = re.compile(r"<img\b[^>]*>")
_HREF = re.compile(r'(?<= href=")(?!\w+:|#|/)([^"#]+\.(?:md|ipynb))(?=["#])')


def on_files(files: Any, config: Any) -> Any:
    for page, path in OUTSIDE.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    folder = Path(page.file.abs_src_path).parent
    docs = Path(config.docs_dir)

    def link(match: re.Match[str]) -> str:
        target = Path(os.path.normpath(folder / match[1]))
        if target.is_relative_to(docs) or not target.is_relative_to(ROOT) or not target.exists():
            return match[1]  # of the site, or broken, which mkdocs says
        path = target.relative_to(ROOT).as_posix()
        for name, outside in OUTSIDE.items():
            if path == outside:
                return posixpath.relpath(name, posixpath.dirname(page.file.src_uri) or ".")
        if target.suffix not in PICTURES:
            return f"{config.repo_url.rstrip('/')}/{'tree' if target.is_dir() else 'blob'}/main/{path}"
        if files.get_file_from_path(path) is None:
            files.append(File.generated(config, path, abs_src_path=str(target)))
        return posixpath.relpath(path, posixpath.dirname(page.file.src_uri) or ".")

    markdown = _HELP.sub(lambda match: _help(match[1]), markdown)
    return _LINK.sub(link, markdown)


def on_page_content(html: str, page: Any, files: Any, **_: Any) -> str:
    if page.file.src_uri.endswith(".ipynb"):
        html = _notebook(html, page, files)
    else:
        html = _NAMED.sub(lambda match: match[1] or _named(match[3], page, files), html)
    return _FORMULA.sub(lambda match: _mathml(match[2], match[1] == "div", page), html)


def on_post_page(output: str, **_: Any) -> str:
    return output.replace(' data-md-component="source"', "")  # it would ask the repository's host for its stars


@cache
def _places() -> dict[str, tuple[str, str]]:
    """Page and full name of the names that are described on the pages of the API, but for the digits."""
    return {
        name.rpartition(".")[2]: (f"api/{path.name}", name)
        for path in sorted(Path(__file__).parent.glob("api/*.md"))
        for name in re.findall(r"^::: (\S+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
        if path.name != "digits.md"
    }


def _named(name: str, page: Any, files: Any) -> str:
    if name not in _places():
        return f"<code>{name}</code>"
    uri, anchor = _places()[name]
    return f'<a href="{files.get_file_from_path(uri).url_relative_to(page.file)}#{anchor}"><code>{name}</code></a>'


def _help(command: str) -> str:
    """What `--help` of a command prints, as a folded block."""
    arguments = [command, "--help"] if command else ["--help"]
    environment = {**os.environ, "COLUMNS": "100", "NO_COLOR": "1", "PYTHONPATH": str(ROOT)}
    run = subprocess.run(
        [sys.executable, "-m", "sdesig", *arguments], env=environment, capture_output=True, text=True, check=True
    )
    text = "\n".join(f"    {line}".rstrip() for line in run.stdout.splitlines())
    return f'??? note "`sdesig {" ".join(arguments)}`"\n\n    ```text\n{text}\n    ```'


def _mathml(latex: str, block: bool, page: Any) -> str:
    try:
        return convert(html.unescape(latex), display="block" if block else "inline")
    except Exception as error:
        raise PluginError(f"{page.file.src_uri}: no formula: {latex!r}: {error!r}") from error


def _notebook(text: str, page: Any, files: Any) -> str:
    """Formulas and links of a notebook, which mkdocs does not look at, without the scripts of MathJax and Mermaid."""

    def link(match: re.Match[str]) -> str:
        uri = posixpath.normpath(posixpath.join(posixpath.dirname(page.file.src_uri), match[1]))
        file = files.get_file_from_path(uri)
        if file is None:
            raise PluginError(f"{page.file.src_uri}: no page for the link {match[1]!r}")
        return file.url_relative_to(page.file)

    def script(match: re.Match[str]) -> str:
        return "" if re.search("mathjax|mermaid", match[0], re.IGNORECASE) else match[0]

    def picture(match: re.Match[str]) -> str:
        foreign = re.search(r'src="https?:', match[0])
        alternative = re.search(r'alt="([^"]*)"', match[0])
        return match[0] if foreign is None or alternative is None else alternative[1]

    text = _FOREIGN.sub(picture, text)  # a badge: its words do, and ask no other host
    text = _SCRIPT.sub(script, text).replace('<script src=""></script>', "")
    parts = _CODE.split(_HREF.sub(link, text))
    # split by two groups: text, a tag or an element as it is, the element's name
    for index in range(0, len(parts), 3):
        parts[index] = _DOLLARS.sub(lambda match: _mathml(match[2], match[1] == "$$", page), parts[index])
    return "".join(part for index, part in enumerate(parts) if index % 3 != 2 and part is not None)

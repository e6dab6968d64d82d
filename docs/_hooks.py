"""Hooks of the site's build (`mkdocs.yml`): formulas, links that leave `docs/`, and the helps of the commands.

- Formulas become MathML, so that pages need no script and no other host.
- A relative link to a file outside `docs/` works as it stands on a page of the repository. On the site a picture is
  copied, and anything else is a link to the repository.
- Links in notebooks lead to the pages of the site.
- A name of the API in backticks, `BrownianPath`, is a link to it, if it has a capital letter or an underscore.
- A picture of a page is a link to its file, where it is large enough to read.
- What a notebook's kernel said of itself (its standard error) is left out.
- A line `<!-- help: teacher -->` becomes the help of `sdesig teacher`.
"""

from __future__ import annotations

import html
import os
import posixpath
import re
import subprocess
import sys
import unicodedata
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
_FORMULA = re.compile(r'(\(?)<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\2>([^\s<]*)', re.DOTALL)
_DOLLARS = re.compile(r"(\(?)(?<![\\$])(\${1,2})(?=[^\s$])([^$]+?)(?<=[^\s\\])\2(?!\d)([^\s$]*)")
_LETTER = re.compile(r'<mi mathvariant="(double-struck|script)">([A-Z])</mi>')
# the code that the button of a cell copies is the text of a hidden div
_CODE = re.compile(
    r"(<(pre|code|script|style|svg|math)\b.*?</\2>|<div\b[^>]*\bclipboard-copy-txt\b[^>]*>[^<]*|<[^>]*>)", re.DOTALL
)
_SCRIPT = re.compile(r"<script\b[^>]*>(?:(?!</script>).)*</script>", re.DOTALL)
_NAMED = re.compile(
    r"(<(a|h\d|pre|summary)\b.*?</\2>|<td>\s*<code>\w*</code>\s*</td>)|<code>(\w*[A-Z_]\w*)</code>", re.DOTALL
)
_PICTURE = re.compile(r"<img\b[^>]*>")
_LOCAL_PICTURE = re.compile(r'(<a\b.*?</a>)|<img\b[^>]* src="(?!\w+:|/)([^"]+)"[^>]*>', re.DOTALL)
_HEADING = re.compile(r"<h\d\b[^>]*>(.*?)</h\d>", re.DOTALL)
_NO_ALTERNATIVE = 'alt="No description has been provided for this image"'
_STANDARD_ERROR = re.compile(
    r'<div class="jp-OutputArea-child">\s*<div [^>]*data-mime-type="application/vnd.jupyter.stderr"[^>]*>\s*'
    r"<pre>.*?</pre>\s*</div>\s*</div>\s*",
    re.DOTALL,
)
_NO_OUTPUT = re.compile(
    r'<div class="jp-Cell-outputWrapper">\s*<div class="[^"]*jp-OutputCollapser[^"]*">\s*</div>\s*'
    r'<div class="jp-OutputArea jp-Cell-outputArea">\s*</div>\s*</div>\s*'
)
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
        html = _NAMED.sub(lambda match: _named(match, page, files), html)
        html = _LOCAL_PICTURE.sub(lambda match: match[1] or f'<a href="{match[2]}">{match[0]}</a>', html)
    return _FORMULA.sub(lambda match: _mathml(match[1], match[3], match[4], match[2] == "div", page), html)


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


def _named(match: re.Match[str], page: Any, files: Any) -> str:
    """A name with its link. Names of parameters, the first column of tables of the API, have none."""
    if match[1] and (match[2] or page.file.src_uri.startswith("api/")):
        return match[1]
    name = re.sub(r"<[^>]*>|\s", "", match[0])
    if name not in _places() or not re.search("[A-Z_]", name):
        return match[0]
    uri, anchor = _places()[name]
    url = f"{files.get_file_from_path(uri).url_relative_to(page.file)}#{anchor}"
    return match[0].replace("<code>", f'<a href="{url}"><code>').replace("</code>", "</code></a>")


def _help(command: str) -> str:
    """What `--help` of a command prints, as a folded block."""
    arguments = [command, "--help"] if command else ["--help"]
    environment = {**os.environ, "COLUMNS": "100", "NO_COLOR": "1", "PYTHONPATH": str(ROOT)}
    run = subprocess.run(
        [sys.executable, "-m", "sdesig", *arguments], env=environment, capture_output=True, text=True, check=True
    )
    text = "\n".join(f"    {line}".rstrip() for line in run.stdout.splitlines())
    return f'??? note "`sdesig {" ".join(arguments)}`"\n\n    ```text\n{text}\n    ```'


def _mathml(before: str, latex: str, behind: str, block: bool, page: Any) -> str:
    """A formula, on one line with the bracket before it and the punctuation behind it."""
    try:
        formula = convert(html.unescape(latex), display="block" if block else "inline")
    except Exception as error:
        raise PluginError(f"{page.file.src_uri}: no formula: {latex!r}: {error!r}") from error
    formula = _LETTER.sub(lambda match: f"<mi>{_letter(match[1], match[2])}</mi>", formula)
    return f'<span class="formula">{before}{formula}{behind}</span>' if before + behind else formula


def _letter(style: str, letter: str) -> str:
    """The character of a letter in a style, which browsers do not take from the attribute of MathML."""
    try:
        return unicodedata.lookup(f"mathematical {style} capital {letter}")
    except KeyError:  # it has an older name
        return unicodedata.lookup(f"{style} capital {letter}")


def _notebook(text: str, page: Any, files: Any) -> str:
    """Formulas, links and pictures of a notebook, which mkdocs does not look at.

    Left out are the scripts of MathJax and Mermaid, and what the kernel said of itself.
    """

    def link(match: re.Match[str]) -> str:
        uri = posixpath.normpath(posixpath.join(posixpath.dirname(page.file.src_uri), match[1]))
        file = files.get_file_from_path(uri)
        if file is None:
            raise PluginError(f"{page.file.src_uri}: no page for the link {match[1]!r}")
        return file.url_relative_to(page.file)

    def formula(match: re.Match[str]) -> str:
        return _mathml(match[1], match[3], match[4], match[2] == "$$", page)

    def script(match: re.Match[str]) -> str:
        return "" if re.search("mathjax|mermaid", match[0], re.IGNORECASE) else match[0]

    def picture(match: re.Match[str]) -> str:
        foreign = re.search(r'src="https?:', match[0])
        alternative = re.search(r'alt="([^"]*)"', match[0])
        if foreign and alternative:
            return alternative[1]  # of a badge: its words do, and ask no other host
        headings = _HEADING.findall(text, 0, match.start()) if _NO_ALTERNATIVE in match[0] else []
        title = re.sub(r"<a\b.*?</a>|<[^>]*>", "", headings[-1]).strip().replace('"', "&quot;") if headings else ""
        return match[0].replace(_NO_ALTERNATIVE, f'alt="Figure: {title}"') if title else match[0]

    text = _NO_OUTPUT.sub("", _STANDARD_ERROR.sub("", text))
    text = _PICTURE.sub(picture, text)
    text = _SCRIPT.sub(script, text).replace('<script src=""></script>', "")
    parts = _CODE.split(_HREF.sub(link, text))
    # split by two groups: text, a tag or an element as it is, the element's name
    for index in range(0, len(parts), 3):
        parts[index] = _DOLLARS.sub(formula, parts[index])
    return "".join(part for index, part in enumerate(parts) if index % 3 != 2 and part is not None)

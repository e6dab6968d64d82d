"""What the site's build makes of formulas, notebooks, names and docstrings. It needs the extra `docs`."""

import importlib.util
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("mkdocs")
pytest.importorskip("latex2mathml")
griffe = pytest.importorskip("griffe")

ROOT = Path(__file__).parents[2]


def module_of(name: str):
    specification = importlib.util.spec_from_file_location(name, ROOT / f"docs/{name}.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


hooks = module_of("_hooks")
docstrings = module_of("_docstrings")


def content(html: str, page: str = "background/floor.md") -> str:
    """What the hook makes of the HTML of a page."""
    files = SimpleNamespace(
        get_file_from_path=lambda path: SimpleNamespace(url_relative_to=lambda file: f"/{path.removesuffix('.md')}/")
    )
    return hooks.on_page_content(html, page=SimpleNamespace(file=SimpleNamespace(src_uri=page)), files=files)


def notebook(html: str) -> str:
    return content(html, "examples/1_orders.ipynb")


def inline(latex: str) -> str:
    """A formula in a page, before the hook."""
    return rf'<span class="arithmatex">\({latex}\)</span>'


@pytest.mark.parametrize(
    "latex, code",
    [
        (r"\mathbb E[x]", "1D53C"),
        (r"\mathbb R^d", "0211D"),
        (r"\mathcal G", "1D4A2"),
        (r"\mathcal E", "02130"),
        (r"\mathbb P", "02119"),
    ],
)
def test_letters_have_their_characters(latex, code):
    """Browsers show no other `mathvariant` than "normal"."""
    found = content(f"<p>{inline(latex)}</p>")
    assert "mathvariant" not in found
    assert f"<mi>{chr(int(code, 16))}</mi>" in found or f"<mi>&#x{code};</mi>" in found


def test_punctuation_stays_with_its_formula():
    found = re.sub(
        "<math.*?</math>", "M", content(f"<p>of ({inline('x')}), {inline('n')}-th and {inline('y')} too</p>")
    )
    assert found == '<p>of <span class="formula">(M),</span> <span class="formula">M-th</span> and M too</p>'
    found = re.sub("<math.*?</math>", "M", notebook("<p>of ($x$), $n$-th and $y$ too, for $z$.</p>"))
    assert found == (
        '<p>of <span class="formula">(M),</span> <span class="formula">M-th</span> and M too, '
        'for <span class="formula">M.</span></p>'
    )
    assert ".formula" in (ROOT / "docs/assets/site.css").read_text()


@pytest.mark.parametrize(
    "attributes", ['class="clipboard-copy-txt" id="cell-1"', 'id="cell-1" class="clipboard-copy-txt"']
)
def test_code_that_is_copied_is_as_written(attributes):
    hidden = f'<div {attributes}>label="$n$ and $m$"; a &lt; b</div>'
    found = notebook(f"{hidden}<p>$n$</p>")
    assert hidden in found
    assert found.count("<math") == 1


def output(kind: str, text: str) -> str:
    """A child of the outputs of a cell, as mkdocs-jupyter writes it."""
    return (
        '<div class="jp-OutputArea-child">\n<div class="jp-RenderedText jp-OutputArea-output" '
        f'data-mime-type="{kind}" tabindex="0">\n<pre>{text}\n</pre>\n</div>\n</div>\n'
    )


def outputs(*children: str) -> str:
    """The outputs of a cell."""
    return (
        '<div class="jp-Cell-outputWrapper">\n'
        '<div class="jp-Collapser jp-OutputCollapser jp-Cell-outputCollapser">\n</div>\n'
        f'<div class="jp-OutputArea jp-Cell-outputArea">\n{"".join(children)}</div>\n</div>\n'
    )


ERROR = "application/vnd.jupyter.stderr"


def test_standard_error_of_notebooks_is_left_out():
    warning = output(ERROR, "/home/me/tqdm/auto.py:21: TqdmWarning: <span>IProgress</span> not found")
    printed = output("text/plain", "same images: True")
    assert notebook(outputs(warning, printed, output(ERROR, ""))) == outputs(printed)
    assert notebook(f"<p>a</p>{outputs(warning)}<p>b</p>") == "<p>a</p><p>b</p>"


def test_figures_of_notebooks_have_the_words_of_their_heading():
    figure = '<img alt="No description has been provided for this image" class="" src="data:image/png;base64,AA"/>'
    title = '<h2 id="a">A <code>Mixture</code> "x"<a class="anchor-link" href="#a">¶</a></h2>'
    found = notebook(f"<h1>Top</h1>{figure}{title}<p>t</p>{figure}{figure}")
    assert re.findall('alt="(.*?)"', found) == ["Figure: Top", *["Figure: A Mixture &quot;x&quot;"] * 2]
    badge = '<a href="https://x.org"><img alt="Open" src="https://x.org/badge.svg"/></a>'
    assert notebook(badge) == '<a href="https://x.org">Open</a>'


def test_pictures_lead_to_their_files():
    picture = '<img alt="a" src="../figures/one_seed.png" />'
    assert content(f"<p>{picture}</p>") == f'<p><a href="../figures/one_seed.png">{picture}</a></p>'
    for other in (f'<a href="x.html">{picture}</a>', '<img alt="a" src="https://x.org/a.png" />'):
        assert content(other) == other


def test_names_are_links_except_for_parameters():
    """The first column of a table of the API has parameters; that of another page has names."""
    cell = "<td><code>SubVP</code></td>"
    link = '<a href="/api/sde/#sdesig.sde.SubVP"><code>SubVP</code></a>'
    assert content(cell) == f"<td>{link}</td>"
    assert content(cell, "api/sde.md") == cell
    assert content("<p><code>SubVP</code></p>", "api/sde.md") == f"<p>{link}</p>"
    for other in ("<td><code>solve</code></td>", "<td><code>Nothing_such</code></td>", "<h2><code>SubVP</code></h2>"):
        assert content(other) == other


def test_descriptions_begin_with_their_signs():
    """Markdown would make a quotation of `> 0`."""
    text = "Args:\n    atol: > 0, for a > b.\n        > 1 too.\n    rtol: `> 0`."
    wanted = "Args:\n    atol: &gt; 0, for a > b.\n        &gt; 1 too.\n    rtol: `> 0`."
    assert docstrings.as_markdown(text) == wanted
    assert docstrings.as_markdown("A formula\n\n    > b") == "A formula\n\n    > b"


def test_names_that_share_a_description_have_a_row_each():
    long = "f" * 50 + "\n        " + "g" * 50
    text = f"Args:\n    a, b: short.\n    c, d, e: {long}\n    f: one.\n\nRaises:\n    TypeError, ValueError: bad."
    assert docstrings.as_markdown(text) == (
        f"Args:\n    a: short.\n    b: short.\n    c: {long}\n    d: see `c`.\n    e: see `c`.\n    f: one.\n\n"
        "Raises:\n    TypeError, ValueError: bad."
    )


@pytest.fixture(scope="module")
def package():
    """The package as mkdocstrings reads it."""
    extensions = griffe.load_extensions(str(ROOT / "docs/_docstrings.py"))
    return griffe.load(
        "sdesig", search_paths=[str(ROOT)], extensions=extensions, docstring_parser="google",
        docstring_options={"warnings": False, "returns_multiple_items": False},
    )  # fmt: skip


def rows(obj, kind: str) -> dict:
    """The rows of a section of a docstring."""
    (section,) = (section for section in obj.docstring.parsed if section.kind.value == kind)
    return {getattr(row, "name", ""): row for row in section.value}


def test_parameters_have_their_types_and_defaults(package):
    found = rows(package["brownian.path.BrownianPath"], "parameters")
    assert [(name, str(found[name].annotation), found[name].default) for name in ("t0", "t1")] == [
        ("t0", "float", None), ("t1", "float", None),
    ]  # fmt: skip
    assert {name: str(found[name].default) for name in ("dtype", "device")} == {"dtype": "None", "device": "None"}
    found = rows(package["evaluation.metrics.Measured"], "attributes")
    assert {name: str(found[name].annotation) for name in ("extractor", "extractor_digest")} == {
        "extractor": "str", "extractor_digest": "str",
    }  # fmt: skip


def test_what_is_returned_is_one_row(package):
    assert "returns_multiple_items: false" in (ROOT / "mkdocs.yml").read_text()
    assert len(rows(package["sigdeg.training.train"], "returns")) == 1


def test_what_is_private_or_filled_elsewhere_is_not_shown(package):
    signature = package["signature.partial_signature.PartialSignature"]
    for shown in (signature["levy_area"], signature.parameters["levy_area"]):
        assert str(shown.annotation) == "Tensor | None"
    assert (signature["levy_area"].value, signature.parameters["levy_area"].default) == ("None", "None")
    schemes = package["solvers.base.SCHEMES"]
    assert (str(schemes.annotation), schemes.value) == ("dict[str, type[Scheme]]", None)

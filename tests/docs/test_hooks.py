"""What the site's build makes of docstrings. It needs the extra `docs`."""

import importlib.util
from pathlib import Path

import pytest

griffe = pytest.importorskip("griffe")

ROOT = Path(__file__).parents[2]


def module_of(name: str):
    specification = importlib.util.spec_from_file_location(name, ROOT / f"docs/{name}.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


docstrings = module_of("_docstrings")


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

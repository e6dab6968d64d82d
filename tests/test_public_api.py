"""What users may import, what they find there, and that the packages lie above one another."""

import ast
import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import pytest

import sdesig

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "sdesig"
LAYERS = (
    *("signature", "brownian", "sde", "solvers", "convergence", "testing", "sampling", "sigdeg", "evaluation"),
    *("images", "digits", "commands"),
)
EXTRA_PACKAGES = {"sdesig.sde.problems", "sdesig.testing.strategies"}
"""Importable beside `sdesig` and its packages: the problems are many, the strategies need hypothesis."""
PACKAGES = {"sdesig", *(f"sdesig.{layer}" for layer in LAYERS if layer != "commands")}
NAMES = """
EDM SDE VE VP BrownianPath CanonicalDenoiser CanonicalSDE Flow GaussianReference Mixture OrderEstimate
PartialSignature PathSpace SNRClock SNRDenoiser SigDEG SubVP TensorSeries UniformClock distill expected_signature
gaussian_word_covariance information_floor iterated_integrals levy_area sample_partial_signature solve solve_adaptive
strong_order to_ito to_stratonovich weak_order words_for_scheme
"""


INSIDE = {"experiments/digits/scaling.py", "experiments/few_steps/tried.py"}
"""Trains by losses that the package does not have, of its parts."""


def imports_of(code):
    """(module, name) of every import in a source, name None for `import module`."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from ((str(node.module), alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)


def of_ours(code):
    return [(module, name) for module, name in imports_of(code) if module.partition(".")[0] == "sdesig"]


def examples():
    """Sources by name that use the package as users do."""
    for folder in ("experiments", "validation", "examples"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            if str(file.relative_to(ROOT)) in INSIDE:
                continue
            yield str(file.relative_to(ROOT)), file.read_text()
    for file in [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]:
        blocks = re.findall(r"```python\n(.*?)```", file.read_text(), flags=re.DOTALL)
        yield from ((f"{file.relative_to(ROOT)}[{k}]", block) for k, block in enumerate(blocks))


def refused(module, name):
    """What is wrong with an import by a user, or None."""
    if name is not None and f"{module}.{name}" in PACKAGES | EXTRA_PACKAGES:
        return None
    if module not in PACKAGES | EXTRA_PACKAGES:
        return f"{module} is not a package for users"
    if name is not None and name not in getattr(importlib.import_module(module), "__all__", [name]):
        return f"{module} does not export {name}"
    return None


@pytest.mark.parametrize(("where", "code"), [pytest.param(*source, id=source[0]) for source in examples()])
def test_examples_import_exported_names_only(where, code):
    problems = [problem for module, name in of_ours(code) if (problem := refused(module, name))]
    assert not problems, problems


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        ("from sdesig.sampling import choose_grid, PathSpace", None),
        ("from sdesig import testing", None),
        ("import sdesig.testing.strategies", None),
        ("from sdesig.sde.problems import LinearSDE", None),
        ("def f():\n    from sdesig.sampling.choose_grid import choose_grid", "sdesig.sampling.choose_grid is not a"),
        ("from sdesig._files import write_json", "sdesig._files is not a package for users"),
        ("from sdesig import _files", "sdesig does not export _files"),
        ("from sdesig.commands.main import main", "sdesig.commands.main is not a package for users"),
        ("from sdesig.sigdeg import Buffers", "sdesig.sigdeg does not export Buffers"),
        ("import sdesig.sampling.lockstep", "sdesig.sampling.lockstep is not a package for users"),
    ],
)
def test_other_imports_are_found(code, problem):
    found = [refused(module, name) for module, name in of_ours(code)]
    assert found[-1] is None if problem is None else found[-1].startswith(problem)


@pytest.mark.parametrize("name", sorted(PACKAGES | {"sdesig.sde.problems"}))
def test_exports_are_sorted_found_and_documented(name):
    if name == "sdesig.images":
        pytest.importorskip("diffusers")
    package = importlib.import_module(name)
    assert package.__doc__
    exported = package.__all__
    constants = sorted(key for key in exported if key.isupper())
    classes = sorted(key for key in exported if key not in constants and key[0].isupper())
    functions = sorted(key for key in exported if not key[0].isupper())
    # ruff's order: constants, classes, functions; EDM and MLP count as constants
    assert exported == [*constants, *classes, *functions]
    for key in exported:
        value = getattr(package, key)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert value.__doc__, key
            assert not value.__doc__.startswith(f"{key}("), f"{key} has only the docstring of a dataclass"


def test_names_of_the_whole_are_these():
    assert sorted(sdesig.__all__) == sorted(NAMES.split())


def test_files_are_told_apart_by_name():
    names = [file.name for file in SOURCE.rglob("*.py") if file.name not in ("__init__.py", "base.py")]
    assert sorted({name for name in names if names.count(name) > 1}) == []


def layer_of(module):
    """The number of a module's layer, 0 for private ones and `__version__`; None for what is above all packages."""
    part = module.split(".")[1] if "." in module else ""
    if part in LAYERS:
        return LAYERS.index(part) + 1
    return 0 if part.startswith("_") and part not in ("__init__", "__main__") else None


def test_every_package_has_a_layer():
    packages = {module.name for module in pkgutil.iter_modules([str(SOURCE)]) if module.ispkg}
    assert packages == set(LAYERS)


@pytest.mark.parametrize("file", sorted(SOURCE.rglob("*.py")), ids=lambda file: str(file.relative_to(SOURCE)))
def test_imports_point_down(file):
    parts = file.relative_to(ROOT).with_suffix("").parts
    own = layer_of(".".join(parts))
    if own is None:
        return
    for module, name in of_ours(file.read_text()):
        target = f"{module}.{name}" if module == "sdesig" and name else module
        below = layer_of(target)
        assert below is not None, f"{target} is above all packages"
        assert below <= own, f"{target} lies above {parts[1]}"

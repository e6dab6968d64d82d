"""What `import sdesig` costs: modules that few functions need are imported there."""

import subprocess
import sys

import pytest

SLOW = ("scipy", "matplotlib", "diffusers", "torchvision", "tyro")


def modules_after(imports: str) -> set[str]:
    code = f"import sys, {imports}; print(*sys.modules)"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


@pytest.fixture(scope="module")
def imported():
    return modules_after("torch, torchsde, sdesig")


@pytest.mark.parametrize("name", SLOW)
def test_slow_modules_are_not_imported(imported, name):
    assert name not in imported


def test_images_are_known_without_diffusers_and_pillow():
    assert not {"diffusers", "PIL"} & modules_after("sdesig.images")


def test_few_modules_are_imported_beside_those_of_torch_and_torchsde(imported):
    """About 1 ms each: 8 foreign ones (of safetensors, mostly) and 100 of its own take .1 s of 2.5."""
    added = imported - modules_after("torch, torchsde")
    own = {name for name in added if name.partition(".")[0] == "sdesig"}
    assert len(own) <= 130
    assert len(added - own) <= 20, sorted(added - own)

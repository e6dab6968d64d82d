"""What `import sdesig` costs: modules that one function of some session needs are imported there."""

import subprocess
import sys

import pytest

SLOW = ("scipy.stats", "scipy.integrate", "scipy.optimize", "matplotlib", "diffusers", "torchvision", "tyro")


@pytest.fixture(scope="module")
def imported():
    code = "import sys, sdesig; print(*sys.modules)"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


@pytest.mark.parametrize("name", SLOW)
def test_slow_modules_are_not_imported(imported, name):
    assert name not in imported

"""Use an installed sdesig without its extras: draw, solve, measure an order, run the command. See check_wheel."""

import subprocess
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import torch

import sdesig
from sdesig import BrownianPath, sample_partial_signature, solve, strong_order
from sdesig.digits import FOLDER, load_teacher
from sdesig.sde.problems import GeometricBrownianMotion, SinhDiffusion

for extra in ("diffusers", "accelerate", "torchmetrics", "jax", "hypothesis"):
    assert find_spec(extra) is None, f"{extra} is installed: this is no check of an installation without extras"
assert "site-packages" in str(Path(sdesig.__file__)), sdesig.__file__

step = sample_partial_signature((1000, 3), h=0.1, depth=3, generator=torch.Generator().manual_seed(0))
assert torch.allclose(step.time_integral, 0.1 * (step.increment / 2 + step.space_time_area))

sde = GeometricBrownianMotion()
path = BrownianPath(0.0, 1.0, (64, sde.noise_dim), seeds=range(64), dtype=torch.float64)
start = sde.y0(64, dtype=torch.float64)
ends = [solve(sde, start, path.grid(steps), scheme="milstein", path=path)[-1] for steps in (64, 256)]
errors = [(end - sde.exact(1.0, path(0.0, 1.0), start)).abs().mean().item() for end in ends]
assert errors[1] < errors[0] / 2, errors

sinh = SinhDiffusion()
estimate = strong_order(sinh, sinh.initial, scheme="milstein", steps=(8, 16, 32, 64), paths=1000)
assert estimate.supports(1.0), estimate

load_teacher()
assert not (FOLDER / "students").exists(), "the wheel has the students, which are four times its size"

said = subprocess.run([Path(sys.executable).parent / "sdesig", "--version"], capture_output=True, text=True, check=True)
assert said.stdout == f"sdesig {sdesig.__version__}\n", said.stdout
assert version("sdesig") == sdesig.__version__
print(f"sdesig {sdesig.__version__} works without extras; milstein: {estimate.order:.2f}")

"""Every Python example of the README runs, in order, and shows what it says."""

import re
from pathlib import Path

import torch

README = Path(__file__).parent.parent / "README.md"


def test_examples_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    assert len(blocks) >= 6
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, str(README), "exec"), names)
        if "distill(" in block:
            difference = names["samples"].values - names["again"].values
            assert difference.square().mean().sqrt() < 0.4 * names["again"].values.std()
    step, again = names["step"], names["again"]
    assert (step.coefficients - again.coefficients).abs().max() < 1e-5
    words = names["words_for_scheme"](strong=1.5, noise="additive")
    assert words == ((0,), (1,), (0, 0), (0, 1), (1, 0))
    torch.testing.assert_close(names["expected_signature"](dim=2, h=0.1, depth=4)[1, 1, 2, 2].item(), 0.1**2 / 8)
    estimate = names["estimate"]
    assert estimate.supports(1.0)
    assert estimate.refutes(1.5)
    radius = names["samples"].square().sum(-1).sqrt()
    assert abs(radius.mean() - 1.0) < 0.05

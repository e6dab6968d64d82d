"""The page and the notebook on a denoiser of one's own run, and claim no more than the values that they compute."""

import re

import pytest
import torch
from notebooks import DOCS, blocks_of, run, run_notebook, run_page, text_of
from torch import nn

from sdesig import CanonicalDenoiser
from sdesig.evaluation import SampleStore, generator_sampler, paired_ratio, training_free
from sdesig.sde import EpsilonDenoiser, TabulatedVP

PAGE = "start/denoiser.md"
NOTEBOOK = "4_distil_a_denoiser"


def printed_blocks(page: str) -> list[str]:
    """What a page says that its blocks print: indented lines after "It prints"."""
    found = re.findall(r"^It prints\n\n((?:    .*\n)+)", (DOCS / page).read_text(), re.M)
    return [re.sub("^    ", "", block, flags=re.M) for block in found]


def numbers(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"\d+\.\d+", text)]


def test_start_page_and_readme(monkeypatch, tmp_path):
    """The README's block and the page distil one generator: the page finds the README's run complete. It prints what it
    shows, to a few last digits, and Sig-DEG beats the untrained scheme on its own grid at equal evaluations."""
    readme = (DOCS.parent / "README.md").read_text()
    short = run("README.md", blocks_of("../README.md")[2:], monkeypatch, tmp_path)
    assert short["images"].shape == (100, 2)
    state = tmp_path / "runs/circle/checkpoint.safetensors"
    written = state.stat().st_mtime_ns
    names = run_page(PAGE, monkeypatch, tmp_path)
    assert state.stat().st_mtime_ns == written
    said = names["printed"]
    shown = [line for block in printed_blocks(PAGE) for line in block.splitlines()] + ["True"]
    for page, printed in zip(shown, said.splitlines(), strict=True):
        assert re.sub(r"\d+\.\d+", "", page) == re.sub(r"\d+\.\d+", "", printed)
        assert numbers(printed) == pytest.approx(numbers(page), abs=0.06, rel=0.1)
    y, snr = torch.randn(5, 2, generator=torch.Generator().manual_seed(0)), torch.tensor(2.0)
    assert torch.allclose(names["own"](y, snr), names["denoiser"](y, snr), atol=1e-4)  # one density, two schedules
    assert names["snr_range"] == pytest.approx((1 / 2500, 1e4))

    def ratio(other, steps):
        return paired_ratio(names["store"].errors("sig-deg", 8), names["store"].errors(other.key, steps))

    value, low, high = ratio(names["on_grid"], 8)
    assert high < 1
    claims = re.findall(r"In 8 steps it ends (\S+) times \((\S+) to (\S+)\) as far", readme)
    claimed, claimed_low, claimed_high = map(float, claims[0])
    assert (claimed, claimed_low, claimed_high) == pytest.approx((value, low, high), abs=0.06)
    assert claimed_high < 1
    assert ratio(names["even"], 8)[2] < 1
    assert ratio(names["peer"], 8)[2] < 1
    assert ratio(names["on_grid"], 16)[1] > 1  # as both say: take more steps if you can

    space, generator = names["space"], names["generator"]
    untrained = training_free(space, (4,))["path-average-grid"]
    store = SampleStore(names["comparison"], [untrained, generator_sampler("in 4", generator, (4,))], range(2000))
    store.make(progress=False)
    said = re.search(r"in 4 steps it ends (\S+) \((\S+) to (\S+)\) times as far", (DOCS / PAGE).read_text())
    four = paired_ratio(store.errors("in 4", 4), store.errors(untrained.key, 4))
    assert four == pytest.approx([float(number) for number in said.groups()], abs=0.06)


def test_start_page_on_networks_with_lookup_tables():
    """They take rounded indices, as the page says, at all SNRs of the table."""
    text = (DOCS / PAGE).read_text()
    assert "`lambda x, t: network(x, t.round().long())`" in text
    table = nn.Embedding(1000, 2)
    diffusion = TabulatedVP((1 - torch.linspace(1e-4, 0.02, 1000)).cumprod(0))
    denoiser = CanonicalDenoiser(EpsilonDenoiser(lambda x, t: x + table(t.round().long()), diffusion), diffusion)
    for snr in diffusion.snr_range:
        assert denoiser(torch.zeros(3, 2), torch.tensor(snr)).isfinite().all()


@pytest.mark.notebooks
def test_notebook(monkeypatch, tmp_path):
    """Both networks learned mean and variance, both generators gain where the text says, a seed follows one path."""
    names = run_notebook(NOTEBOOK, monkeypatch, tmp_path)
    text = re.sub(r"\s+", " ", text_of(NOTEBOOK))
    claims = re.findall(r"In 8 steps (?:the generator|it) ends (\S+) times as far", text)
    assert len(claims) == 2
    for kind, claim in zip(("moons", "series"), claims, strict=True):
        ratios, generator, data = names[f"{kind}_ratios"], names[f"{kind}_generator"], names[kind]
        for peer in ("path-average-grid", "path-average-reference", "sde-dpm++2m"):
            assert ratios[peer, 8][2] < 1
        value, low, high = ratios["path-average-grid", 8]
        assert abs(value - float(claim)) < high - low
        store = names[f"{kind}_store"]
        assert paired_ratio(store.errors("Sig-DEG", 8), store.errors("path-average-grid", 16))[1] > 1
        few, many = (generator.sample(seeds=1000, steps=steps).values for steps in (8, 64))
        apart = (few - many.roll(1, 0)).square().mean().sqrt()
        assert (few - many).square().mean().sqrt() < 0.3 * apart
        assert (many.mean(0) - data.mean(0)).abs().max() < 0.15 * data.std()
        assert (many.var(0).mean() / data.var(0).mean() - 1).abs() < 0.15

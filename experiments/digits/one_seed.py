"""`python -m experiments.digits.one_seed`: one seed at many numbers of steps, by five samplers, for the docs.

docs/figures/one_seed.png has the images of a few seeds; docs/figures/overview.png those of one of them above the error
curves of the demo's report. About a minute on one core: nothing is trained.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

from sdesig.digits import load_student, load_teacher, path_space
from sdesig.evaluation import (
    CONVERGED,
    Comparison,
    Row,
    Sampler,
    SampleStore,
    draw_line,
    generator_sampler,
    image_figure,
    legend_below,
    log_axes,
    look_of,
    panels,
    read_json,
    save_figure,
    training_free,
)
from sdesig.images import peers

ROOT = Path(__file__).parents[2]
FIGURES = ROOT / "docs" / "figures"
DEMO = ROOT / "experiments" / "digits" / "demo" / "report.json"
STEPS = (4, 6, 8, 10, 16, 32, 64, 100)
SEEDS = (0, 3, 11)
"""Of the first 16: 11 is one that SDE-DPM-Solver++(2M) sends to other digits in few steps; 0 and 3 are usual."""
MAIN = 11
TWO, AVERAGE, FLOW, UNIPC, OURS = "sde-dpm++2m", "path-average-reference", "ddim", "unipc", "depth-2"
CURVES = ("euler", TWO, AVERAGE, "path-average-grid", OURS)


def main(arguments: Sequence[str] | None = None) -> None:
    """See --help."""
    parser = argparse.ArgumentParser(prog="python -m experiments.digits.one_seed", description=__doc__)
    parser.add_argument("--out", type=Path, default=FIGURES)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    store = SampleStore(Comparison(load_teacher(), path_space()), samplers(), range(max(SEEDS) + 1))
    store.make(progress=False)
    save_figure(seeds_figure(store), options.out / "one_seed.png")
    save_figure(overview_figure(store, read_json(DEMO)["rows"]), options.out / "overview.png", dpi=100)


def samplers() -> list[Sampler]:
    """Five samplers with one evaluation of the network a step."""
    space, teacher = path_space(), load_teacher()
    free = training_free(space, STEPS)
    return [
        replace(free[TWO], label="SDE-DPM-Solver++(2M)"),
        free[AVERAGE],
        generator_sampler(OURS, load_student("depth-2"), STEPS, "Sig-DEG, depth 2"),
        free[FLOW],
        peers(teacher, space, STEPS)[UNIPC],
    ]


def images_of(store: SampleStore, key: str, seed: int) -> Tensor:
    """Of one seed, at every number of steps and converged (blank for a probability flow), (len(STEPS) + 1, 8, 8)."""
    row = store.seeds.index(seed)
    images = [store.samples(key, steps)[row] for steps in STEPS]
    images.append(store.converged[row] if store.samplers[key].follows else torch.ones_like(images[0]))
    return torch.stack(images).reshape(-1, 8, 8)


def seeds_figure(store: SampleStore) -> Figure:
    """One line per seed and sampler, one column per number of steps."""
    lines = [
        (f"seed {seed}: {sampler.label}", images_of(store, key, seed))
        for seed in SEEDS
        for key, sampler in store.samplers.items()
        if key != CONVERGED
    ]
    title = "one seed in different numbers of steps = evaluations of the network"
    return image_figure(lines, title=title, columns=(*STEPS, "converged"))


def overview_figure(store: SampleStore, rows: Sequence[Row]) -> Figure:
    """The images of one seed on the left, pathwise errors of many on the right."""
    figure, (left, right) = panels(1, 2, figsize=(12, 4.1), width_ratios=(1.45, 1.0))
    keys = [key for key in store.samplers if key != CONVERGED]
    images = torch.stack([images_of(store, key, MAIN) for key in keys]).clamp(-1, 1)
    framed = torch.nn.functional.pad(images, (1, 1, 1, 1), value=1.0)
    left.imshow(framed.permute(0, 2, 1, 3).flatten(2).flatten(0, 1).numpy(), cmap="gray", vmin=-1, vmax=1)
    names = [store.samplers[key].label.replace(", ", ",\n") for key in keys]
    left.set_yticks([10 * k + 4.5 for k in range(len(keys))], names, fontsize="small")
    left.set_xticks([10 * k + 4.5 for k in range(len(STEPS) + 1)], [*map(str, STEPS), "converged"], fontsize="small")
    left.tick_params(length=0)
    left.spines[:].set_visible(False)
    left.set_xlabel("evaluations of the network")
    left.set_title(f"seed {MAIN} (not typical: 2M changes its digit)", fontsize="medium")
    for rank, key in enumerate(CURVES):
        own = [row for row in rows if row["key"] == key and row["nfe"] <= 32]
        low, value, high = ([row[f"pathwise_rmse{end}"] for row in own] for end in ("_low", "", "_high"))
        bars = [[v - w for v, w in zip(value, low, strict=True)], [w - v for v, w in zip(value, high, strict=True)]]
        nfe = [row["nfe"] for row in own]
        draw_line(
            right, nfe, value, look_of(key), bars=bars, rank=rank, label=own[0]["method"].replace(" (shipped)", "")
        )
    log_axes(
        right,
        nfe,
        xlabel="evaluations of the network",
        ylabel="RMSE per pixel",
        title=f"distance to the converged image, seeds 0 to {rows[0]['n'] - 1}",
    )
    legend_below(right)
    return figure


if __name__ == "__main__":
    main()

"""`python -m experiments.same_image`: for how many seeds an image stays the same when the evaluations are doubled.

The model is exact: its data are some images and nothing else, so that every sample ends at one of them, and "the same
image" has a meaning. It predicts noise on a DDPM's table, and is sampled by schedulers of diffusers. Latents and
generators are those of the seed at every number of evaluations. Probability flows (DDIM, UniPC) have no path: their
image is a function of the latents, and of the steps as far as they have not converged. DPM-Solver-SDE has one path for
the batch, at all numbers of steps, and two evaluations a step but for the last; SDE-DPM-Solver++(2M) draws new noise in
every step, so that it has another path at every number of steps.

Without --data the images are those of the digits that are shipped. Needs the extra for images.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import diffusers
import torch
from torch import Tensor

from sdesig.digits import load_digits
from sdesig.evaluation import markdown_table, replacing, write_json
from sdesig.images import PathAverageScheduler, load_images
from sdesig.sde import TabulatedVP

RESULTS = Path(__file__).parent / "results"
EVALUATIONS = (5, 10, 20, 40, 80, 160)
TABLE: Any = getattr(diffusers.DDPMScheduler(), "config")  # noqa: B009
SCHEDULERS: dict[str, Callable[[], Any]] = {
    "path-average": lambda: PathAverageScheduler.from_config(TABLE),
    "SDE-DPM-Solver++(2M)": lambda: diffusers.DPMSolverMultistepScheduler.from_config(
        TABLE, algorithm_type="sde-dpmsolver++"
    ),
    "DPM-Solver-SDE": lambda: diffusers.DPMSolverSDEScheduler.from_config(TABLE, noise_sampler_seed=0),
    "DDIM": lambda: diffusers.DDIMScheduler.from_config(TABLE, clip_sample=False),
    "UniPC": lambda: diffusers.UniPCMultistepScheduler.from_config(TABLE),
}


def noise_of(images: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """E[eps | x_t] of the law of equal weight on each of the images, (k, *event), for x of shape (n, *event)."""
    diffusion = TabulatedVP(diffusers.DDPMScheduler.from_config(TABLE).alphas_cumprod)
    points = images.double().flatten(1)

    def predict(x: Tensor, timestep: Tensor) -> Tensor:
        t = torch.as_tensor(timestep, dtype=torch.float64)
        alpha, sigma = diffusion.alpha(t), diffusion.sigma(t)
        state = x.double().flatten(1)
        weights = torch.softmax(-torch.cdist(state, alpha * points).square() / (2 * sigma**2), 1)
        return ((state - alpha * (weights @ points)) / sigma).reshape(x.shape).to(x)

    return predict


def nearest(images: Tensor, predict: Callable[[Tensor, Tensor], Tensor], name: str, nfe: int, seeds: int) -> Tensor:
    """Which of the images the sample of each seed ends at, (seeds,), by a scheduler in so many evaluations at most."""
    scheduler, generators = SCHEDULERS[name](), [torch.Generator().manual_seed(seed) for seed in range(seeds)]
    scheduler.set_timesteps((nfe + 1) // 2 if name == "DPM-Solver-SDE" else nfe)
    x = torch.stack([torch.randn(images.shape[1:], generator=generator) for generator in generators])
    x = x * scheduler.init_noise_sigma
    options = {"generator": generators} if name in ("path-average", "SDE-DPM-Solver++(2M)") else {}
    for timestep in scheduler.timesteps:
        noise = predict(scheduler.scale_model_input(x, timestep), timestep)
        x = scheduler.step(noise, timestep, x, **options).prev_sample
    return torch.cdist(x.double().flatten(1), images.double().flatten(1)).argmin(1)


def kept_rows(images: Tensor, seeds: int) -> list[dict[str, Any]]:
    """For every scheduler and doubling of evaluations the share of seeds that keep their image, with standard error."""
    predict, rows = noise_of(images), []
    for name in SCHEDULERS:
        ends = [nearest(images, predict, name, nfe, seeds) for nfe in EVALUATIONS]
        for (nfe, before), (doubled, after) in pairwise(zip(EVALUATIONS, ends, strict=True)):
            share = (before == after).double().mean().item()
            row = {"scheduler": name, "nfe": nfe, "doubled": doubled, "same": share, "seeds": seeds}
            rows.append({**row, "standard_error": math.sqrt(share * (1 - share) / seeds)})
    return rows


def publish(rows: Sequence[dict[str, Any]], what: str, name: str, out: Path) -> None:
    """Write NAME.json and NAME.md."""
    lines = [
        {**row, "share": f"{100 * row['same']:.1f} +- {100 * row['standard_error']:.1f} %"} for row in map(dict, rows)
    ]
    columns = {"scheduler": "scheduler", "nfe": "evaluations", "doubled": "and", "share": "seeds with the same image"}
    text = (
        "# Seeds that keep their image when the evaluations are doubled\n\n"
        "Written by `python -m experiments.same_image`: an exact denoiser "
        f"of {what}, {rows[0]['seeds']} seeds; +- is one standard error.\n\n"
        f"{markdown_table(lines, columns)}"
    )
    write_json(out / f"{name}.json", list(rows))
    with replacing(out / f"{name}.md") as file:
        file.write_text(text)
    print(text)


def main(arguments: Sequence[str] | None = None) -> None:
    """See --help."""
    parser = argparse.ArgumentParser(prog="python -m experiments.same_image", description=__doc__)
    parser.add_argument("--data", help="images, such as mnist.npz:x_train; default the shipped digits")
    parser.add_argument("--name", default="digits", help="name of the data, and of the files that are written")
    parser.add_argument("--images", type=int, default=200, help="number of images, the first ones of the data")
    parser.add_argument("--seeds", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    if options.data is None:
        images = load_digits()[0][: options.images].reshape(-1, 1, 8, 8)
    else:
        images = load_images(options.data).floats(slice(options.images))
    what = f"{len(images)} images of {options.name}, {' x '.join(map(str, images.shape[1:]))}"
    publish(kept_rows(images, options.seeds), what, options.name, options.out)


if __name__ == "__main__":
    main()

"""The model card (README.md) of a `SigDEGPipeline`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from huggingface_hub import ModelCard

from sdesig._install import install_command
from sdesig.evaluation import CHANGED, Measured, Row, markdown_table
from sdesig.sampling.path_space import EVEN
from sdesig.sigdeg import SigDEG

OURS = "<!-- Written by SigDEGPipeline. Without this line the text below is kept as it is. -->"
KEYS = {"method", "steps", "nfe", "n", "pathwise_rmse", "pathwise_rmse_se", "seconds_per_1000"}
METADATA = {"library_name": "sdesig", "pipeline_tag": "unconditional-image-generation"}
TAGS = ("diffusers", "sig-deg", "distillation")


def check_results(results: Sequence[Row] | None) -> list[Row]:
    """The rows of a report.json, none for None; raise ValueError for anything else."""
    if results is None:
        return []
    if isinstance(results, (str, Mapping)) or not isinstance(results, Sequence):
        raise ValueError(f"results must be a list of rows, as in a report.json; got {type(results).__name__}")
    for k, row in enumerate(results):
        missing = sorted(KEYS - row.keys()) if isinstance(row, Mapping) else sorted(KEYS)
        if missing:
            raise ValueError(f"results[{k}] must be a row of a report.json; it lacks {', '.join(missing)}")
        try:
            list(_measured(row))
        except TypeError as error:
            raise ValueError(f"results[{k}]['measured'] must be a list of measured numbers: {error}") from None
    return [dict(row) for row in results]


def model_card(
    generator: SigDEG, results: Sequence[Row], *, name: str, latent: bool, previous: ModelCard | None = None
) -> str:
    """The text of the card.

    Args:
        generator: the generator that it describes.
        results: rows that `check_results` returned.
        name: what `SigDEGPipeline.from_pretrained` is to be given.
        latent: whether a vae decodes the samples.
        previous: a card that is there already. Its metadata, such as the license, stay, and its text, unless that is
            empty or was written by this function.
    """
    card = previous or ModelCard(f"---\ntags: []\n---\n{OURS}")
    for key, value in METADATA.items():
        card.data[key] = card.data.get(key, value)
    card.data["tags"] = list(dict.fromkeys([*card.data.get("tags", []), *TAGS]))
    text = str(card.text)
    if not text.strip() or OURS in text:
        card.text = f"\n{OURS}\n\n{_text(generator, results, name, latent, licensed='license' in card.data.to_dict())}"
    return str(card)


def _text(generator: SigDEG, results: Sequence[Row], name: str, latent: bool, licensed: bool) -> str:
    parameters = sum(p.numel() for p in generator.parameters())
    grid = "even in log-SNR" if generator.space.grid == EVEN else "chosen for this model"
    space = "latents, which the autoencoder in vae/ decodes" if latent else "images in [-1, 1]"
    lines = [
        f"# {name}\n",
        "A diffusion model distilled by Sig-DEG ([arXiv 2508.16939](https://arxiv.org/abs/2508.16939)): a generator "
        "that takes few coarse steps of the reverse-time SDE, and sees the exact partial signature of the Brownian "
        "path on each of them. The seed of an image is the seed of its path: a seed gives the same image in every "
        f"batch, and follows one path at any number of steps, up to {generator.space.cells}. How near that brings "
        "the images is the pathwise error.\n",
        f"Install: `{install_command('images')}`\n\n"
        "```python\nfrom sdesig.images import SigDEGPipeline\n\n"
        f'pipe = SigDEGPipeline.from_pretrained("{name}")\n'
        "images = pipe(seeds=range(4), num_inference_steps=10).images\n```\n",
        f"- Cell: {generator.kind}, partial signatures of depth {generator.depth}; {parameters:,} parameters; one "
        "evaluation of the network per step.",
        f"- Samples: {' x '.join(map(str, generator.space.event))}, {space}.",
        f"- SNR from {generator.space.snr[0]:.4g} to {generator.space.snr[1]:.4g}; steps {grid}; paths of depth "
        f"{generator.space.depth}.",
        "- Weights are safetensors; no code comes with them, and none is run from this folder.\n",
    ]
    if not licensed:
        lines.append("No license is stated. Who publishes this adds `license:` to the metadata above.\n")
    if results:
        lines += ["## Measured\n", *_measurements(results, "latents" if latent else "images in [-1, 1]")]
    return "\n".join(lines)


def _measurements(results: Sequence[Row], space: str) -> Iterator[str]:
    """Lines with the table of results, and with what its numbers depend on."""
    flat = [{**row, **{number.metric: _value(number) for number in _measured(row)}} for row in results]
    optional = {"seeds_apart": "seeds apart", "seeds_changed": "seeds changed", "floor": "floor"}
    columns = {"method": "method", "steps": "steps", "nfe": "evaluations", "pathwise_rmse": "pathwise RMSE"}
    columns |= {key: title for key, title in optional.items() if any(row.get(key) is not None for row in flat)}
    columns |= {number.metric: number.metric for row in results for number in _measured(row)}
    law = "To the law: to the teacher's own, which converged paths of other seeds stand for. "
    law = f"{CHANGED} {law}" if "seeds_changed" in columns else ""
    yield markdown_table(flat, {**columns, "seconds_per_1000": "seconds per 1000", "n": "samples"})
    yield (
        f"Pathwise RMSE: per coordinate of {space}, to the converged path of the same seed, with an interval of 95 % "
        "or +- one standard error. Seeds apart: the share farther from it than half the standard deviation of the "
        f"samples. {law}Floor: what no method can know that sees the path only through these partial signatures. "
        "Evaluations: of the network per image. Seconds: of the machine that measured them. Numbers for other samples, "
        "features or data are not comparable.\n"
    )
    groups: dict[tuple[object, ...], dict[str, Any]] = {}
    for row in results:
        for number in _measured(row):
            depends = {
                "number": number.metric,
                "features": f"{number.extractor}, sha256 {number.extractor_digest[:12]}",
                "compared with": f"sha256 {number.reference_digest[:12]}",
                "samples": number.n,
                "seeds": "{} to {}".format(*number.seeds),
                "moving average": {True: "yes", False: "no", None: None}[number.ema],
                "levels": number.quantization,
            }
            group = groups.setdefault(tuple(depends.values()), {**depends, "of": {}})
            group["of"][row["method"]] = None
    if groups:
        rows = [{**group, "of": ", ".join(group["of"])} for group in groups.values()]
        yield "What these numbers depend on:\n"
        yield markdown_table(rows, {key: key for key in rows[0]})


def _measured(row: Row) -> Iterator[Measured]:
    return (Measured(**number) for number in row.get("measured") or [])


def _value(number: Measured) -> str:
    error = "" if number.standard_error is None else f" +- {number.standard_error:.2g}"
    return f"{number.value:.4g}{error}"

"""Files of a `SigDEGPipeline`, in a folder and on the hub."""

from __future__ import annotations

import json
import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from huggingface_hub import HfApi, ModelCard

from sdesig._checks import check_choice
from sdesig._files import read_json, reading, replacing, write_json
from sdesig.evaluation import Row
from sdesig.images.latent import KINDS
from sdesig.images.model_card import model_card
from sdesig.images.teachers import find_model, load_model
from sdesig.sigdeg import SigDEG

GENERATOR, VAE, REPORT, CARD, INDEX = "generator", "vae", "report.json", "README.md", "model_index.json"


class Parts(NamedTuple):
    """What a pipeline is made of.

    Attributes:
        generator: the generator of images or latents.
        vae: the decoder of latents, or None.
        results: rows of a report.json, or none.
        card: the text of the model card that the pipeline was read with.
    """

    generator: SigDEG
    vae: Any
    results: list[Row]
    card: str | None = None


def write_pipeline(folder: Path, parts: Parts, index: str, *, name: str) -> None:
    """Write all files, each of them whole; without model_index.json, which is last, the folder is not read.

    name: what the pipeline is loaded by, for the model card.
    """
    previous = _card_in(folder) or parts.card
    card = model_card(
        parts.generator,
        parts.results,
        name=name,
        latent=parts.vae is not None,
        previous=None if previous is None else ModelCard(previous),
    )
    (folder / INDEX).unlink(missing_ok=True)
    parts.generator.save(folder / GENERATOR)
    if parts.vae is not None:
        (folder / VAE).mkdir(exist_ok=True)
        with TemporaryDirectory(dir=folder) as temporary:
            parts.vae.save_pretrained(temporary)
            for file in Path(temporary).iterdir():
                os.replace(file, folder / VAE / file.name)
    if parts.results:
        write_json(folder / REPORT, parts.results)
    else:
        (folder / REPORT).unlink(missing_ok=True)
    for file, text in ((folder / CARD, card), (folder / INDEX, index)):
        with replacing(file) as written:
            written.write_text(text)


def upload_pipeline(
    parts: Parts, index: str, repo_id: str, *, private: bool | None, token: str | bool | None, **commit: Any
) -> str:
    """Upload all files to a repository of the hub, made if missing; return the address."""
    api = HfApi(token=token)
    repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    if api.file_exists(repo_id, CARD):
        parts = parts._replace(card=Path(api.hf_hub_download(repo_id, CARD)).read_text(encoding="utf-8"))
    with TemporaryDirectory() as folder:
        write_pipeline(Path(folder), parts, index, name=repo_id)
        return str(api.upload_folder(repo_id=repo_id, folder_path=folder, **commit))


def read_pipeline(source: str | Path, kind: str, *, subfolder: str | None = None, **hub: Any) -> Parts:
    """The parts that a pipeline class of this name wrote to a folder or uploaded to the hub; hub as in `find_model`.

    subfolder: where the pipeline lies in the folder or repository.

    Raises:
        FileNotFoundError, TypeError, ValueError: files that are missing or broken, such as pickles, another kind.
    """
    folder = find_model(source, **hub) / (subfolder or "")
    if not (folder / INDEX).is_file():
        raise FileNotFoundError(f"{folder} has no {INDEX}")
    index = read_json(folder / INDEX)
    check_choice(f"_class_name in {folder / INDEX}", index.get("_class_name"), (kind,))
    generator = SigDEG.load(folder / GENERATOR)
    with reading(folder / INDEX):
        has_vae = any(index.get(VAE) or ())
    vae = load_model(folder / VAE, KINDS).eval() if has_vae else None
    report = folder / REPORT
    with reading(report, "is not JSON of rows"):
        rows = json.loads(report.read_text(encoding="utf-8")) if report.is_file() else []
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise TypeError("it must hold a JSON list of objects")
    return Parts(generator, vae, rows, _card_in(folder))


def _card_in(folder: Path) -> str | None:
    return (folder / CARD).read_text(encoding="utf-8", errors="replace") if (folder / CARD).is_file() else None

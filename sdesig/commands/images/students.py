"""What `distill` and `cache` share: a teacher, its data, and a generator that is not trained yet."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from sdesig import _processes as processes
from sdesig._checks import check_integer
from sdesig._random import seeded
from sdesig.brownian.path import MOST_DEPTH
from sdesig.commands.images.flags import ImageFlags, SettingFlags, TeacherFlags, described_images
from sdesig.sampling import PathSpace
from sdesig.sigdeg import SigDEG
from sdesig.sigdeg.network_denoiser import ModelDenoiser
from sdesig.sigdeg.training_data import Data


class Prepared(NamedTuple):
    """Attributes as their types say; `recorded` identifies them in options.json."""

    teacher: ModelDenoiser
    data: Data | None
    student: SigDEG
    recorded: dict[str, Any]


@processes.main_first()
def prepare(
    teacher: TeacherFlags,
    images: ImageFlags,
    setting: SettingFlags,
    folder: Path,
    device: torch.device,
    *,
    depth: int,
    cell: str = "solver",
    rank: int | None = None,
    seed: int = 0,
) -> Prepared:
    """All on the device. Reference and grid are kept in a folder for the next time, and for the other processes.

    Raises:
        FileNotFoundError, ImportError, TypeError, ValueError: a teacher or data that cannot be read, or do not fit.
    """
    check_integer("depth", depth, 1, MOST_DEPTH)
    if rank is not None:
        check_integer("rank", rank, 1)
    loaded = teacher.load(device)
    denoiser, identity, _ = loaded
    snr = setting.range(denoiser)
    pictures = images.load()
    data = teacher.training_data(pictures, denoiser, device)
    decoder = teacher.decoder_identity()
    reference, described = setting.fitted(loaded, pictures, data, snr, folder, decoder)
    space = PathSpace(denoiser.event, snr, reference, depth=max(4, depth)).to(device)
    space = replace(space, grid=setting.step_grid(loaded, space, folder))
    with seeded(seed):
        student = SigDEG.from_teacher(
            denoiser,
            space,
            depth=depth,
            cell=cell,
            rank=rank,
        ).to(device)
    recorded = {
        "teacher": identity,
        "data": described_images(pictures),
        "reference": described,
        "snr": space.snr,
        "grid": space.grid.quantiles,
        **({} if decoder is None else {"decoder": decoder}),
        **({} if rank is None else {"rank": rank}),
    }
    return Prepared(denoiser, data, student, recorded)

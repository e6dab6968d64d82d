"""`sdesig images evaluate`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import torch
import tyro

from sdesig import _processes as processes
from sdesig._checks import check_choice, check_integer
from sdesig._files import check_output, read_json, write_json
from sdesig.commands.images.flags import ImageFlags, SettingFlags, TeacherFlags, described_images
from sdesig.commands.inputs import Identity, Teacher, load_models
from sdesig.commands.options import COUNT, MachineFlags, announce, check_sizes, naming_memory
from sdesig.evaluation import (
    FEWEST,
    TRAINING_FREE,
    Comparison,
    ImageSet,
    Sampler,
    evaluate,
    generator_sampler,
    load_extractor,
    load_perceptual,
    training_free,
)
from sdesig.images.peers import PEERS, peers
from sdesig.sampling import PathSpace
from sdesig.sigdeg import SigDEG

BATCH_NUMBERS = 2**18


@dataclass(frozen=True)
class EvaluateImages:
    """Generators and other samplers of one teacher on the same seeds: errors, distances and times, as a report."""

    teacher: tyro.conf.OmitArgPrefixes[TeacherFlags]
    images: tyro.conf.OmitArgPrefixes[ImageFlags] = field(default_factory=ImageFlags)
    models: tuple[Path, ...] = ()
    """Folders with generators of this teacher, such as runs/image-distill/student, all on the same paths, which they
    set; where there are none, --reference, --snr and --grid do."""
    setting: tyro.conf.OmitArgPrefixes[SettingFlags] = field(default_factory=SettingFlags)
    samplers: tuple[str, ...] = ("euler", "ddim", "sde-dpm++2m", "path-average-reference", "path-average-grid", "unipc")
    """Other samplers: those, path-average, dpmsolver++(2M) and dpmsolver++(3M); none: give the option without a value.
    unipc and dpmsolver++ are deterministic ones of diffusers."""
    steps: tuple[int, ...] = (5, 10, 20)
    """Numbers of steps."""
    teacher_steps: int = 1000
    """Of a row for the teacher's own ancestral sampler, Euler's scheme; 0: no such row."""
    n: Annotated[int, COUNT] = 2000
    """Number of samples."""
    first_seed: int = 0
    """The seeds are this one and the next ones."""
    extractor: tuple[str, ...] = ("pixels",)
    """TorchScript files of feature extractors, uint8 (n, channels, h, w) to (n, k), or inception, or pixels."""
    perceptual: tuple[str, ...] = ()
    """TorchScript files of perceptual distances, (a, b) in [-1, 1] to (n,), or lpips."""
    floor_groups: int = 0
    """Pairs of paths for the information floor of every generator; 0: no floors."""
    batch: int | None = None
    """Seeds at once; default so many that their paths take half a gigabyte."""
    out: Path = Path("runs/image-evaluate")
    """Folder of the report and the samples; what is there already is not drawn again."""
    machine: tyro.conf.OmitArgPrefixes[MachineFlags] = field(default_factory=MachineFlags)
    config: Path | None = None
    """JSON file with options by these names; flags override it."""

    def run(self) -> None:
        """Run the command."""
        check_output("out", self.out, folder=True)
        if (self.out / "options.json").exists() and "samplers" not in read_json(self.out / "options.json"):
            raise ValueError(f"out must not have another kind of run: {self.out} has one; give another folder")
        fewest = FEWEST if self.extractor else 2
        check_sizes(self.steps, self.n, self.first_seed, self.floor_groups, fewest=fewest)
        for name in self.samplers:
            check_choice("samplers", name, (*TRAINING_FREE, *PEERS))
        check_integer("teacher_steps", self.teacher_steps, 0)
        device = self.machine.use()
        extractors = [load_extractor(name, device) for name in self.extractor]
        perceptual = [load_perceptual(name, device) for name in self.perceptual]
        images = self.images.required()
        teacher = self.teacher.load(device)
        models, identities = load_models(self.models, teacher.denoiser.event, device)
        decoder = self.teacher.autoencoder(device)
        batch = max(1, min(250, BATCH_NUMBERS // math.prod(teacher.denoiser.event)))
        batch = batch if self.batch is None else check_integer("batch", self.batch, 1)
        with naming_memory(batch=batch):
            with processes.main_first():
                comparison = self._comparison(teacher, images, models, device, batch)
            options = {
                "teacher": teacher.identity,
                "data": described_images(images),
                "models": identities,
                "snr": comparison.space.snr,
                "samplers": self.samplers,
                "steps": self.steps,
                "teacher_steps": self.teacher_steps,
                "n": self.n,
                "first_seed": self.first_seed,
                "extractors": {extractor.name: extractor.digest for extractor in extractors},
                "perceptual": {distance.name: distance.digest for distance in perceptual},
                "floor_groups": self.floor_groups,
                "batch": comparison.batch,
                "decoder": self.teacher.decoder_identity(),
                "device": str(device),
                "threads": self.machine.threads,
            }
            announce("images evaluate", {**options, "out": self.out})
            evaluate(
                comparison,
                list(self._samplers(comparison, models, identities)),
                images,
                self.out,
                seeds=range(self.first_seed, self.first_seed + self.n),
                extractors=extractors,
                perceptual=perceptual,
                floor_groups=self.floor_groups,
                ema=teacher.ema,
                decode=None if decoder is None else decoder.decode,
                recorded={"teacher": teacher.identity, **({} if decoder is None else {"decoder": options["decoder"]})},
                cache=self.images.cache,
            )
        processes.on_main(lambda: write_json(self.out / "options.json", options))
        print(f"{(self.out / 'report.md').read_text()}-> {self.out / 'report.md'}")

    def _comparison(
        self, teacher: Teacher, images: ImageSet, models: Sequence[SigDEG], device: torch.device, batch: int
    ) -> Comparison:
        """On the paths of the generators, or where there are none on those of the flags."""
        if models:
            given = [name for name in ("snr", "reference_file") if getattr(self.setting, name) is not None]
            if given:
                raise ValueError(f"{given[0]} must not be given with models, which set it")
            return Comparison(teacher.denoiser, models[0].space, batch=batch)
        snr = self.setting.range(teacher.denoiser)
        data = self.teacher.training_data(images, teacher.denoiser, device)
        reference, _ = self.setting.fitted(teacher, images, data, snr, self.out, self.teacher.decoder_identity())
        space = PathSpace(teacher.denoiser.event, snr, reference.to(device))
        grid = self.setting.step_grid(teacher, space, self.out)
        return Comparison(teacher.denoiser, replace(space, grid=grid), batch=batch)

    def _samplers(
        self, comparison: Comparison, models: Sequence[SigDEG], identities: Sequence[Identity]
    ) -> Iterator[Sampler]:
        known = training_free(comparison.space, self.steps) | peers(comparison.teacher, comparison.space, self.steps)
        own = (self.teacher_steps,) if self.teacher_steps and self.teacher_steps not in self.steps else ()
        if "euler" in self.samplers or own:
            yield replace(known["euler"], steps=(*self.steps, *own) if "euler" in self.samplers else own)
        for name in dict.fromkeys(self.samplers):
            if name in known and name != "euler":
                yield known[name]
        for folder, model, identity in zip(self.models, models, identities, strict=True):
            yield generator_sampler(str(folder), model, self.steps, digest=identity["sha256"], ema=True)

"""`sdesig evaluate`."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch
import tyro

from sdesig import _processes as processes
from sdesig._checks import check_choice, check_integer
from sdesig._files import check_output, read_json, write_json
from sdesig._records import without_names
from sdesig.commands.inputs import Identity, LoadedTeacher, Source, load_models, load_teacher
from sdesig.commands.options import COUNT, MOST_SAMPLES, MachineFlags, SettingFlags, announce, naming_memory
from sdesig.evaluation import (
    CALIBRATED,
    FEW_STEP,
    FEWEST,
    TRAINING_FREE,
    Comparison,
    ImageSet,
    Sampler,
    calibrated_sampler,
    evaluate,
    few_step_peers,
    generator_sampler,
    load_extractor,
    load_perceptual,
    training_free,
)
from sdesig.images.diffusers_unet import import_diffusers
from sdesig.images.peers import PEERS, peers_on_both_grids
from sdesig.sampling import PathSpace
from sdesig.sigdeg import SigDEG

BATCH_NUMBERS = 2**18
OF_IMAGES = ("euler", "ddim", "sde-dpm++2m", "path-average", "path-average-reference", "path-average-grid", "unipc")
OF_OTHERS = tuple(dict.fromkeys((*FEW_STEP, *PEERS)))
"""Keys of samplers that may have "-karras" behind them."""
OWN_NOISE = {key for key, (_, scheme, _) in FEW_STEP.items() if getattr(scheme, "own_noise", False)}
CAN_BE_CALIBRATED = tuple(key for key in dict.fromkeys((*TRAINING_FREE, *FEW_STEP)) if key not in OWN_NOISE)
KEYS = tuple(
    dict.fromkeys(
        (
            *(*TRAINING_FREE, *OF_OTHERS, *(f"{key}-karras" for key in OF_OTHERS)),
            *(key + CALIBRATED for key in CAN_BE_CALIBRATED),
        )
    )
)


@dataclass(frozen=True)
class Evaluate:
    """Compare generators and other samplers of a teacher on the same seeds, in a report. A stopped run goes on."""

    FOR_IMAGES: ClassVar[Mapping[str, Any]] = {
        "samplers": OF_IMAGES,
        "steps": (5, 10, 20),
        "teacher_steps": 1000,
        "extractor": ("pixels",),
        "grid": "chosen",
    }
    models: tyro.conf.Positional[tuple[str, ...]] = ()
    """Folders with generators of this teacher, such as runs/distill/student, or shipped ones, such as digits/depth-2,
    all on the same paths, which they set; where there are none, --reference, --snr and --grid do."""
    setting: SettingFlags = field(default_factory=lambda: SettingFlags(grid="even"))
    samplers: tuple[str, ...] = tuple(TRAINING_FREE)
    """Other samplers, by keys; the documentation has them all. None without a value."""
    steps: tuple[int, ...] = (4, 8, 16, 32)
    """Numbers of coarse steps."""
    teacher_steps: int = 0
    """Fine steps of the teacher over the whole range of SNR, for a row of Euler's scheme in as many; 0: no such row."""
    n: Annotated[int, COUNT] = 2000
    """Number of samples. Under torchrun only --count is known."""
    first_seed: int = 0
    """First one of the seeds; the others follow it."""
    law: int = 0
    """Seeds, after those of the samples, whose converged paths stand for the teacher's own law; 0: none."""
    extractor: tuple[str, ...] = ()
    """Features of images: pixels, inception, or TorchScript files, of uint8 (n, channels, h, w) to (n, k)."""
    perceptual: tuple[str, ...] = ()
    """Perceptual distances of images: lpips, or TorchScript files, of (a, b) in [-1, 1] to (n,)."""
    floor_groups: int = 0
    """Pairs of paths for the information floor of every generator; 0: no floors."""
    batch: int | None = None
    """Number of samples at once; default so many that their paths take half a gigabyte."""
    out: Path = Path("runs/evaluate")
    """Folder of the report and the samples; what is there already is not drawn again."""
    machine: MachineFlags = field(default_factory=MachineFlags)

    def run(self) -> None:
        """Run the command."""
        check_output("out", self.out, folder=True)
        file = self.out / "options.json"
        if file.exists() and "models" not in read_json(file):
            raise ValueError(f"out must not have another kind of run: {self.out} has one; give another folder")
        self._check_sizes()
        device, flags = self.machine.use(), self.setting
        extractors = [load_extractor(name, device) for name in self.extractor]
        perceptual = [load_perceptual(name, device) for name in self.perceptual]
        source = flags.source(flags.teacher)
        if source is None:
            raise ValueError("data must be given: a folder or .tar of images, a .npz file, or hf:NAME[:SPLIT]")
        teacher = load_teacher(flags.teacher, device, flags.label)
        models, identities = load_models(self.models, teacher.denoiser.event, device)
        autoencoder, decoder = flags.autoencoder(device)
        recorded = {"teacher": teacher.identity, **decoder}
        batch = max(1, min(250, BATCH_NUMBERS // math.prod(teacher.denoiser.event)))
        batch = batch if self.batch is None else check_integer("batch", self.batch, 1)
        if PEERS.keys() & {name.removesuffix("-karras") for name in self.samplers}:
            import_diffusers()  # or its error, which names the extra, would come after the converged paths
        with naming_memory(batch=batch):
            space, reference = self._space(models, teacher, source, device)
            comparison = Comparison(teacher.denoiser, space, batch=batch)
            options = {
                **recorded,
                "data": source.described,
                "models": identities,
                "reference": reference,
                "snr": space.snr,
                **{
                    name: getattr(self, name)
                    for name in ("samplers", "steps", "teacher_steps", "n", "first_seed", "law")
                },
                "extractors": {extractor.name: extractor.digest for extractor in extractors},
                "perceptual": {distance.name: distance.digest for distance in perceptual},
                "floor_groups": self.floor_groups,
                "batch": batch,
                **self.machine.described(device),
            }
            announce("evaluate", {**options, "out": self.out})
            evaluate(
                comparison,
                list(self._samplers(comparison, models, identities, recorded)),
                source.values if isinstance(source.values, ImageSet) else source.values.to(device),
                self.out,
                seeds=range(self.first_seed, self.first_seed + self.n),
                law=range(self.first_seed + self.n, self.first_seed + self.n + self.law) if self.law else None,
                extractors=extractors,
                perceptual=perceptual,
                floor_groups=self.floor_groups,
                ema=teacher.ema,
                decode=None if autoencoder is None else autoencoder.decode,
                recorded=recorded,
                cache=flags.image_cache,
            )
        processes.on_main(lambda: write_json(file, options))
        print(f"{(self.out / 'report.md').read_text()}-> {self.out / 'report.md'}")

    def _check_sizes(self) -> None:
        """Raise TypeError or ValueError for sizes and names that no evaluation can have."""
        if not self.steps:
            raise ValueError("steps must be one number or more; got none")
        for count in self.steps:
            check_integer("steps", count, 1)
            if not self.models:
                check_integer("steps", count, 1, PathSpace.cells)
        check_integer("n", self.n, FEWEST if self.extractor else 2, MOST_SAMPLES)
        if check_integer("law", self.law, 0):
            check_integer("law", self.law, FEWEST if self.extractor else 2, MOST_SAMPLES)
        check_integer("first_seed", self.first_seed, 0, 2**63 - self.n - self.law)
        if check_integer("floor_groups", self.floor_groups, 0) == 1:
            raise ValueError("floor_groups must be 0 or >= 2; got 1")
        for name in self.samplers:
            check_choice("samplers", name, KEYS)
        if not (check_integer("teacher_steps", self.teacher_steps, 0) or self.samplers or self.models):
            raise ValueError("models must name a generator without samplers")

    def _space(
        self, models: Sequence[SigDEG], teacher: LoadedTeacher, source: Source, device: torch.device
    ) -> tuple[PathSpace, Any]:
        """The space of the generators, or where there are none that of the flags; and what its reference is then."""
        if not models:
            with processes.main_first():
                made = self.setting.around(teacher, source, device, self.out)
            return made.space, made.recorded["reference"]
        for name in ("reference", "snr"):
            if (value := getattr(self.setting, name)) is not None:
                raise ValueError(f"{name} must not be given with models, which set it; got {value}")
        return models[0].space, None

    def _samplers(
        self,
        comparison: Comparison,
        models: Sequence[SigDEG],
        identities: Sequence[Identity],
        recorded: Mapping[str, Any],
    ) -> Iterator[Sampler]:
        space, teacher = comparison.space, comparison.teacher
        known = few_step_peers(space, self.steps) | training_free(space, self.steps)
        known |= peers_on_both_grids(teacher, space, self.steps)
        own = (self.teacher_steps,) if self.teacher_steps and self.teacher_steps not in self.steps else ()
        if "euler" in self.samplers or own:
            yield replace(known["euler"], steps=(*self.steps, *own) if "euler" in self.samplers else own)
        for name in dict.fromkeys(self.samplers):
            if name.endswith(CALIBRATED) and (sampler := known.get(name.removesuffix(CALIBRATED))) is not None:
                of = [recorded, replace(space, grid=sampler.grid).identity, sorted(self.steps)]
                digest = hashlib.sha256(json.dumps(without_names(of), sort_keys=True).encode()).hexdigest()[:8]
                file = self.out / "calibrations" / f"{name}-{digest}.safetensors"
                with processes.main_first():
                    calibrated = calibrated_sampler(sampler, teacher, space, file=file)
                yield calibrated
            elif name in known and name != "euler":
                yield known[name]
        for name, model, identity in zip(self.models, models, identities, strict=True):
            yield generator_sampler(name, model, self.steps, digest=identity["sha256"], ema=True)

"""Sig-DEG: a generator that takes coarse steps and sees the partial signature of the Brownian path on each of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sdesig._checks import check_choice, check_instance, check_integer
from sdesig._evaluating import evaluating
from sdesig._files import FileError, read_tensors, reading
from sdesig._modules import CONFIG, WEIGHTS, load_config, load_state, make_within, save_module
from sdesig.brownian.path import MOST_DEPTH
from sdesig.sampling.calibration import Calibrated
from sdesig.sampling.canonical import CanonicalSDE, SNRDenoiser, check_snr_denoiser
from sdesig.sampling.gaussian_reference import GaussianReference
from sdesig.sampling.path_space import PathSpace, StepGrid, chosen_seeds, in_todays_words
from sdesig.sigdeg.cells import CONDITIONS, Cell, CorrectedDenoiser, PlainCell, SolverCell, Student, StudentDenoiser
from sdesig.sigdeg.network_denoiser import DENOISERS, ModelDenoiser, NetworkDenoiser, make_denoiser
from sdesig.sigdeg.networks import NETWORKS, Network, make_network, network_for
from sdesig.sigdeg.samples import Samples
from sdesig.solvers.driver import Callback, chunks, run_steps

CELLS = {"solver": SolverCell, "plain": PlainCell}
CONFIG_KEYS = {
    *("type", "cell", "corrects_a_denoiser", "network", "denoiser", "rank", "depth", "sigma_data", "correction"),
    *("event", "snr", "cells", "path_depth", "grid", "slack", "mean", "variance", "basis"),
}
OLDER_LACK = {"denoiser", "rank", "correction"}
"""Keys that files of older versions lack."""


class SigDEG(nn.Module):
    """A recurrent generator on a coarse grid of the SNR clock, fed exact partial signatures (arXiv 2508.16939).

    `from_teacher` makes one that is not trained yet: with the solver cell, from depth 2 on, it is the path-average
    scheme already.

    Args:
        cell: `SolverCell` or `PlainCell`.
        space: the space of the paths of its samples; kept in float32. Its depth is at least the cell's.

    Raises:
        TypeError, ValueError: a cell or a space of another type, a space that is less deep than the cell.
    """

    def __init__(self, cell: Cell, space: PathSpace) -> None:
        super().__init__()
        if not isinstance(cell, Cell):
            raise TypeError(f"cell must be a SolverCell or a PlainCell; got {cell!r}")
        self.cell = cell
        check_integer("space.depth", check_instance("space", space, PathSpace).depth, cell.depth)
        reference = space.reference
        self.register_buffer("mean", reference.mean.float().clone())
        self.register_buffer("variance", reference.variance.float().clone())
        for k, matrix in enumerate(reference.basis):
            self.register_buffer(f"basis_{k}", matrix.float().clone())
        self._space, self._proved = space, True
        self._take_reference()

    @classmethod
    def from_teacher(
        cls,
        teacher: SNRDenoiser,
        space: PathSpace,
        *,
        depth: int,
        cell: str = "solver",
        network: Network | None = None,
        rank: int | None = None,
        sigma_data: float | None = None,
    ) -> SigDEG:
        """A generator to be distilled from a teacher.

        With the solver cell, a `ModelDenoiser` becomes the student itself, a copy with more inputs; any other denoiser
        is left as it is, and a network learns to correct it. A plain cell starts as Euler's scheme with a copy of a
        `ModelDenoiser`; of other teachers it takes nothing, and starts with D = E[x_0 | y] of N(0, sigma_data^2).
        Weights of its own are drawn from torch's global generator, which starts differently in every process: call
        torch.manual_seed for the same student again.

        Args:
            teacher: D(y, snr), an `SNRDenoiser`.
            space: the space of the paths of its samples.
            depth: number of Legendre coefficients that the generator sees, 1 to the depth of the space.
            cell: "solver" or "plain".
            network: the network of a plain cell, or the correction of a teacher that is not a `ModelDenoiser`. It has 2
                conditions and depth + 1 extra inputs, depth + 2 as a correction. Default: an MLP for vectors, a UNet
                for images.
            rank: rank of the changes of a teacher's weights, see `StudentDenoiser`; for large teachers.
            sigma_data: standard deviation of the data; default the teacher's own, or from the reference.

        Raises:
            TypeError, ValueError: a teacher that is no D(y, snr), or of another event; arguments out of range.
        """
        check_snr_denoiser("teacher", teacher)
        check_choice("cell", cell, tuple(CELLS))
        check_integer("depth", depth, 1, MOST_DEPTH)
        event = check_instance("space", space, PathSpace).event
        if sigma_data is None:
            sigma_data = getattr(teacher, "sigma_data", None) or space.reference.variance.mean().sqrt().item()
            if sigma_data == 0:
                raise ValueError("sigma_data must be given, for neither the teacher nor the reference tells it")
        if isinstance(teacher, ModelDenoiser) and teacher.event != event:
            raise ValueError(f"space must have the teacher's event, {teacher.event}; it has {event}")
        solver = cell == "solver"
        own = teacher if network is None and isinstance(teacher, ModelDenoiser) else None
        if rank is not None and (own is None or not solver):
            raise ValueError(f"rank must be None unless a solver cell changes a teacher's own weights; got {rank}")
        denoiser: Student
        if own is not None:
            denoiser = StudentDenoiser(own, depth + 1, rank) if solver else own.widened(CONDITIONS, depth + 1)
        else:
            extra = depth + (2 if solver else 1)
            if network is None:
                network = network_for(event, conditions=CONDITIONS, extra=extra)
                network.zero_last()
            check_instance("network", network, Network)
            if (network.event, network.conditions, network.extra) != (event, CONDITIONS, extra):
                raise ValueError(
                    f"network must be for events {event}, with {CONDITIONS} conditions and {extra} extra inputs; it is "
                    f"for {network.event}, with {network.conditions} and {network.extra}"
                )
            denoiser = (
                CorrectedDenoiser(teacher, network, sigma_data) if solver else NetworkDenoiser(network, sigma_data)
            )
        return cls(CELLS[cell](denoiser, depth, sigma_data), space)

    def __repr__(self) -> str:
        numbers = sum(parameter.numel() for parameter in self.parameters())
        return f"SigDEG(cell={self.kind!r}, depth={self.depth}, {numbers} parameters, {self.space})"

    @property
    def kind(self) -> str:
        """The name of the cell's class in `CELLS`."""
        return "plain" if isinstance(self.cell, PlainCell) else "solver"

    @property
    def depth(self) -> int:
        """Number of Legendre coefficients that the cell sees."""
        return self.cell.depth

    @property
    def space(self) -> PathSpace:
        """The space of the paths of its samples, on the device of the generator.

        After other weights were loaded, the basis is checked to be orthogonal at the first access.
        """
        if not self._proved:
            found = self._space.reference
            self._space = replace(self._space, reference=GaussianReference(found.mean, found.variance, found.basis))
            self._proved = True
        return self._space

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> SigDEG:
        """Move the generator or change its dtype, as `Module` does, and the reference with it."""
        super()._apply(fn, recurse)
        self._take_reference()
        return self

    def _load_from_state_dict(self, *arguments: Any) -> None:
        """Load a state, as `Module` does, and take over the reference that is in it."""
        before = [value.clone() for value in self._space.reference.tensors]
        super()._load_from_state_dict(*arguments)
        self._take_reference()
        self._proved &= all(map(torch.equal, before, self._space.reference.tensors))

    def _take_reference(self) -> None:
        """The space of the reference that the buffers hold now."""
        reference, variance = self._space.reference, self.get_buffer("variance")
        basis = [self.get_buffer(f"basis_{k}") for k in range(len(reference.basis))]
        variance = variance.double().cpu() if variance.ndim == 0 else variance
        self._space = replace(self._space, reference=reference.with_tensors(self.get_buffer("mean"), variance, basis))

    @property
    def sde(self) -> CanonicalSDE:
        """The reverse diffusion in the reference's variables, whose denoiser the cell stands for."""
        return CanonicalSDE(SNRDenoiser(_ask_the_cell), reference=self.space.reference)

    @torch.no_grad()
    def sample(
        self,
        seeds: int | Sequence[int],
        steps: int,
        *,
        batch: int = 1024,
        grid: StepGrid | None = None,
        calibration: Calibrated | None = None,
        callback: Callback | None = None,
    ) -> Samples:
        """Samples in `steps` evaluations each.

        A sample is a function of its seed, to rounding: not of the batch, nor of the other seeds. All modules are in
        evaluation mode meanwhile.

        Args:
            seeds: one per sample, or a number n of samples, for the seeds 0, ..., n - 1.
            steps: number of steps, 1 to the cells of the space.
            batch: number of samples that are made at once.
            grid: the grid of the steps; default this generator's own.
            calibration: of this generator's cell, for these steps: `calibrate(teacher, generator.space, [steps],
                generator.cell)`.
            callback: see `solve`; called for every batch anew.

        Raises:
            TypeError, ValueError: bad seeds, steps or batch; a calibration of another scheme or of other steps.
            FloatingPointError: a state that is not finite.
        """
        if calibration is not None and check_instance("calibration", calibration, Calibrated).scheme is not self.cell:
            raise ValueError(f"calibration must be of this generator's cell; it is of {calibration.scheme!r}")
        scheme = self.cell if calibration is None else calibration
        space = self.space if grid is None else replace(self.space, grid=check_instance("grid", grid, StepGrid))
        check_integer("batch", batch, 1)
        sde, times, chosen = self.sde, space.times(steps), chosen_seeds(seeds)
        parts = []
        for part in chosen.split(batch):
            path = space.paths(part.tolist())
            with evaluating(self):
                u, signatures = space.start(path, steps), chunks(path, times)
                last = run_steps(scheme, sde, "additive", u, times, signatures, callback, save="last")
            parts.append(Samples(sde.noisy_data(last, times[-1]), steps, path.identity))
        return Samples.join(parts)

    def save(self, folder: str | Path, *, half: bool = False) -> None:
        """Write config.json and weights.safetensors. A denoiser that the generator corrects is not saved.

        Args:
            half: keep the float32 weights of the cell as float16, half as large; loaded they are float32 again.
        """
        denoiser: Any = self.cell.denoiser
        space = self.space
        student = isinstance(denoiser, StudentDenoiser)
        own = denoiser.base if student else denoiser
        config = {
            "type": "sig_deg",
            "cell": self.kind,
            "corrects_a_denoiser": isinstance(denoiser, CorrectedDenoiser),
            "network": NETWORKS.config(denoiser.network),
            "denoiser": DENOISERS.config(own) if isinstance(own, ModelDenoiser) else None,
            "rank": denoiser.rank if student else None,
            "depth": self.depth,
            "sigma_data": self.cell.sigma_data,
            "correction": self.cell.coefficients.correction if isinstance(self.cell, SolverCell) else None,
            "event": list(space.event),
            "snr": list(space.snr),
            "cells": space.cells,
            "path_depth": space.depth,
            "grid": space.grid.to_json(),
            "slack": space.slack,
            "mean": list(self.get_buffer("mean").shape),
            "variance": list(self.get_buffer("variance").shape),
            "basis": [len(matrix) for matrix in space.reference.basis],
        }
        save_module(Path(folder), config, self, half="cell." if half else None)

    @classmethod
    def load(
        cls, folder: str | Path, *, denoiser: SNRDenoiser | None = None, device: torch.device | str = "cpu"
    ) -> SigDEG:
        """Read what `save` wrote, in evaluation mode.

        Args:
            denoiser: the denoiser that the generator corrects, if it was distilled from one that is not a
                `ModelDenoiser`.

        Raises:
            TypeError: a denoiser that is no D(y, snr).
            FileNotFoundError, ValueError: a missing file, a config.json of something else, weights with unknown names
                or wrong shapes, files that are not safetensors; a denoiser missing or one too many.
        """
        if denoiser is not None:
            check_snr_denoiser("denoiser", denoiser)
        folder = Path(folder)
        config, tensors = in_todays_words(load_config(folder, "sig_deg")), read_tensors(folder / WEIGHTS)
        with reading(folder / CONFIG, "is not one of a generator"):
            _check_config(folder, config, tensors)
            basis = [tensors[f"basis_{k}"] for k in range(len(config["basis"]))]
            space = PathSpace(
                config["event"],
                config["snr"],
                GaussianReference(tensors["mean"], tensors["variance"], basis),
                cells=config["cells"],
                depth=config["path_depth"],
                grid=StepGrid.from_json(config["grid"]),
                slack=config["slack"],
            )
            if config["corrects_a_denoiser"] != (denoiser is not None):
                needed = "be given, one that is not saved with it" if denoiser is None else "not be given"
                raise FileError(f"{folder / CONFIG}: denoiser must {needed}, by corrects_a_denoiser")
            kind, depth, sigma_data = config["cell"], config["depth"], config["sigma_data"]
            network = make_within(tensors, make_network, config["network"])
            if config["event"] != list(network.event):
                raise ValueError(f"event must be its network's, {list(network.event)}; got {config['event']}")
            student: Student
            if denoiser is not None:
                student = CorrectedDenoiser(denoiser, network, sigma_data)
            else:
                described = config.get("denoiser", {"kind": "edm", "sigma_data": sigma_data})  # older ones have none
                wide = make_denoiser(network, described)
                student = StudentDenoiser(wide, depth + 1, config.get("rank")) if kind == "solver" else wide
            own = {"correction": config.get("correction", 0.0)} if kind == "solver" else {}
            made = cls(CELLS[kind](student, depth, sigma_data, **own), space)
        load_state(folder, made, tensors)
        return made.to(device).eval()


def _check_config(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Raise TypeError or ValueError, which names the key, unless a generator may have a configuration and tensors."""
    if unknown := sorted(config.keys() - CONFIG_KEYS):
        raise ValueError(f"its keys must be {sorted(CONFIG_KEYS)}; it also has {unknown}")
    if missing := sorted(CONFIG_KEYS - OLDER_LACK - config.keys()):
        raise ValueError(f"it must have the keys {missing}")
    check_choice("cell", config["cell"], tuple(CELLS))
    check_choice("corrects_a_denoiser", config["corrects_a_denoiser"], (False, True))
    check_integer("depth", config["depth"], 1, MOST_DEPTH)
    check_integer("path_depth", config["path_depth"], 1, MOST_DEPTH)
    for name in ("event", "snr", "mean", "variance", "basis"):
        if not isinstance(config[name], list):
            raise TypeError(f"{name} must be a list; got {config[name]!r}")
    wanted = {"mean": config["mean"], "variance": config["variance"]}
    wanted |= {f"basis_{k}": [size, size] for k, size in enumerate(config["basis"])}
    for name, shape in wanted.items():
        if name not in tensors:
            raise FileError(f"{folder / WEIGHTS} does not fit its config.json; missing: {name}")
        if shape != (found := list(tensors[name].shape)):
            raise ValueError(f"{name} must be as in {WEIGHTS}, of shape {found}; got {shape}")


def _ask_the_cell(y: Tensor, snr: Tensor) -> Tensor:
    raise TypeError("the SDE of a generator has no denoiser; solve it with the generator's cell")

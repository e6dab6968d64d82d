"""Sig-DEG: a generator that takes coarse steps and sees the partial signature of the Brownian path on each of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sdesig._checks import check_choice, check_instance, check_integer, check_real, check_shape
from sdesig._evaluating import evaluating
from sdesig._files import FileError, read_tensors, reading
from sdesig._modules import CONFIG, WEIGHTS, load_config, load_state, make_within, save_module
from sdesig.brownian import BrownianPath
from sdesig.brownian.path import MOST_DEPTH
from sdesig.brownian.philox import MOST_SEEDS, check_seeds
from sdesig.sampling.canonical_sde import CanonicalSDE
from sdesig.sampling.gaussian_reference import GaussianReference
from sdesig.sampling.snr_denoiser import SNRDenoiser, check_snr_denoiser
from sdesig.sampling.step_grid import StepGrid
from sdesig.sigdeg.cells import CONDITIONS, Cell, CorrectedDenoiser, PlainCell, SolverCell, Student, StudentDenoiser
from sdesig.sigdeg.network_denoiser import ModelDenoiser, NetworkDenoiser, denoiser_config, make_denoiser
from sdesig.sigdeg.networks import Network, make_network, network_config, network_for
from sdesig.sigdeg.samples import Samples
from sdesig.solvers import solve
from sdesig.solvers.driver import Callback

CELLS = {"solver": SolverCell, "plain": PlainCell}
CONFIG_KEYS = {
    *(
        "type",
        "cell",
        "corrects_a_denoiser",
        "network",
        "denoiser",
        "rank",
        "depth",
        "sigma_data",
        "event",
        "snr",
        "levels",
    ),
    *("path_depth", "grid", "mean", "variance", "basis"),
}
OLDER_LACK = {"denoiser", "rank"}
"""Keys that older files do not have."""
MOST_RANK = 4096
"""Of a file: beyond it is a damaged one."""


class SigDEG(nn.Module):
    """A recurrent generator on a coarse grid of the SNR clock, fed exact partial signatures (arXiv 2508.16939).

    `from_teacher` makes one that is not trained yet: with the solver cell, from depth 2 on, it is the path-average
    scheme already.

    Args:
        cell: `SolverCell` or `PlainCell`.
        reference: Gaussian reference in whose clock the path runs; its tensors in float32.
        event: shape of a sample.
        snr: first and last SNR, 0 < first < last.
        levels: the paths live on a master grid of 2^levels cells even in log-SNR, the most steps there can be.
        path_depth: depth of the paths, at least the cell's. It is part of their identity: generators of different
            depths make the same images of the same seeds if their paths have one depth. Default: the larger of 4 and
            the cell's.
        grid: where the steps lie.

    Raises:
        TypeError, ValueError: arguments out of range, a reference that does not fit the event.
    """

    def __init__(
        self,
        cell: Cell,
        reference: GaussianReference,
        *,
        event: Sequence[int],
        snr: tuple[float, float],
        levels: int = 10,
        path_depth: int | None = None,
        grid: StepGrid | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(cell, Cell):
            raise TypeError(f"cell must be a SolverCell or a PlainCell; got {cell!r}")
        check_instance("reference", reference, GaussianReference)
        if not isinstance(snr, Sequence) or len(snr) != 2:
            raise TypeError(f"snr must be two numbers, (first, last); got {snr!r}")
        low, high = (check_real(f"snr[{k}]", value, minimum=0.0, strict=True) for k, value in enumerate(snr))
        if low >= high:
            raise ValueError(f"snr must be (first, last) with first < last; got {snr}")
        self.cell = cell
        self.event = tuple(check_integer(f"event[{k}]", size, 1) for k, size in enumerate(check_shape("event", event)))
        self.snr = low, high
        self.levels = check_integer("levels", levels, 0, 30)
        self.path_depth = max(4, cell.depth) if path_depth is None else path_depth
        check_integer("path_depth", self.path_depth, cell.depth)
        self.grid = StepGrid() if grid is None else check_instance("grid", grid, StepGrid)
        self.register_buffer("mean", reference.mean.float().clone())
        self.register_buffer("variance", reference.variance.float().clone())
        self._axes = len(reference.basis)
        for k, matrix in enumerate(reference.basis):
            self.register_buffer(f"basis_{k}", matrix.float().clone())
        self._reference: GaussianReference | None = reference.with_tensors(*self._reference_tensors())
        self._reference.check_event(torch.zeros(1, *self.event, device=reference.mean.device))

    @classmethod
    def from_teacher(
        cls,
        teacher: SNRDenoiser,
        *,
        event: Sequence[int],
        snr: tuple[float, float],
        depth: int,
        reference: GaussianReference,
        cell: str = "solver",
        network: Network | None = None,
        rank: int | None = None,
        sigma_data: float | None = None,
        levels: int = 10,
        path_depth: int | None = None,
        grid: StepGrid | None = None,
    ) -> SigDEG:
        """A generator that is ready to be distilled.

        With the solver cell, a `ModelDenoiser` becomes the student itself, a copy with more inputs; any other denoiser
        is left as it is, and a network learns to correct it. A plain cell starts as Euler's scheme with a copy of a
        `ModelDenoiser`; of other teachers it takes nothing, and starts with D = E[x_0 | y] of N(0, sigma_data^2).
        Weights of its own are drawn from torch's global generator, which starts differently in every process: call
        torch.manual_seed for the same student again.

        Args:
            teacher: D(y, snr), an `SNRDenoiser`.
            depth: of the partial signatures, >= 1.
            cell: "solver" or "plain".
            network: of a plain cell, or that corrects a denoiser that is none of our networks: with 2 conditions and
                depth + 1 extra inputs, to correct depth + 2. Default: an MLP for vectors, a UNet for images.
            rank: of the changes of a teacher's weights, see `StudentDenoiser`; for large teachers.
            sigma_data: standard deviation of the data; default the teacher's own, or from the reference.
            event, snr, reference, levels, path_depth, grid: see the class.

        Raises:
            TypeError, ValueError: a teacher that is no D(y, snr); see the class.
        """
        check_snr_denoiser("teacher", teacher)
        check_choice("cell", cell, tuple(CELLS))
        check_integer("depth", depth, 1, MOST_DEPTH)
        event = check_shape("event", event)
        check_instance("reference", reference, GaussianReference)
        if sigma_data is None:
            sigma_data = getattr(teacher, "sigma_data", None) or reference.variance.mean().sqrt().item()
            if sigma_data == 0:
                raise ValueError("sigma_data must be given, for neither the teacher nor the reference tells it")
        if isinstance(teacher, ModelDenoiser) and teacher.event != event:
            raise ValueError(f"event must be {teacher.event}, the teacher's; got {event}")
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
        made = CELLS[cell](denoiser, depth, sigma_data)
        return cls(made, reference, event=event, snr=snr, levels=levels, path_depth=path_depth, grid=grid)

    @property
    def kind(self) -> str:
        """Of its cell, one of `CELLS`."""
        return "plain" if isinstance(self.cell, PlainCell) else "solver"

    @property
    def depth(self) -> int:
        """Number of Legendre coefficients that the cell sees."""
        return self.cell.depth

    @property
    def reference(self) -> GaussianReference:
        """The Gaussian reference, on the device of the generator (a scalar variance on the CPU).

        The basis of other weights is proved orthogonal when it is first asked for.
        """
        if self._reference is None:
            self._reference = GaussianReference(*self._reference_tensors())
        return self._reference

    def _reference_tensors(self) -> tuple[Tensor, Tensor, list[Tensor]]:
        variance = self.get_buffer("variance")
        basis = [self.get_buffer(f"basis_{k}") for k in range(self._axes)]
        return self.get_buffer("mean"), variance.double().cpu() if variance.ndim == 0 else variance, basis

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> SigDEG:
        """Of `Module`, called to move it or to change its dtype: the reference goes along."""
        super()._apply(fn, recurse)
        if self._reference is not None:
            self._reference = self._reference.with_tensors(*self._reference_tensors())
        return self

    def _load_from_state_dict(self, *arguments: Any) -> None:
        """Of `Module`: the reference may be another one."""
        mean, variance, basis = self._reference_tensors()
        before = [value.clone() for value in (mean, variance, *basis)]
        super()._load_from_state_dict(*arguments)
        mean, variance, basis = self._reference_tensors()
        if self._reference is not None:
            same = all(map(torch.equal, before, (mean, variance, *basis)))
            self._reference = self._reference.with_tensors(mean, variance, basis) if same else None

    @property
    def sde(self) -> CanonicalSDE:
        """The reverse diffusion in the reference's variables, whose denoiser the cell stands for."""
        return CanonicalSDE(SNRDenoiser(_ask_the_cell), reference=self.reference)

    def path(self, seeds: int | Sequence[int]) -> BrownianPath:
        """The paths of seeds, or of the seeds 0, ..., n - 1: float32, (n, *event)."""
        chosen = range(check_integer("seeds", seeds, 1, MOST_SEEDS)) if isinstance(seeds, int) else check_seeds(seeds)
        return BrownianPath(
            *self.snr,
            (len(chosen), *self.event),
            seeds=chosen,
            depth=self.path_depth,
            clock=self.sde.clock,
            levels=self.levels,
            dtype=torch.float32,
            device=self.get_buffer("mean").device,
        )

    @torch.no_grad()
    def sample(
        self,
        seeds: int | Sequence[int],
        steps: int,
        *,
        batch: int = 1024,
        grid: StepGrid | None = None,
        callback: Callback | None = None,
    ) -> Samples:
        """Samples in `steps` evaluations each.

        A sample is a function of its seed, to rounding: not of the batch, nor of the other seeds. All modules are in
        evaluation mode meanwhile.

        Args:
            seeds: one per sample, or a number n of samples, for the seeds 0, ..., n - 1.
            steps: 1 to 2^levels.
            batch: samples that are made at once.
            grid: where the steps lie; default this generator's own.
            callback: see `solve`; called for every batch anew.

        Raises:
            TypeError, ValueError: bad seeds, steps or batch.
            FloatingPointError: a state that is not finite.
        """
        check_integer("steps", steps, 1, 2**self.levels)
        check_integer("batch", batch, 1)
        grid = self.grid if grid is None else check_instance("grid", grid, StepGrid)
        path = self.path(seeds)
        assert path.seeds is not None
        values = []
        for first in range(0, len(path.seeds), batch):
            part = self.path(path.seeds[first : first + batch])
            sde, times = self.sde, grid.times(part, steps)
            start = sde.start(part.initial_noise(), times[0])
            with evaluating(self):
                last = solve(sde, start, times, scheme=self.cell, path=part, callback=callback, save="last")
            values.append(sde.noisy_data(last, times[-1]))
        return Samples(torch.cat(values), steps, path.identity)

    def save(self, folder: str | Path) -> None:
        """Write config.json and weights.safetensors. Of a denoiser that is none of our networks, nothing is saved."""
        denoiser: Any = self.cell.denoiser
        student = isinstance(denoiser, StudentDenoiser)
        own = denoiser.base if student else denoiser
        config = {
            "type": "sig_deg",
            "cell": self.kind,
            "corrects_a_denoiser": isinstance(denoiser, CorrectedDenoiser),
            "network": network_config(denoiser.network),
            "denoiser": denoiser_config(own) if isinstance(own, ModelDenoiser) else None,
            "rank": denoiser.rank if student else None,
            "depth": self.depth,
            "sigma_data": self.cell.sigma_data,
            "event": list(self.event),
            "snr": list(self.snr),
            "levels": self.levels,
            "path_depth": self.path_depth,
            "grid": list(self.grid.quantiles),
            "mean": list(self.get_buffer("mean").shape),
            "variance": list(self.get_buffer("variance").shape),
            "basis": [len(matrix) for matrix in self.reference.basis],
        }
        save_module(Path(folder), config, self)

    @classmethod
    def load(
        cls, folder: str | Path, *, denoiser: SNRDenoiser | None = None, device: torch.device | str = "cpu"
    ) -> SigDEG:
        """Read what `save` wrote, in evaluation mode.

        Args:
            denoiser: the denoiser that the generator corrects, if it was distilled from one that is none of our
                networks.

        Raises:
            TypeError: a denoiser that is no D(y, snr).
            FileNotFoundError, ValueError: a missing file, a config.json of something else, weights with unknown names
                or wrong shapes, files that are not safetensors; a denoiser missing or one too many.
        """
        if denoiser is not None:
            check_snr_denoiser("denoiser", denoiser)
        folder = Path(folder)
        config, tensors = load_config(folder, "sig_deg"), read_tensors(folder / WEIGHTS)
        with reading(folder / CONFIG, "is not one of a generator"):
            _check_config(folder, config, tensors)
            basis = [tensors[f"basis_{k}"] for k in range(len(config["basis"]))]
            reference = GaussianReference(tensors["mean"], tensors["variance"], basis)
            grid = StepGrid(tuple(config["grid"]))
        if config["corrects_a_denoiser"] != (denoiser is not None):
            needed = "must" if config["corrects_a_denoiser"] else "must not"
            raise FileError(f"{folder / CONFIG}: denoiser {needed} be given, by corrects_a_denoiser")
        kind, depth, sigma_data = config["cell"], config["depth"], config["sigma_data"]
        with reading(folder / CONFIG, "is not one of a generator"):
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
            made = cls(
                CELLS[kind](student, depth, sigma_data),
                reference,
                event=config["event"],
                snr=tuple(config["snr"]),
                levels=config["levels"],
                path_depth=config["path_depth"],
                grid=grid,
            )
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
    check_real("sigma_data", config["sigma_data"], minimum=0.0, strict=True)
    if config.get("rank") is not None:
        check_integer("rank", config["rank"], 1, MOST_RANK)
    for name in ("event", "snr", "grid", "mean", "variance", "basis"):
        if not isinstance(config[name], list):
            raise TypeError(f"{name} must be a list; got {config[name]!r}")
    for name in ("snr", "grid"):
        for k, value in enumerate(config[name]):
            check_real(f"{name}[{k}]", value)
    if len(config["snr"]) != 2:
        raise ValueError(f"snr must be (first, last); got {config['snr']}")
    wanted = {"mean": config["mean"], "variance": config["variance"]}
    wanted |= {f"basis_{k}": [size, size] for k, size in enumerate(config["basis"])}
    for name, shape in wanted.items():
        if name not in tensors:
            raise FileError(f"{folder / WEIGHTS} does not fit its config.json; missing: {name}")
        if shape != (found := list(tensors[name].shape)):
            raise ValueError(f"{name} must be as in {WEIGHTS}, of shape {found}; got {shape}")


def _ask_the_cell(y: Tensor, snr: Tensor) -> Tensor:
    raise TypeError("the SDE of a generator has no denoiser; solve it with the generator's cell")

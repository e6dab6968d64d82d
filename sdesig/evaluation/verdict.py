"""What a distillation gained: a student beside what its teacher does without one, on seeds that no training saw."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sdesig._checks import check_instance, check_integer
from sdesig._files import tensor_digest, write_json
from sdesig._intervals import paired_ratio
from sdesig._philox import check_seeds
from sdesig.evaluation.comparison import CONVERGED, Comparison
from sdesig.evaluation.frechet import FeatureStatistics
from sdesig.evaluation.report import Row, markdown_table, pathwise_columns
from sdesig.evaluation.sample_store import SampleStore
from sdesig.evaluation.samplers import Sampler, generator_sampler, training_free
from sdesig.sampling import DPMSolver1, PathAverage, marginal_distance
from sdesig.sampling.canonical import SNRDenoiser
from sdesig.sampling.gaussian_reference import GaussianReference
from sdesig.sigdeg.sig_deg import SigDEG

VERDICT_STEPS = (4, 8, 16)
"""Numbers of steps of a verdict."""
VERDICT_EVALUATIONS = 60_000
"""Evaluations of the network that a verdict takes at most, unless it is given more."""
FEWEST_SEEDS, MOST_SEEDS = 20, 1000
"""Bounds of the number of seeds that is chosen by the evaluations."""
FIRST_SEED = 1_000_000
"""First seed of a verdict: trainings draw from generators of their own, and samples are mostly of the first seeds."""
UNTRAINED, STUDENT = "untrained", "student"
FULL = "Frechet distance"
MARGINAL = "Frechet distance of the marginals"
GROUPS, STUDENTS = 20, 2.09
"""Groups of a jackknife, and the 97.5 % quantile of Student's law for them."""
Distance = Callable[[Tensor, Tensor], float]
_COLUMNS = {
    "steps": "steps",
    "method": "method",
    "pathwise_rmse": "pathwise RMSE",
    "distance": "distance",
    "excess": "beyond the converged path's",
}
_TRUTH_STEPS = 128
_NUMBERS = 2**16
"""Numbers in the samples of a block, after which the progress moves and what was drawn is kept."""


@dataclass(frozen=True)
class Verdict:
    """What `verdict` found.

    Attributes:
        rows: of the converged paths and of every sampler at every number of steps: key, method, steps, nfe; the
            pathwise RMSE with its standard error _se and 95 % interval, _low to _high, as in `report_row`; the distance
            to the converged samples of the other seeds, and its excess over that of the converged samples of the same
            seeds, which is all noise and bias, with a standard error _se.
        sentence: by how much the student beats the others, or that it does not.
        n: number of seeds, and of the others.
        seeds, others: the first and the last of both.
        truth_steps: steps of the converged paths.
        distance: which distance it is, the name of `FULL` or `MARGINAL`.
        evaluations: of the network, for everything.
        left_out: samplers that are missing, and why.
        student: sha256 of the student's weights.
    """

    rows: list[Row]
    sentence: str
    n: int
    seeds: tuple[int, int]
    others: tuple[int, int]
    truth_steps: int
    distance: str
    evaluations: int
    left_out: tuple[str, ...]
    student: str

    @property
    def text(self) -> str:
        """The table with a line on what is in it, what is left out, and the sentence."""
        per = " per coordinate" if self.distance == MARGINAL else ""
        about = (
            f"{self.n} seeds from {self.seeds[0]}. Pathwise RMSE: per coordinate, to the converged path of the seed "
            f"({self.truth_steps} steps), with an interval of 95 %, (?) where too few seeds carry it. Distance: the "
            f"{self.distance}{per} to the converged samples of {self.n} other seeds; that of the converged path is "
            f"what so few seeds leave, and what is beyond it, +- a standard error, is the sampler's. "
            f"{self.evaluations} evaluations of the network."
        )
        missing = [f"Left out: {'; '.join(self.left_out)}."] if self.left_out else []
        return "\n".join([markdown_table(self.rows, _COLUMNS), about, *missing, self.sentence])

    def save(self, file: str | Path) -> None:
        """Write it to a JSON file."""
        write_json(Path(file), vars(self))


def verdict(
    student: SigDEG,
    teacher: SNRDenoiser,
    *,
    steps: Sequence[int] = VERDICT_STEPS,
    seeds: Sequence[int] | None = None,
    others: Sequence[int] | None = None,
    samplers: Sequence[Sampler] = (),
    evaluations: int = VERDICT_EVALUATIONS,
    truth_steps: int | None = None,
    folder: str | Path | None = None,
    left_out: Sequence[str] = (),
    recorded: Mapping[str, Any] | None = None,
    started: Callable[[int, int], object] | None = None,
    progress: bool = True,
) -> Verdict:
    """Compare a student with its teacher's untrained scheme and other samplers, on the same seeds and paths.

    Compared are the untrained scheme, which is a solver cell's start from depth 2 on (path-average with the student's
    reference, on its grid) and Euler's scheme for a plain cell, which is then compared with path-average too; the
    student; SDE-DPM-Solver++(2M) on the even grid; and the `samplers`.

    Measured are the pathwise errors to the converged path of the seed, and a distance in distribution to the teacher's
    converged samples of the other seeds: `FeatureStatistics.distance` of vectors, where there are more than four times
    as many seeds as coordinates, else `marginal_distance` in the basis of the reference. Both compare with the teacher,
    not with data.

    Args:
        student: in its space the seeds have their paths; put into evaluation mode meanwhile.
        teacher: D(y, snr), on the device of the student.
        steps: numbers of steps.
        seeds, others: one per sample, as many of both, no seed twice; default as many as the evaluations allow, 20 to
            1000, from `FIRST_SEED` on.
        samplers: further ones at these numbers of steps, such as `peers(...)["unipc"]` of `sdesig.images.peers`.
        evaluations: of the network, a bound for the default seeds.
        truth_steps: steps of the converged paths; default 128, or eight times the most steps if that is more.
        folder: where samples are kept, block by block, so that a verdict that was stopped goes on; None to keep none.
        left_out: what is to be said of samplers that are missing.
        recorded: what else identifies the teacher in the folder, JSON-serializable.
        started: called with the number of seeds and of evaluations before anything is drawn.
        progress: whether to show progress bars.

    Raises:
        TypeError, ValueError: bad arguments, more steps than the space allows, seeds among the others.
        FloatingPointError: samples that are not finite.
    """
    check_instance("student", student, SigDEG)
    chosen = tuple(dict.fromkeys(check_integer("steps", count, 1) for count in steps))
    if not chosen:
        raise ValueError("steps must be one number or more; got none")
    space, digest = student.space, tensor_digest(student.state_dict().values())
    if truth_steps is None:
        truth_steps = max(_TRUTH_STEPS, 8 * max(chosen))
    known = training_free(space, chosen)
    compared = [
        _untrained(student, chosen),
        generator_sampler(STUDENT, student, chosen, "student", digest, ema=True),
        *([known["path-average-reference"]] if student.kind == "plain" else []),
        known["sde-dpm++2m"],
        *samplers,
    ]
    comparison = Comparison(teacher, space, truth_steps, batch=max(1, _NUMBERS // math.prod(space.event)))
    each = 2 * comparison.truth_steps + sum(sampler.evaluations * n for sampler in compared for n in sampler.steps)
    seeds, others = _seeds(seeds, others, check_integer("evaluations", evaluations, 1) // each)
    folder = None if folder is None else Path(folder)
    if started is not None:
        started(len(seeds), each * len(seeds))
    stores = []
    for name, own, numbers in (("others", [], others), ("seeds", compared, seeds)):
        stores.append(
            SampleStore(comparison, own, numbers, None if folder is None else folder / name, recorded=recorded)
        )
        stores[-1].make(progress=progress, name=f"verdict, {name}")
    converged, store = stores[0].converged, stores[1]
    name, distance = _distances(len(seeds), space.reference.to("cpu"), space.event)
    laws = _Laws(store, converged, distance)
    rows = [_row(store, sampler, count, laws) for sampler, count in store.pairs]
    rows = [rows[0], *sorted(rows[1:], key=lambda row: chosen.index(row["steps"]))]
    return Verdict(
        rows,
        _sentence(store, rows[1:], chosen, laws),
        len(seeds),
        (seeds[0], seeds[-1]),
        (others[0], others[-1]),
        comparison.truth_steps,
        name,
        each * len(seeds),
        tuple(left_out),
        digest,
    )


def affordable(training: int) -> int:
    """Evaluations of the network for the verdict on a training that took so many.

    They are 2 % of the training's; where that is less than `VERDICT_EVALUATIONS`, as many as these, but no more than
    the training took.
    """
    return max(training // 50, min(VERDICT_EVALUATIONS, training))


def _untrained(student: SigDEG, steps: Sequence[int]) -> Sampler:
    """The scheme that a student is without training, on its grid."""
    scheme, name = (DPMSolver1(), "Euler") if student.kind == "plain" else (PathAverage(), "path-average")
    as_student = generator_sampler(UNTRAINED, student, steps, f"untrained: {name}")
    return replace(as_student, scheme=scheme, depth=None)


def _seeds(seeds: Sequence[int] | None, others: Sequence[int] | None, n: int) -> tuple[Sequence[int], Sequence[int]]:
    """The seeds and the others, of which n are the default."""
    if seeds is None:
        seeds = range(FIRST_SEED, FIRST_SEED + max(FEWEST_SEEDS, min(MOST_SEEDS, n)))
    first = max(check_seeds(seeds).tolist()) + 1
    others = range(first, first + len(seeds)) if others is None else others
    check_integer("number of seeds", len(seeds), 2)
    if len(others) != len(seeds):
        raise ValueError(f"others must be as many as the seeds, {len(seeds)}; got {len(others)}")
    both = [*check_seeds(seeds).tolist(), *check_seeds(others).tolist()]
    if len({*both}) < len(both):
        raise ValueError("seeds and others must be different seeds, no seed twice")
    return seeds, others


def _distances(n: int, reference: GaussianReference, event: Sequence[int]) -> tuple[str, Distance]:
    """The name of the distance of n samples to the converged ones, and the function (samples, converged) -> number."""
    if len(event) == 1 and n > 4 * event[0]:
        return FULL, lambda samples, converged: FeatureStatistics.of(converged).distance(FeatureStatistics.of(samples))
    return MARGINAL, lambda samples, converged: marginal_distance(samples, converged, reference)[0]


class _Laws:
    """Distances of the samplers to the converged samples of the other seeds, and their differences.

    Args:
        store: the samples.
        converged: those of the other seeds, as many.
        distance: of both.
    """

    def __init__(self, store: SampleStore, converged: Tensor, distance: Distance) -> None:
        converged = converged.cpu()
        group = torch.arange(len(converged)) % GROUPS
        kept = [group >= 0, *(group != k for k in range(min(GROUPS, len(group))))]  # the first is all
        self._found = {
            (sampler.key, steps): torch.tensor(
                [distance(samples[rows], converged[rows]) for rows in kept], dtype=torch.float64
            )
            for sampler, steps in store.pairs
            for samples in [store.samples(sampler.key, steps).cpu()]
        }

    def of(self, key: str, steps: int) -> float:
        """The distance."""
        return self._found[key, steps][0].item()

    def apart(self, one: tuple[str, int], other: tuple[str, int]) -> tuple[float, float]:
        """The distance of one, less that of the other, and its standard error.

        It is that of a jackknife: one of 20 groups at a time is left out of the samples of both, which are of the same
        seeds, and of the converged ones. So it has the noise of all three, and the bias, which they share, is no part
        of the difference.
        """
        difference = self._found[one] - self._found[other]
        parts = difference[1:]
        return difference[0].item(), (len(parts) - 1) / len(parts) ** 0.5 * parts.std(correction=0).item()


def _row(store: SampleStore, sampler: Sampler, steps: int, laws: _Laws) -> Row:
    truth = CONVERGED, store.comparison.truth_steps
    excess, uncertain = (None, None) if sampler.key == CONVERGED else laws.apart((sampler.key, steps), truth)
    return {
        "key": sampler.key,
        "method": sampler.label,
        "steps": steps,
        "nfe": sampler.evaluations * steps,
        **pathwise_columns(store.errors(sampler.key, steps)),
        "distance": laws.of(sampler.key, steps),
        "excess": excess,
        "excess_se": uncertain,
    }


def _sentence(store: SampleStore, rows: Sequence[Row], counts: Sequence[int], laws: _Laws) -> str:
    """By how much the student beats the untrained scheme and the best other, on the path and in distribution.

    On the path it does where the 95 % interval of the paired ratio is below 1, and enough seeds carry both errors for
    intervals of their own; in distribution where the difference is beyond 2.1 standard errors, the quantile of
    Student's law for 20 groups.
    """
    path, beyond, law = (dict[str, list[str]](beats=[], open=[], worse=[]) for _ in range(3))
    for steps in counts:
        others = [row for row in rows if row["steps"] == steps]
        own = others.pop([row["key"] for row in others].index(STUDENT))
        following = [row for row in others if row["pathwise_rmse"] is not None]
        best = min(following, key=lambda row: row["pathwise_rmse"])
        pairs = [(following[0], path), *([] if best is following[0] else [(best, beyond)])]
        for row, found in pairs:
            ratio, low, high = _ratio(store, steps, row["key"])
            few = None in (row["pathwise_rmse_low"], own["pathwise_rmse_low"])
            of = "its" if row["key"] == UNTRAINED else f"{row['method']}'s"
            sure = "too few seeds to tell" if few else f"{low:.2f} - {high:.2f}"
            outcome = "beats" if high < 1 and not few else "worse" if low > 1 and not few else "open"
            found[outcome].append(f"{steps} steps ({ratio:.2f} of {of} error, {sure})")
        best = min(others, key=lambda row: row["distance"])
        apart, error = laws.apart((STUDENT, steps), (best["key"], steps))
        named = "the untrained scheme" if best["key"] == UNTRAINED else best["method"]
        told = f"{steps} steps ({laws.of(STUDENT, steps):.3g}; {named} {best['distance']:.3g})"
        law["beats" if apart < -STUDENTS * error else "worse" if apart > STUDENTS * error else "open"].append(told)
    whom = "the untrained scheme" if any(beyond.values()) else "the untrained scheme, which is the best other,"
    clauses = [_beats(path, whom), *([_beats(beyond, "the best other")] if any(beyond.values()) else [])]
    return f"On the path the student {', and '.join(clauses)}; in distribution it {_beats(law, 'the best other')}."


def _ratio(store: SampleStore, steps: int, key: str) -> tuple[float, float, float]:
    errors, others = store.errors(STUDENT, steps), store.errors(key, steps)
    assert errors is not None
    assert others is not None
    return paired_ratio(errors, others)


def _beats(found: Mapping[str, Sequence[str]], whom: str) -> str:
    """Whether it beats others, and where."""
    verbs = {"beats": f"beats {whom}", "open": f"does not clearly beat {whom}", "worse": f"is behind {whom}"}
    short = {"open": "not clearly", "worse": "is behind"}
    text = ""
    for outcome, steps in found.items():
        if steps:
            told = " and ".join(filter(None, [", ".join(steps[:-1]), steps[-1]]))
            joint = ", but " if text.startswith("beats") and " but " not in text else ", and "
            text = f"{text}{joint}{short[outcome]} in {told}" if text else f"{verbs[outcome]} in {told}"
    return text

"""The one loop over steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor

from sdesig._checks import check_choice, unread
from sdesig._memory import rows_at_once
from sdesig.brownian import BrownianPath
from sdesig.sde.base import SDELike, check_coefficients, check_sde
from sdesig.sde.calculus import to_ito, to_stratonovich
from sdesig.signature.partial_signature import PartialSignature
from sdesig.solvers.base import SCHEMES, Scheme
from sdesig.solvers.torchsde_methods import STRONG_ORDERS, TorchsdeMethod

Callback = Callable[[int, Tensor, Tensor], None]
Save = Literal["all", "last"] | Tensor

_CHECK_EVERY, _HELD = 16, 2**19  # steps between looks for infinities and NaN, and numbers of states held for them
_ASKED_AT_ONCE = 2**19  # numbers of a path of seeds
_ROWS_NAMED = 8  # in the error about them


def solve(
    sde: SDELike,
    y0: Tensor,
    times: Tensor,
    *,
    scheme: str | Scheme,
    path: BrownianPath,
    callback: Callback | None = None,
    save: Save = "all",
) -> Tensor:
    """Solve dY = f dt + g dW from Y(times[0]) = y0 along a Brownian path, one step between any two successive times.

    An SDE in the other calculus than the scheme's is converted exactly (`sdesig.sde.calculus`; for additive noise
    both are the same).

    f and g are called once before the first step (g twice), and must return what the SDE declares: shapes, dtype and
    device, finite values, and noise of its structure (`sdesig.sde.base`).

    Args:
        sde: object with torchsde's interface; see `sdesig.sde.SDE`.
        y0: (batch, dim), any shape with at least two axes for diagonal noise.
        times: all step times, increasing, float64, (steps + 1,); `path.grid` makes them.
        scheme: a `Scheme`, or a name: one of `SCHEMES`, or "torchsde:<method>".
        path: of shape (batch, noise_dim), of y0's shape for diagonal noise, with y0's dtype and device.
        callback: called after every step with the number of steps done, the time and the state.
        save: which states are wanted: "all", "last", or some of the times, increasing, float64, (n,). No others are
            held, but for the 16 last ones.

    Returns:
        (steps + 1, *y0.shape), (*y0.shape,) or (n, *y0.shape), differentiable in y0 and the parameters of the SDE.

    Raises:
        TypeError, ValueError: arguments that do not fit each other, see `Scheme.check`; times that do not increase or
            do not lie on the path, or to be saved that are none of them; an unknown scheme; f or g that return what
            they should not.
        FloatingPointError: a state that is not finite; names the step and the rows.
    """
    chosen = scheme_named(scheme, sde)
    grid, sde, structure = check_arguments(chosen, sde, y0, times, path)
    return run_steps(chosen, sde, structure, y0, grid, chunks(path, grid), callback, save)


def run_steps(
    scheme: Scheme,
    sde: SDELike,
    structure: str,
    y0: Tensor,
    times: Tensor,
    signatures: Iterable[PartialSignature],
    callback: Callback | None = None,
    save: Save = "all",
    *,
    watch: bool = True,
) -> Tensor:
    """The loop of `solve`, on partial signatures that are at hand, and without its checks of arguments.

    Args:
        scheme, sde, y0, times, callback, save: as in `solve`; the SDE in the scheme's calculus, the times on the CPU.
        structure: what the scheme may exploit of the noise, from `Scheme.check`.
        signatures: stacks of steps, one after the other, len(times) - 1 steps in all.
        watch: whether to look for states that are not finite, every 16 steps and at the end, for which a device is
            waited for; else the caller does.

    Returns, raises: as `solve`.
    """
    if callback is not None and not callable(callback):
        raise TypeError(f"callback must be callable as callback(step, t, y); got {callback!r}")
    kept = _kept(save, times)
    ends, saved = times.unbind(), {*kept}
    y, memory, done = y0, scheme.start(sde, ends[0], y0), 0
    states, unseen = [y0] if 0 in saved else [], []
    check_every = max(1, min(_CHECK_EVERY, _HELD // max(1, y0.numel())))
    with unread():
        for stack in signatures:
            for noise in scheme.noise_by_step(structure, stack):
                y, memory = scheme.advance(sde, ends[done], ends[done + 1], y, memory, noise)
                done += 1
                if watch:
                    unseen.append(y)
                if done in saved:
                    states.append(y)
                if len(unseen) == check_every:
                    if not all_finite(y):
                        _raise_not_finite(torch.stack(unseen), range(done + 1 - len(unseen), done + 1), times)
                    unseen.clear()
                if callback is not None:
                    callback(done, times[done], y)
    if unseen and not all_finite(y):
        _raise_not_finite(torch.stack(unseen), range(done + 1 - len(unseen), done + 1), times)
    if save == "last":
        return y
    solution = torch.stack(states)
    if watch and not all_finite(solution):
        _raise_not_finite(solution, kept, times)
    return solution


def scheme_named(scheme: str | Scheme, sde: SDELike) -> Scheme:
    """The scheme of a name: one of `SCHEMES` or "torchsde:<method>"; a scheme is returned as it is."""
    if isinstance(scheme, Scheme):
        return scheme
    names = (*SCHEMES, *(f"torchsde:{name}" for name in STRONG_ORDERS))
    check_choice("scheme", scheme, names)
    if scheme in SCHEMES:
        return SCHEMES[scheme]()
    return TorchsdeMethod(scheme.removeprefix("torchsde:"), getattr(sde, "sde_type", "ito"))


def check_arguments(
    scheme: Scheme, sde: SDELike, y0: Tensor, times: Tensor, path: BrownianPath
) -> tuple[Tensor, SDELike, str]:
    """Return the times on the CPU, the SDE in the scheme's calculus, and its noise structure; raise as `solve`."""
    grid = _check_times(times, path)
    check_sde(sde)
    structure = scheme.check(sde, y0, path)
    if not all_finite(y0):
        raise ValueError("y0 must be finite")
    check_coefficients(sde, grid[0], y0, path.shape[-1], structure)
    if structure != "additive" and sde.sde_type != scheme.sde_type:
        sde = to_ito(sde) if scheme.sde_type == "ito" else to_stratonovich(sde)
    return grid, sde, structure


def all_finite(values: Tensor) -> bool:
    """Whether no value is infinite or NaN. A finite sum proves it in a tenth of the time; another proves nothing."""
    values = values.detach()
    return bool(values.sum().isfinite()) or bool(values.isfinite().all())


def _check_times(times: Tensor, path: BrownianPath) -> Tensor:
    """Return the times on the CPU; raise unless they are float64, increasing and, if `path` is one, on the path."""
    if not isinstance(times, Tensor) or times.dtype != torch.float64 or times.ndim != 1 or len(times) < 2:
        got = f"{times.dtype}, {tuple(times.shape)}" if isinstance(times, Tensor) else repr(times)
        raise TypeError(f"times must be a float64 tensor of shape (steps + 1 >= 2,); got {got}")
    times = times.detach().cpu()
    if isinstance(path, BrownianPath):
        # All of them, before the first step: the loop asks the path in chunks.
        path.check_times(times)
    return times


def _kept(save: Save, times: Tensor) -> Sequence[int]:
    """Numbers of steps after which states are wanted, increasing."""
    if isinstance(save, str):
        check_choice("save", save, ("all", "last"))
        return range(len(times)) if save == "all" else [len(times) - 1]
    if not isinstance(save, Tensor) or save.dtype != torch.float64 or save.ndim != 1 or len(save) == 0:
        got = f"{save.dtype}, {tuple(save.shape)}" if isinstance(save, Tensor) else repr(save)
        raise TypeError(f"save must be 'all', 'last' or a float64 tensor of shape (n >= 1,); got {got}")
    save = save.detach().cpu().contiguous()
    indices = torch.searchsorted(times.contiguous(), save).clamp(max=len(times) - 1)
    strange = times[indices] != save
    if bool(strange.any()):
        raise ValueError(f"save must be some of the times; {save[strange][0].item()} is none of them")
    if not bool((indices.diff() > 0).all()):
        raise ValueError(f"save must be increasing; got {save.tolist()}")
    return [int(index) for index in indices]


def chunks(path: BrownianPath, times: Tensor) -> Iterator[PartialSignature]:
    """The path's partial signatures on all steps, few at once of many numbers."""
    numbers = math.prod(path.shape) * (path.depth + (path.shape[-1] if path.area else 0))
    # Four times: what is drawn, the values, what the scheme takes of them, and a temporary. But a path of seeds goes on
    # from where it was asked last: where a step has many numbers, asking for it alone costs little beside them.
    size = rows_at_once(4 * numbers) if path.seeds is None else max(1, _ASKED_AT_ONCE // max(1, numbers))
    for first in range(0, len(times) - 1, size):
        yield path.partial_signatures(times[first : first + size + 1])


def _raise_not_finite(states: Tensor, numbers: Sequence[int], times: Tensor) -> None:
    """Name the first of the states, after these numbers of steps, that is not finite, and its rows that are not."""
    broken = states.isfinite().flatten(2).all(2).logical_not()
    index = int(broken.any(1).nonzero()[0])
    rows, step = broken[index].nonzero().flatten().tolist(), numbers[index]
    named = ", ".join(map(str, rows[:_ROWS_NAMED])) + (", ..." if len(rows) > _ROWS_NAMED else "")
    h = (times[step] - times[step - 1]).item()
    raise FloatingPointError(
        f"the state is not finite after step {step} of {len(times) - 1}, at t = {times[step].item()} (h = {h:.3g}), in "
        f"{len(rows)} of {broken.shape[1]} rows: {named}; take smaller steps or another scheme"
    )

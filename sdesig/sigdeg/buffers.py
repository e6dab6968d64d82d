"""Buffers of a module, such as a BatchNorm's running statistics, which a loss may change beside its gradients."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from sdesig import _processes as processes


class _Place(NamedTuple):
    """The place of a buffer in a module."""

    module: nn.Module
    name: str

    @property
    def value(self) -> Tensor:
        """The buffer's value."""
        return self.module.get_buffer(self.name)

    def put(self, value: Tensor) -> None:
        """Set the buffer, in place if the shape stays."""
        if self.value.shape == value.shape:
            with torch.no_grad():
                self.value.copy_(value)
        else:
            self.module._buffers[self.name] = value.detach().clone()


def _places(module: nn.Module) -> list[_Place]:
    return [_Place(m, name) for m in module.modules() for name, value in m._buffers.items() if value is not None]


class Buffers:
    """The buffers of a module, and copies of them as they were after an iteration.

    A loss may change them, as BatchNorm does: the changes are undone, or averaged over parts. No device is waited for:
    versions of tensors tell which buffers may have changed; those of normalizations, which do not count versions, are
    always among them.
    """

    def __init__(self, module: nn.Module) -> None:
        self._places = _places(module)
        self._seen = [(place.value, place.value._version) for place in self._places]
        self._kept = [place.value.detach().clone() for place in self._places]
        self._sums: dict[int, Tensor] = {}

    def _changed(self) -> Iterator[tuple[int, _Place]]:
        for k, (place, (seen, version)) in enumerate(zip(self._places, self._seen, strict=True)):
            counts = not isinstance(place.module, nn.modules.batchnorm._NormBase)
            if not (counts and place.value is seen and place.value._version == version):
                yield k, place

    def keep(self) -> None:
        """Keep copies of the buffers as they are now."""
        for k, place in self._changed():
            self._kept[k] = place.value.detach().clone()
            self._seen[k] = place.value, place.value._version
        self._sums.clear()

    def restore(self) -> None:
        """Set the buffers to the copies that are kept."""
        for k, place in self._changed():
            place.put(self._kept[k])
            self._seen[k] = place.value, place.value._version

    def add(self, parts: int) -> None:
        """Add up the changes of one of several parts, over their number, and undo them."""
        for k, place in self._changed():
            change = (place.value.detach().double() - self._kept[k].double()) / parts
            self._sums[k] = self._sums[k] + change if k in self._sums else change
        self.restore()

    def added(self) -> list[bool]:
        """For every buffer, whether changes were added up."""
        return [k in self._sums for k in range(len(self._places))]

    def settle(self, added: Sequence[bool]) -> None:
        """Apply the changes that were added up, those of all processes."""
        for k, (place, kept) in enumerate(zip(self._places, self._kept, strict=True)):
            if added[k]:
                change = self._sums.get(k, torch.zeros_like(kept, dtype=torch.double))
                processes.all_reduce(change)
                value = kept.double() + change
                place.put((value if kept.is_floating_point() else value.round()).to(kept))


def copy_buffers(average: nn.Module, module: nn.Module) -> None:
    """Copy the buffers of a module to its moving average."""
    for mean, place in zip(_places(average), _places(module), strict=True):
        mean.put(place.value)

"""Modules of users, such as teachers, classifiers and feature extractors, in evaluation mode while they are used."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from types import FunctionType, MethodType

from torch import nn

_OF_EVERY_MODULE = frozenset(vars(nn.Module()))


@contextmanager
def evaluating(*things: object) -> Iterator[None]:
    """Within the block, all modules in some objects are in evaluation mode; then each has its own mode again.

    Args:
        things: modules, or functions, methods, partial functions and other callables that hold modules.
    """
    training = [module for module in modules_in(*things) if getattr(module, "training", False)]
    try:
        for module in training:
            module.training = False
        yield
    finally:
        for module in training:
            module.training = True


def modules_in(*things: object) -> list[nn.Module]:
    """All modules in some objects, each once: see `evaluating`."""
    found: dict[int, object] = {}
    waiting = list(things)
    while waiting:
        thing = waiting.pop()
        if id(thing) not in found and (callable(thing) or isinstance(thing, tuple | list)):
            found[id(thing)] = thing
            waiting.extend(_held_by(thing))
    return [thing for thing in found.values() if isinstance(thing, nn.Module)]


def _held_by(thing: object) -> Iterable[object]:
    if isinstance(thing, tuple | list):
        return thing
    if isinstance(thing, nn.Module):
        if type(thing).__module__.startswith("torch.nn."):
            return thing.children()
        own = (value for name, value in vars(thing).items() if name not in _OF_EVERY_MODULE)
        return (*thing.children(), *own)
    if isinstance(thing, partial):
        return (thing.func, *thing.args, *thing.keywords.values())
    if isinstance(thing, MethodType):
        return (thing.__func__, thing.__self__, *getattr(thing.__self__, "__dict__", {}).values())
    if isinstance(thing, FunctionType):
        return _held_by_function(thing)
    return () if isinstance(thing, type) else getattr(thing, "__dict__", {}).values()


def _held_by_function(function: FunctionType) -> Iterator[object]:
    """A function's enclosed values, its defaults, and the modules and functions of its file that it names."""
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    yield from function.__defaults__ or ()
    yield from (function.__kwdefaults__ or {}).values()
    for name in function.__code__.co_names:
        value = function.__globals__.get(name)
        if isinstance(value, nn.Module) or getattr(value, "__globals__", None) is function.__globals__:
            yield value

"""A virtual accelerator: the device "virt", for tests of what is given on a device where there is none.

    with virtual_device():
        with waits() as count:
            run_anything(device="virt")
        assert count.total <= 3

A tensor of it is a true tensor of another device to torch's C++, so that autograd, forward mode, vmap, optimizers and
autocast treat it as they treat one of a GPU; its numbers lie in the CPU's memory, where every operation is done. So
what comes out is what the CPU gives, up to other orders of summation. As on CUDA

- an operation refuses a tensor on the device beside one of one or more axes on the CPU, and `numpy()` is refused;
- numbers, zero-dimensional CPU tensors and CPU indices mix;
- a generator draws for tensors of its own device only (here the numbers of a CPU generator of the same seed, so that
  results can be compared).

`waits` counts where the host would wait for a device: `item()`, `bool()`, `tolist()`, copies to the CPU, and operations
whose shape depends on values; and, apart from them, copies to the device, for which CUDA waits too unless they are told
not to block. Both are counted by the line that asks for them. What it cannot tell: kernels that are missing or slow,
memory, lower precision.

A dispatcher fallback for torch's PrivateUse1 key. It hands an operation the same memory under the name of the CPU (by
DLPack, whose capsules say the device), and what comes back under its own. This is private API of torch, written for
2.13: `unavailable` says what is missing in another one.

Sums over processes go through the CPU's, so gloo serves it in processes that torchrun starts.
"""

from __future__ import annotations

import copy
import ctypes
import functools
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

NAME = "virt"
_CPU, _EXTENSION = 1, 12  # devices in DLPack
_DEVICE_OFFSET = 8  # of DLTensor's device, after its pointer to the data
_INDEXING = ("aten::index", "aten::_unsafe_index", "aten::_index_put_impl_")  # take indices that are on the CPU
_LIBRARIES: list[torch.library.Library] = []  # registrations last as long as these do

# Autocast of the CPU casts the arguments of these; those of stack and cat agree already.
_LOWER_PRECISION = (
    *("conv1d", "conv2d", "conv3d", "linear", "matmul", "mm", "bmm", "addmm", "baddbmm"),
    "scaled_dot_product_attention",
)


@dataclass
class Waits:
    """How often the host has waited, by operation and line: "aten::_local_scalar_dense, sdesig/_checks.py:9 in check".

    Attributes:
        by: waits for values of the device.
        copies: blocking copies to the device.
    """

    by: Counter[str] = field(default_factory=Counter)
    copies: Counter[str] = field(default_factory=Counter)

    @property
    def total(self) -> int:
        return sum(self.by.values())

    @property
    def everything(self) -> Counter[str]:
        """Waits and blocking copies."""
        return self.by + self.copies


_COUNTING: list[Waits] = []
_TORCH = str(Path(torch.__file__).parent)


@contextmanager
def waits() -> Iterator[Waits]:
    """Count while the block runs."""
    count = Waits()
    _COUNTING.append(count)
    try:
        yield count
    finally:
        _COUNTING.remove(count)


@functools.cache
def unavailable() -> str | None:
    """Why there is no virtual device in this version of torch, or None. The first call registers it."""
    try:
        _register()
        one = torch.ones(2, device=NAME)
        if (one + one).cpu().tolist() != [2.0, 2.0]:
            return "torch gives other numbers on it"
    except (ImportError, AttributeError, NotImplementedError, RuntimeError, TypeError) as error:
        return f"torch {torch.__version__} has another private API: {error}".splitlines()[0]
    return None


@contextmanager
def virtual_device() -> Iterator[None]:
    """torch with the device: its generators, and deep copies of its tensors; afterwards torch as it was.

    Raises:
        RuntimeError: torch has another private API.
    """
    reason = unavailable()
    if reason is not None:
        raise RuntimeError(reason)
    generator, deepcopy = torch.Generator, Tensor.__deepcopy__
    torch.Generator, Tensor.__deepcopy__ = _Generator, _deepcopy(deepcopy)  # type: ignore[misc,method-assign]
    try:
        with _OwnGenerators():
            yield
    finally:
        torch.Generator, Tensor.__deepcopy__ = generator, deepcopy  # type: ignore[misc,method-assign]


class VirtualGenerator(torch._C.Generator):
    """A generator of the device."""

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return torch.device(NAME, 0)


class _Kinds(type):
    def __call__(cls, device: torch.device | str = "cpu") -> torch._C.Generator:
        return VirtualGenerator() if torch.device(device).type == NAME else torch._C.Generator(device)

    def __instancecheck__(cls, value: object) -> bool:
        return isinstance(value, torch._C.Generator)


class _Generator(metaclass=_Kinds):
    """What stands for torch.Generator."""


class _OwnGenerators(TorchFunctionMode):
    """Refuse numbers for another device than the generator's."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        made = function(*args, **kwargs)
        generator = kwargs.get("generator")
        if isinstance(generator, torch._C.Generator) and isinstance(made, Tensor):
            wanted, found = made.device.type, generator.device.type
            if wanted != found:
                raise RuntimeError(f"Expected a {wanted!r} device type for generator but found {found!r}")
        return made


def _deepcopy(original: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """torch makes a deep copy from the storage, for which a backend in Python has no memory to give."""

    def deepcopy(self: Tensor, memo: dict[int, Any]) -> Tensor:
        if self.device.type != NAME or id(self) in memo or not self.is_leaf:
            return original(self, memo)
        with torch.no_grad():
            values = self.detach().clone()
        made = values.requires_grad_(self.requires_grad)
        if isinstance(self, torch.nn.Parameter):
            made = torch.nn.Parameter(values.detach(), self.requires_grad)
        memo[id(self)] = made
        made.grad = copy.deepcopy(self.grad, memo)
        return made

    return deepcopy


def _register() -> None:
    from torch.utils import backend_registration

    class Backend(backend_registration._DummyBackendModule):
        def get_amp_supported_dtype(self) -> list[torch.dtype]:
            return [torch.bfloat16, torch.float16]

        def get_rng_state(self, device: object = None) -> Tensor:
            return torch.get_rng_state()

        def set_rng_state(self, state: Tensor, device: object = None) -> None:
            torch.set_rng_state(state)

    backend_registration._setup_privateuseone_for_python_backend(NAME, backend_module=Backend())
    everything = torch.library.Library("_", "IMPL")
    everything.fallback(_operation, "PrivateUse1")
    everything.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    # what torch does for any backend in another way than the CPU's
    networks = torch.library.Library("aten", "IMPL", "PrivateUse1")
    networks.impl("convolution_overrideable", functools.partial(_operation, torch.ops.aten.convolution.default))
    networks.impl("convolution_backward_overrideable", _convolution_backward)
    for name in ("native_layer_norm", "native_group_norm"):
        networks.impl(name, functools.partial(_operation, getattr(torch.ops.aten, name).default))
    processes = torch.library.Library("c10d", "IMPL", "PrivateUse1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch has a kernel there, which asks for a backend of the device's own
        processes.impl("allreduce_", _sum_over_processes)
    autocast = torch.library.Library("aten", "IMPL", "AutocastPrivateUse1")
    for name in _LOWER_PRECISION:
        autocast.impl(name, functools.partial(_lowered, getattr(torch.ops.aten, name).default))
    _LIBRARIES.extend([everything, networks, processes, autocast])


def _operation(op: Any, *args: Any, **kwargs: Any) -> Any:
    """Any operation on tensors of the device, or that makes one."""
    args = _with_numbers(op, args)
    written = _written(op, args, kwargs)
    _check(op, args, kwargs, written)
    if _COUNTING:
        _count(op, args)
    if op is torch.ops.aten._efficientzerotensor.default:
        op = torch.ops.aten.zeros.default  # forward mode's zeros have no memory
    if op is torch.ops.aten._copy_from.default:
        _on_cpu(args[1]).copy_(_on_cpu(args[0]))
        return args[1]
    empty = {id(value): torch.empty(0, dtype=value.dtype) for value in written.values() if value.numel() == 0}
    result = op(*(_on_cpu(value, empty) for value in args), **{k: _on_cpu(v, empty) for k, v in kwargs.items()})
    for value in written.values():
        if id(value) in empty and empty[id(value)].numel():
            value.data = _on_device(empty[id(value)])  # an output that the operation has given its size
    returns = op._schema.returns
    if len(returns) == 1:
        return _returned(result, returns[0], written)
    values = result if isinstance(result, tuple) else ()
    return tuple(_returned(*pair, written) for pair in zip(values, returns, strict=True)) or None


def _convolution_backward(gradient: Tensor, values: Tensor, weight: Tensor, *rest: Any) -> Any:
    op, biases = torch.ops.aten.convolution_backward.default, [gradient.shape[1]]
    return _operation(op, gradient, values, weight, biases, *rest)


def _sum_over_processes(tensors: list[Tensor], *rest: Any) -> Any:
    _, work = torch.ops.c10d.allreduce_.default(_on_cpu(tensors), *rest)
    return tensors, work


def _check(op: Any, args: Any, kwargs: Any, written: Mapping[str, Tensor]) -> None:
    """Refuse what lies on two devices."""
    name = op._schema.name
    if name == "aten::_copy_from" or name.startswith(_INDEXING):
        return
    tensors = _tensors((*args, *kwargs.values()))
    strangers = [tuple(value.shape) for value in tensors if value.device.type == "cpu" and value.ndim]
    mixed = strangers and len(strangers) < len(tensors)
    if mixed or any(value.device.type == "cpu" for value in written.values()):
        raise RuntimeError(f"{name}: expected all tensors on {NAME}; some are on the CPU, of shapes {strangers}")


def _count(op: Any, args: Any) -> None:
    """Note a wait: a copy to the CPU, or what depends on values (of an index, where it is a mask)."""
    name, tags = op._schema.name, op.tags
    if name == "aten::_copy_from":
        waiting = args[0].device.type == NAME and args[1].device.type == "cpu"
        blocking = len(args) < 3 or not args[2]
        if args[0].device.type == "cpu" and args[1].device.type == NAME and blocking:
            where = _asked_from(name)
            for count in _COUNTING:
                count.copies[where] += 1
    elif name == "aten::index":
        waiting = False  # of a mask torch has asked for `nonzero` before
    elif name.startswith(_INDEXING):
        waiting = any(value.dtype in (torch.bool, torch.uint8) for value in _tensors(args[1:2]))
    else:
        waiting = torch.Tag.data_dependent_output in tags or torch.Tag.dynamic_output_shape in tags
    if waiting:
        where = _asked_from(name)
        for count in _COUNTING:
            count.by[where] += 1


def _asked_from(operation: str) -> str:
    """The operation and the innermost line on the stack that is not torch's; none on autograd's own thread."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith((__file__, _TORCH)):
        frame = frame.f_back
    if frame is None:
        return f"{operation}, autograd"
    file = Path(frame.f_code.co_filename)
    name = "/".join(("sdesig", *file.parts[file.parts.index("sdesig") + 1 :])) if "sdesig" in file.parts else file.name
    return f"{operation}, {name}:{frame.f_lineno} in {frame.f_code.co_name}"


def _lowered(op: Any, *args: Any, **kwargs: Any) -> Any:
    """An operation under autocast: in the lower precision, unless of float64."""
    dtype = torch.get_autocast_dtype(NAME)

    def cast(value: Any) -> Any:
        narrow = isinstance(value, Tensor) and value.is_floating_point() and value.dtype != torch.float64
        return value.to(dtype) if narrow else value

    with torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)):
        return op(*map(cast, args), **{name: cast(value) for name, value in kwargs.items()})


@functools.cache
def _outputs(op: Any) -> tuple[tuple[int, str, str], ...]:
    """Place and name of the arguments that an operation changes, and the name that its schema has for their memory."""
    return tuple(
        (k, argument.name, min(argument.alias_info.before_set, default=""))
        for k, argument in enumerate(op._schema.arguments)
        if argument.alias_info is not None and argument.alias_info.is_write
    )


@functools.cache
def _tensor_places(op: Any) -> tuple[int, ...]:
    return tuple(k for k, argument in enumerate(op._schema.arguments) if str(argument.type) == "Tensor")


def _with_numbers(op: Any, args: Any) -> Any:
    """The arguments, a tensor for each number that stands for one: torch hands it over as a number of Python."""
    places = [k for k in _tensor_places(op) if k < len(args) and isinstance(args[k], (int, float))]
    if not places:
        return args
    other = next(iter(_tensors(args)), torch.tensor(0.0))
    changed = list(args)
    for k in places:
        same = other.is_floating_point() or not isinstance(args[k], float)
        changed[k] = torch.tensor(args[k], dtype=other.dtype if same else torch.float64)
    return tuple(changed)


def _written(op: Any, args: Any, kwargs: Any) -> dict[str, Tensor]:
    """What the operation changes in place, by the name of the memory; not the lists of `_foreach` operations."""
    given = {memory: args[k] if k < len(args) else kwargs.get(name) for k, name, memory in _outputs(op)}
    return {memory: value for memory, value in given.items() if isinstance(value, Tensor)}


def _returned(value: Any, described: Any, written: dict[str, Any]) -> Any:
    if described.alias_info is not None and described.alias_info.is_write:
        return written[min(described.alias_info.before_set)]
    return _on_device(value)


def _tensors(values: Any) -> list[Tensor]:
    """All of them in a sequence, and in sequences inside."""
    found = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, (list, tuple)):
            found += _tensors(value)
    return found


def _on_cpu(value: Any, instead: Mapping[int, Tensor] = MappingProxyType({})) -> Any:
    """The same memory, and the device as an argument, under the name of the CPU; `instead` of some tensors others."""
    if isinstance(value, Tensor):
        if value.device.type != NAME:
            return value
        return instead[id(value)] if id(value) in instead else _relabelled(value, _CPU)
    if isinstance(value, torch.device):
        return torch.device("cpu")
    return type(value)(_on_cpu(item, instead) for item in value) if isinstance(value, (list, tuple)) else value


def _on_device(value: Any) -> Any:
    if isinstance(value, Tensor):
        return _relabelled(value, _EXTENSION) if value.device.type == "cpu" else value
    return type(value)(map(_on_device, value)) if isinstance(value, (list, tuple)) else value


_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_pointer.restype, _pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]


def _relabelled(tensor: Tensor, kind: int) -> Tensor:
    capsule = torch._C._to_dlpack(tensor)
    address = _pointer(capsule, b"dltensor")
    ctypes.c_int32.from_address(address + _DEVICE_OFFSET).value = kind
    return torch._C._from_dlpack(capsule)

"""A GPU for machines without one: tensors that say they lie on ``cuda:0`` and compute on the CPU.

Inside ``shadow_device()`` what CUDA refuses is an error here too: tensors of two devices in one operation, a generator
of the CPU for numbers drawn on the GPU, ``.numpy()`` of a GPU tensor, and (as NCCL) a CPU tensor in a collective. Every
host wait and every copy between host and device is recorded with the line that caused it.

C++ takes a shadow tensor for a CPU tensor without memory, Python sees the GPU; each operation goes through ``_run``.
Operations that C++ composes of others by its own idea of the device are given in Python in ``shadow_torch.py``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

GPU = torch.device("cuda", 0)
ROOT = Path(__file__).resolve().parents[2]
aten = torch.ops.aten

SCALARS_WELCOME = {aten.fill_.Tensor, aten.masked_fill.Tensor, aten.masked_fill_.Tensor, aten.where.self}
"""Operations besides the pointwise ones that take a number from the CPU."""
INDEXED = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}
"""They take indices from the CPU, and copy them."""
COPIES = {aten.copy_.default, aten._to_copy.default}
WAITS = (
    *("_local_scalar_dense", "equal", "is_nonzero", "nonzero", "masked_select", "_unique2", "unique_dim"),
    *("unique_consecutive", "bincount", "histc", "_linalg_eigh", "_linalg_svd", "_assert_async"),
)
"""Operations whose result the host needs: it waits until the device has done all work so far."""


@dataclass(frozen=True)
class Event:
    """A host wait, a copy between host and device, or both."""

    operation: str
    where: str
    """``file:line`` of the project, or of a library if no line of the project called it."""
    waits: bool
    copied: int = 0
    """Bytes."""


@dataclass
class Traffic:
    """What has passed between host and device."""

    events: list[Event] = field(default_factory=list)

    def note(self, operation: str, *, waits: bool, copied: int = 0) -> None:
        self.events.append(Event(operation, _caller(), waits, copied))

    def waits(self, start: int = 0, stop: int | None = None) -> list[Event]:
        """The waits among the events from ``start`` to ``stop``."""
        return [event for event in self.events[start:stop] if event.waits]


def _caller() -> str:
    frame, library = sys._getframe(2), ""
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith(str(ROOT / "realgen")) and not file.endswith("parallel.py"):
            return f"{Path(file).relative_to(ROOT)}:{frame.f_lineno}"
        if not library and "site-packages/torch/" not in file and "shadow_" not in file:
            library = f"{'/'.join(Path(file).parts[-3:])}:{frame.f_lineno}"
        frame = frame.f_back
    return library


_traffic = Traffic()


class ShadowTensor(Tensor):
    """A tensor on the shadow GPU; ``on_cpu`` holds its numbers."""

    on_cpu: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl
    device = property(lambda self: GPU)
    is_cuda = property(lambda self: True)
    is_cpu = property(lambda self: False)

    @staticmethod
    def __new__(cls, real: Tensor) -> ShadowTensor:
        shadow = Tensor._make_wrapper_subclass(
            cls,
            real.size(),
            strides=real.stride(),
            storage_offset=real.storage_offset(),
            dtype=real.dtype,
            layout=real.layout,
            device=torch.device("cpu"),
        )
        shadow.on_cpu = real
        return shadow

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})

    def get_device(self) -> int:
        return 0

    def to(self, *args: Any, **kwargs: Any) -> Tensor:
        copy = kwargs.pop("copy", False)
        if args and isinstance(args[0], Tensor):
            args = (args[0].device, args[0].dtype, *args[1:])
        device, dtype, non_blocking, memory_format = torch._C._nn._parse_to(*args, **kwargs)
        dtype = dtype or self.dtype
        how = {"dtype": dtype, "memory_format": memory_format}
        if device is not None and device.type == "cpu":
            return aten._to_copy(self, device=_CPU, non_blocking=non_blocking, **how)
        return self if dtype == self.dtype and not copy and memory_format is None else aten._to_copy(self, **how)

    def cpu(self) -> Tensor:
        return self.to("cpu")

    def cuda(self, *_: Any) -> Tensor:
        return self

    def numpy(self, **_: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")

    __array__ = numpy

    def new_tensor(self, data: Any, *, dtype: Any = None, device: Any = None) -> Tensor:
        return torch.tensor(data, dtype=dtype or self.dtype, device=device or GPU)

    def tolist(self) -> Any:
        _traffic.note("tolist", waits=True, copied=self.on_cpu.nbytes)
        return self.on_cpu.tolist()

    def __repr__(self) -> str:
        return f"ShadowTensor({self.on_cpu})"

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if self.ndim == 0 else repr(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> ShadowTensor:
        copy = ShadowTensor(self.on_cpu.clone()).requires_grad_(self.requires_grad)
        if getattr(self, "_is_param", False):
            copy._is_param = True
        return memo.setdefault(id(self), copy)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.on_cpu.detach().__reduce_ex__(protocol)


_CPU = torch.device("cpu", 0)
"""The CPU where it is meant: C++ names it, without an index, for all that lies beside a shadow tensor."""


class ShadowMode(TorchDispatchMode):
    """Sees the operations without a shadow tensor among their arguments: new tensors, copies to the device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Check an operation as CUDA would, note what it costs, and compute it with the real numbers."""
    if _is_composite(func):
        with ShadowMode():  # in inference mode such an operation arrives whole
            return func.decompose(*args, **kwargs)
    leaves = [leaf for value in (*args, *kwargs.values()) for leaf in _leaves(value)]
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    shadows = [tensor for tensor in tensors if isinstance(tensor, ShadowTensor)]
    device = kwargs.get("device")
    device = None if device is None else torch.device(device)
    if func is aten._has_compatible_shallow_copy_type.default:
        return False  # memory of two devices is never exchanged
    if func.namespace in ("c10d", "_c10d_functional"):
        return _collective(func, args, kwargs, tensors)
    if shadows and device == torch.device("cpu"):
        device = GPU
    on_gpu = bool(shadows) if device is None else device.type == "cuda"
    if func is aten.copy_.default:
        on_gpu = isinstance(args[0], ShadowTensor)
    _check_devices(func, args, tensors, shadows)
    for leaf in leaves:
        if isinstance(leaf, torch.Generator) and (leaf.device.type == "cuda") != on_gpu:
            here = "cuda" if on_gpu else "cpu"
            raise RuntimeError(f"Expected a '{here}' device type for generator but found '{leaf.device.type}'")
    if shadows or on_gpu:
        _note(func, args, kwargs, tensors, on_gpu=on_gpu)
    real_kwargs = {name: _mapped(_real, value) for name, value in kwargs.items()}
    if device is not None and device.type != "meta":
        real_kwargs["device"] = torch.device("cpu")
    if real_kwargs.get("pin_memory"):
        real_kwargs["pin_memory"] = False
    result = func(*_mapped(_real, args), **real_kwargs)
    return _wrapped(result, shadows) if on_gpu else result


@cache
def _is_composite(func: Any) -> bool:
    return torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd")


def _leaves(value: Any) -> list[Any]:
    """Flatten an operation's argument: lists and tuples alone, which costs a fifth of what PyTorch's pytrees do."""
    return [leaf for each in value for leaf in _leaves(each)] if isinstance(value, list | tuple) else [value]


def _mapped(function: Callable[[Any], Any], value: Any) -> Any:
    if not isinstance(value, list | tuple):
        return function(value)
    return type(value)([_mapped(function, each) for each in value])


def _real(value: Any) -> Any:
    return value.on_cpu if isinstance(value, ShadowTensor) else value


def _wrapped(result: Any, shadows: Sequence[ShadowTensor]) -> Any:
    """Return the result with shadow tensors; what an in-place operation returns is its own argument."""
    known = {id(shadow.on_cpu): shadow for shadow in shadows}

    def wrap(value: Any) -> Any:
        if not isinstance(value, Tensor) or isinstance(value, ShadowTensor):
            return value
        return known[id(value)] if id(value) in known else ShadowTensor(value)

    return _mapped(wrap, result)


def _check_devices(func: Any, args: Any, tensors: Sequence[Tensor], shadows: Sequence[Tensor]) -> None:
    plain = [tensor for tensor in tensors if not isinstance(tensor, ShadowTensor)]
    if not shadows or not plain or func in COPIES or func in (aten._foreach_copy_.default, aten.index_fill_.int_Scalar):
        return
    if func in INDEXED:
        if not isinstance(args[0], ShadowTensor):
            raise RuntimeError("indices should be either on cpu or on the same device as the indexed tensor (cpu)")
        indices = {id(index) for index in args[1] if index is not None}
        plain = [tensor for tensor in plain if id(tensor) not in indices]
    if torch.Tag.pointwise in func.tags or func in SCALARS_WELCOME or func in INDEXED:
        plain = [tensor for tensor in plain if tensor.ndim > 0]
    if plain:
        found = [f"{tensor.device} {tuple(tensor.shape)}" for tensor in tensors]
        raise RuntimeError(f"{func}: Expected all tensors to be on the same device, but found {', '.join(found)}")


def _note(func: Any, args: Any, kwargs: Any, tensors: Sequence[Tensor], *, on_gpu: bool) -> None:
    name = func._overloadpacket.__name__
    if name in WAITS or (name == "repeat_interleave" and kwargs.get("output_size") is None):
        _traffic.note(str(func), waits=True)
    if func in INDEXED:
        for index in args[1]:
            if isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8):
                # A mask that is filled with one number is no wait: CUDA does it without looking for the rows.
                if func is aten.index.Tensor or args[2].numel() > 1:
                    _traffic.note(f"{func} by a mask", waits=True)
            elif index is not None and not isinstance(index, ShadowTensor):
                _traffic.note(f"{func} by CPU indices", waits=True, copied=index.nbytes)
    if func is aten.index_fill_.int_Scalar and not isinstance(args[2], ShadowTensor):
        _traffic.note(f"{func} by a list", waits=True, copied=args[2].nbytes)
    if func in COPIES:
        source = args[0] if func is aten._to_copy.default else args[1]
        if isinstance(source, ShadowTensor) != on_gpu:
            non_blocking = kwargs.get("non_blocking") or (func is aten.copy_.default and len(args) > 2 and args[2])
            # Without pinned memory the host waits, whatever it asks for.
            pinned = on_gpu and getattr(source, "shadow_pinned", False)
            waits = not (non_blocking and pinned)
            _traffic.note("to the GPU" if on_gpu else "to the CPU", waits=waits, copied=source.nbytes)


def _collective(func: Any, args: Any, kwargs: Any, tensors: Sequence[Tensor]) -> Any:
    """Refuse CPU tensors as NCCL does; the result is that of ranks that all hold this one's numbers."""
    name = func._overloadpacket.__name__
    if name == "barrier":
        return func(*args, **kwargs)
    if not all(isinstance(tensor, ShadowTensor) for tensor in tensors):
        raise RuntimeError(f"{func}: No backend type associated with device type cpu (NCCL takes no CPU tensors)")
    work = func(*_mapped(_real, args), **{name: _mapped(_real, value) for name, value in kwargs.items()})[-1]
    ranks = torch.distributed.get_world_size()
    if name == "allgather_":
        for output in args[0][0]:
            output.on_cpu.copy_(args[1][0].on_cpu)
    elif name == "_allgather_base_":
        args[0].on_cpu.view(ranks, -1).copy_(args[1].on_cpu.view(1, -1))
    elif name == "allreduce_":
        if torch.distributed.ReduceOp.unbox(args[2]) == torch.distributed.ReduceOp.SUM:
            args[0][0].on_cpu.mul_(ranks)
    elif name != "broadcast_":
        raise RuntimeError(f"tests/helpers/shadow_device.py does not know {func} yet")
    return args[0], work


@contextmanager
def shadow_device() -> Iterator[Traffic]:
    """Give this thread a shadow GPU, ``GPU``; yield what passes between it and the host."""
    from tests.helpers.shadow_torch import python_replacements

    _traffic.events.clear()
    with ExitStack() as stack:
        for context in python_replacements():
            stack.enter_context(context)
        stack.enter_context(ShadowMode())
        yield _traffic


def note_wait(operation: str) -> None:
    """Note a wait that no operation stands for, such as that for a stream."""
    _traffic.note(operation, waits=True)

"""`Driver`: starts kernels as a vendor's driver does: on the thread's current device, wherever the tensors are.

That is the trap of the first field report (Triton launched under the wrong device). The launcher's business is to make
the tensors' device current first; one that does not fails here, before anything runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._pytree import tree_map

from hardpoint_sim.errors import InvalidPointer
from hardpoint_sim.memory import Block, Cell
from hardpoint_sim.tensor import SimTensor, wrap
from hardpoint_sim.work import Work

if TYPE_CHECKING:
    from hardpoint_sim.engine import Engine


@dataclass(frozen=True)
class Driver:
    """How a kernel gets into a stream of one engine."""

    engine: Engine

    def launch(self, kernel: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Queue ``kernel(*args, **kwargs)`` as one item of the current stream of the current device.

        InvalidPointer if a tensor is not on the current device, UnmappedAccess if its memory is unmapped; then nothing
        was queued. When it runs, the kernel sees the device tensors themselves, reads and writes at once, and may use
        temporaries.
        """
        engine = self.engine
        name = str(getattr(kernel, "__name__", None) or repr(kernel))
        index = engine.current()
        tensors = list(_tensors(args, kwargs))
        for label, tensor in tensors:
            if tensor.device != engine.torch_device(index) and engine.rules.check_devices:
                raise InvalidPointer(
                    f"kernel {name}: pointer argument {label} cannot be accessed from sim:{index}, the current device: "
                    f"it is on {tensor.device}; launch under the device of the tensors"
                )
            if isinstance(tensor, SimTensor):
                engine.heap.refuse_unmapped(tensor.cell, f"kernel {name}, argument {label},")
        stream = engine.current_stream(index)
        # The queue holds memory and not tensors: a tensor freed before the kernel runs is freed, as on a device.
        pointers, named_pointers = tree_map(_pointer, (args, dict(kwargs)))

        def run(_: int) -> None:
            with engine.inside_kernel(stream):
                loaned, named = tree_map(lambda value: _loan(value, engine), (pointers, named_pointers))
                kernel(*loaned, **named)

        cells = tuple(tensor.cell for _, tensor in tensors if isinstance(tensor, SimTensor))
        engine.submit(stream, Work(f"kernel {name}", run, cells=cells))


@dataclass(frozen=True)
class _Pointer:
    host: torch.Tensor
    cell: Cell


def _pointer(value: Any) -> Any:
    return _Pointer(value.host, value.cell) if isinstance(value, SimTensor) else value


def _loan(value: Any, engine: Engine) -> Any:
    return wrap(value.host, Block(value.cell, engine)) if isinstance(value, _Pointer) else value


def _tensors(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Iterator[tuple[str, torch.Tensor]]:
    """Tensor arguments with their position or name, also inside lists and tuples."""
    for position, value in enumerate(args):
        yield from _walk(f"(at {position})", value)
    for name, value in kwargs.items():
        yield from _walk(f"'{name}'", value)


def _walk(label: str, value: Any) -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(value, torch.Tensor):
        yield label, value
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from _walk(f"{label}[{index}]", item)

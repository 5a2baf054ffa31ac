"""`Driver`: loads and starts kernels as a vendor's driver does: on the thread's current device, whatever the tensors.

That is the trap of the first field report (Triton launched under the wrong device). The launcher's business is to make
the tensors' device current first; one that does not fails here, before anything runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from hardpoint.errors import CaptureRefused
from torch.utils._pytree import tree_map

from hardpoint_sim.errors import InvalidPointer
from hardpoint_sim.tensor import SimTensor
from hardpoint_sim.work import Work

if TYPE_CHECKING:
    from hardpoint_sim.engine import Engine


class Driver:
    """What is loaded on each device of one engine, and how a kernel gets into a stream."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._loaded: list[set[tuple[Any, str]]] = [set() for _ in range(engine.count)]

    def loaded(self, index: int, kernel: Callable[..., Any], specialisation: str) -> bool:
        return (kernel, specialisation) in self._loaded[self.engine.state(index).index]

    def load(self, kernel: Callable[..., Any], specialisation: str) -> None:
        """Load on the current device. CaptureRefused if its current stream is being captured."""
        engine = self.engine
        index = engine.current()
        if self.loaded(index, kernel, specialisation):
            return
        if engine.rules.capture_refuses_cold_load and engine.current_stream().recording is not None:
            name = kernel_name(kernel)
            raise CaptureRefused(
                f"kernel {name} [{specialisation}] is not loaded on sim:{index}, and a kernel cannot be loaded while a "
                f"graph is captured there; before the capture, call launcher.preload({name}, ..., devices=[{index}])"
            )
        self._loaded[index].add((kernel, specialisation))

    def launch(
        self, kernel: Callable[..., Any], specialisation: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        """Queue `kernel` on the current stream of the current device; load it there first if need be.

        InvalidPointer if a tensor argument is not on the current device; then nothing was queued.
        """
        engine = self.engine
        index = engine.current()
        tensors = list(tensor_arguments(args, kwargs))
        for label, tensor in tensors:
            if tensor.device != engine.torch_device(index) and engine.rules.check_devices:
                raise InvalidPointer(
                    f"kernel {kernel_name(kernel)}: pointer argument {label} cannot be accessed from sim:{index}, the "
                    f"current device: it is on {tensor.device}; launch under the device of the tensors"
                )
            if isinstance(tensor, SimTensor):
                engine.heap.refuse_unmapped(tensor.cell, f"kernel {kernel_name(kernel)}, argument {label},")
        self.load(kernel, specialisation)
        stream = engine.current_stream()
        host_args, host_kwargs = tree_map(lambda v: v.host if isinstance(v, SimTensor) else v, (args, kwargs))

        def run(_: int) -> None:
            kernel(*host_args, **host_kwargs)

        cells = tuple(tensor.cell for _, tensor in tensors if isinstance(tensor, SimTensor))
        if stream.recording is not None:
            stream.recording.kernels.add(kernel_name(kernel))
        engine.submit(stream, Work(f"kernel {kernel_name(kernel)}", run, cells=cells))


def kernel_name(kernel: Any) -> str:
    return str(getattr(kernel, "__qualname__", None) or getattr(kernel, "__name__", None) or repr(kernel))


def tensor_arguments(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[tuple[str, torch.Tensor]]:
    """Tensor arguments with their position or name; nested lists and tuples included."""
    for position, value in enumerate(args):
        yield from _walk(str(position), value)
    for name, value in kwargs.items():
        yield from _walk(f"'{name}'", value)


def _walk(label: str, value: Any) -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(value, torch.Tensor):
        yield label, value
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from _walk(f"{label}[{index}]", item)

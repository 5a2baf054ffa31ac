"""`SimTensor`: a tensor on ``sim:i``. Its values are in host memory that only queued work reads and writes.

A wrapper subclass: torch sees device, shape, strides and dtype; every operation arrives in `__torch_dispatch__`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from hardpoint.errors import DeviceError
from hardpoint_sim.slot import DEVICE_TYPE
from hardpoint_sim.stream import SimStream

if TYPE_CHECKING:
    from hardpoint_sim.engine import Engine
    from hardpoint_sim.memory import Block, Cell


class SimTensor(torch.Tensor):
    """A tensor on a simulated device.

    Attributes:
        host: host view of its elements. Only work that runs on the device may touch the values.
        block: keeps the memory alive; shared by all views.
    """

    host: torch.Tensor
    block: Block

    @staticmethod
    def __new__(cls, host: torch.Tensor, block: Block) -> SimTensor:
        made: Any = torch.Tensor._make_wrapper_subclass(
            cls,
            host.size(),
            strides=host.stride(),
            storage_offset=host.storage_offset(),
            dtype=host.dtype,
            device=torch.device(DEVICE_TYPE, block.cell.device),
        )
        made.host, made.block = host, block
        return made  # type: ignore[no-any-return]

    @property
    def cell(self) -> Cell:
        return self.block.cell

    @property
    def engine(self) -> Engine:
        return self.block.engine

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        from hardpoint_sim.dispatch import dispatch

        with torch.inference_mode(False):
            return dispatch(func, args, kwargs or {})

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        from hardpoint_sim.methods import METHODS

        method: Callable[..., Any] | None = METHODS.get(func)
        with torch._C.DisableTorchFunctionSubclass():
            return (method or func)(*args, **(kwargs or {}))

    def record_stream(self, stream: Any) -> None:
        """Keep the memory from being reused, once freed, before what is in `stream` by then has run."""
        if not isinstance(stream, SimStream):
            raise DeviceError(f"record_stream of a tensor on {self.device} needs a simulated stream, got {stream!r}")
        if stream not in self.cell.recorded:
            self.cell.recorded.append(stream)

    def __deepcopy__(self, memo: dict[int, Any]) -> SimTensor:
        if id(self) in memo:
            return memo[id(self)]  # type: ignore[no-any-return]
        if not self.is_leaf:
            raise RuntimeError("only tensors created by the user (graph leaves) can be deep-copied; use clone()")
        made: Any = self.detach().clone().requires_grad_(self.requires_grad)
        memo[id(self)] = made
        own = {name: value for name, value in self.__dict__.items() if name not in ("host", "block")}
        made.__dict__.update(copy.deepcopy(own, memo))
        if self.grad is not None:
            made.grad = copy.deepcopy(self.grad, memo)
        return made  # type: ignore[no-any-return]

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise DeviceError(f"a tensor on {self.device} cannot be pickled; copy it to the host first: tensor.cpu()")

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        # Printing must not read: that would wait for the stream, and hide a missing wait.
        return f"SimTensor({self.device}, {list(self.shape)}, {self.dtype}; .cpu() reads it)"


def wrap(host: torch.Tensor, block: Block) -> SimTensor:
    """A tensor on `block` with the shape and strides of `host`, which is a view of the block's memory."""
    return SimTensor(host, block)


def allocate(engine: Engine, index: int, like: torch.Tensor, what: str) -> SimTensor:
    """A poisoned tensor on ``sim:index`` with shape, strides and dtype of `like` (any device, meta included)."""
    block = engine.heap.allocate(index, like.shape, like.stride(), like.dtype, what)
    return SimTensor(torch.as_strided(block.cell.flat, like.shape, like.stride()), block)

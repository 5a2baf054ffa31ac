"""Python-level tensor methods that never reach the dispatcher, or lie there: addresses, storage, ``.data =``.

torch answers them from the wrapper's C++ side, which has no storage: `data_ptr` would be 0 for every tensor.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from hardpoint.errors import DeviceError
from hardpoint_sim.tensor import SimTensor


class SimStorage:
    """What can be said about a storage that cannot be read: where it is, and how large."""

    def __init__(self, tensor: SimTensor) -> None:
        self._block = tensor.block
        self.device = tensor.device

    @property
    def _cdata(self) -> int:
        """Identity, as torch's own storages have it."""
        return id(self._block)

    def data_ptr(self) -> int:
        return self._block.cell.address

    def nbytes(self) -> int:
        flat = self._block.cell.flat
        return flat.numel() * flat.element_size()

    size = nbytes
    __len__ = nbytes

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SimStorage) and other._block is self._block

    def __hash__(self) -> int:
        return id(self._block)


def _data_ptr(tensor: SimTensor) -> int:
    return int(tensor.cell.address + tensor.host.storage_offset() * tensor.element_size()) if tensor.numel() else 0


def _set_data(tensor: SimTensor, value: Any) -> None:
    if not isinstance(value, SimTensor):
        raise DeviceError(
            f"the data of a tensor on {tensor.device} cannot be set to a tensor on {getattr(value, 'device', value)}; "
            f"copy it there first with .to('{tensor.device}')"
        )
    torch.Tensor.data.__set__(tensor, value)  # type: ignore[attr-defined]
    tensor.host, tensor.block = value.host, value.block


def _no_host_view(tensor: SimTensor, *_: Any, **__: Any) -> Any:
    raise TypeError(f"a tensor on {tensor.device} has no host memory to look at; copy it first: tensor.cpu()")


def _in_calling_thread(function: Callable[..., Any]) -> Callable[..., Any]:
    # torch's own backward threads know one device and no simulated streams: on sim:1 they fail an internal assert.
    def call(*args: Any, **kwargs: Any) -> Any:
        with torch.autograd.set_multithreading_enabled(False):
            return function(*args, **kwargs)

    return call


METHODS: dict[Any, Callable[..., Any]] = {
    torch.Tensor.data.__set__: _set_data,  # type: ignore[attr-defined]
    torch.Tensor.data_ptr: _data_ptr,
    torch.Tensor.untyped_storage: SimStorage,
    torch.Tensor.numpy: _no_host_view,
    torch.Tensor.__array__: _no_host_view,
    torch.Tensor.tolist: lambda tensor: tensor.cpu().tolist(),
    torch.Tensor.backward: _in_calling_thread(torch.Tensor.backward),
    torch.autograd.grad: _in_calling_thread(torch.autograd.grad),
    torch.autograd.backward: _in_calling_thread(torch.autograd.backward),
}

"""Private storage formats: a cast that really moves every element, and padding that decodes as NaN.

An identity in their place (as mocks of `npu_format_cast` have it) would hide every layout fault. Here an operation that
reads a private storage as if it were plain sees its elements in the wrong order, and its padding as NaN.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch

from hardpoint.errors import DeviceError
from hardpoint_sim.engine import Engine
from hardpoint_sim.poison import poison
from hardpoint_sim.tensor import SimTensor, allocate, wrap
from hardpoint_sim.work import Work

PLAIN = 2  # ACL_FORMAT_ND
_ROWS = 16  # of a fractal
_ROW_BYTES = 32


@dataclass(frozen=True)
class Fractal:
    """FRACTAL_NZ of the last two axes: ``[..., N/n0, M/16, 16, n0]`` with n0 elements in 32 bytes, both rounded up."""

    number: int
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def blocks(self) -> tuple[int, ...]:
        """Shape of the storage."""
        *batch, rows, columns = self.shape
        across = _ROW_BYTES // self.dtype.itemsize
        return (*batch, -(-columns // across), -(-rows // _ROWS), _ROWS, across)

    def encode(self, plain: torch.Tensor, storage: torch.Tensor) -> None:
        """`plain` of `shape` into `storage` of `blocks`; what is beyond the matrix becomes poison."""
        *_, across, down, _, _ = self.blocks
        padded = torch.empty((*self.shape[:-2], down * _ROWS, across * self.blocks[-1]), dtype=self.dtype)
        poison(padded)
        padded[..., : self.shape[-2], : self.shape[-1]] = plain
        storage.copy_(padded.reshape(*self.shape[:-2], down, _ROWS, across, self.blocks[-1]).movedim(-2, -4))

    def decode(self, storage: torch.Tensor, plain: torch.Tensor) -> None:
        """The inverse of `encode`."""
        whole = storage.movedim(-4, -2).flatten(-2, -1).flatten(-3, -2)
        plain.copy_(whole[..., : self.shape[-2], : self.shape[-1]])


def format_of(tensor: torch.Tensor) -> int:
    """ACL format number of the storage under `tensor`."""
    layout = _sim(tensor).cell.layout
    return PLAIN if layout is None else int(layout.number)


def format_cast(engine: Engine, tensor: torch.Tensor, number: int, known: dict[int, str]) -> torch.Tensor:
    """``torch_npu.npu_format_cast``: a new tensor of the same shape in another format; `tensor` itself if it has it.

    DeviceError for a format that is not known, a view of a private storage, and fewer than two axes.
    """
    source = _sim(tensor)
    if format_of(tensor) == number:
        return tensor
    if number != PLAIN and number not in known:
        raise DeviceError(f"npu_format_cast: format {number} is not known; there are {PLAIN}, {sorted(known)}")
    layout = source.cell.layout
    if layout is not None and tuple(tensor.shape) != layout.shape:
        raise DeviceError(f"npu_format_cast: {list(tensor.shape)} is a view of a {known[layout.number]} storage")
    index, stream = source.device.index, engine.current_stream(source.device.index)
    if layout is None:
        if tensor.dim() < 2:
            raise DeviceError(f"npu_format_cast: a matrix has two axes, got shape {list(tensor.shape)}")
        made = Fractal(number, tuple(tensor.shape), tensor.dtype)
        store = allocate(engine, index, torch.empty(made.blocks, dtype=tensor.dtype, device="meta"), "npu_format_cast")
        plain, blocks = source.host, store.host

        def encode(_: int) -> None:
            made.encode(plain, blocks)

        store.cell.layout = made
        engine.submit(stream, Work("npu_format_cast", encode, (source.cell, store.cell), (blocks,)))
        strides = torch.empty(tensor.shape, device="meta").stride()
        return wrap(torch.as_strided(store.cell.flat, tensor.shape, strides), store.block)
    if number != PLAIN:
        raise DeviceError(f"npu_format_cast: from {known[layout.number]} only {PLAIN} can be reached, not {number}")
    result = allocate(engine, index, torch.empty(layout.shape, dtype=tensor.dtype, device="meta"), "npu_format_cast")
    whole, target = source.cell.flat[: prod(layout.blocks)].reshape(layout.blocks), result.host

    def decode(_: int) -> None:
        layout.decode(whole, target)

    engine.submit(stream, Work("npu_format_cast", decode, (source.cell, result.cell), (target,)))
    return result


def _sim(tensor: torch.Tensor) -> SimTensor:
    if not isinstance(tensor, SimTensor):
        raise DeviceError(f"a tensor on {tensor.device} has no device format")
    return tensor

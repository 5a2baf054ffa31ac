"""Copies between host and device and between devices: the only ways for values in and out.

Order as on a CUDA device: a copy runs on the current stream of the device that it involves; between two devices it
runs on the source's current stream, and waits for and is waited for by the destination's. Blocking copies to the host
wait; `non_blocking` ones return memory that is poisoned until the copy has really run.
"""

from __future__ import annotations

from typing import Any

import torch

from hardpoint.errors import DeviceError
from hardpoint_sim.errors import DeviceMix
from hardpoint_sim.poison import poison
from hardpoint_sim.slot import DEVICE_TYPE
from hardpoint_sim.tensor import SimTensor, allocate
from hardpoint_sim.work import Work


def to_copy(
    tensor: SimTensor,
    *,
    dtype: torch.dtype | None = None,
    layout: Any = None,
    device: torch.device | None = None,
    pin_memory: bool | None = None,
    non_blocking: bool = False,
    memory_format: torch.memory_format | None = None,
) -> torch.Tensor:
    """``aten._to_copy`` of a device tensor: a new tensor on `device` (None: the same one)."""
    target = tensor.device if device is None else torch.device(device)
    like = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
    like = torch.ops.aten._to_copy.default(like, dtype=dtype, layout=layout, memory_format=memory_format)
    if target.type == "meta":
        return like  # type: ignore[no-any-return]
    made: torch.Tensor
    if target.type == "cpu":
        made = torch.empty_strided(like.shape, like.stride(), dtype=like.dtype, device="cpu")
        if tensor.engine.rules.poison_empty:
            poison(made)
    elif target.type == DEVICE_TYPE:
        index = tensor.engine.current() if target.index is None else target.index
        made = allocate(tensor.engine, index, like, "a copy")
    else:
        raise DeviceMix(
            f"a tensor on {tensor.device} can be copied to the host or to a simulated device, not to {target}"
        )
    copy_(made, tensor, non_blocking)
    return made


def copy_(target: torch.Tensor, source: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
    """``aten.copy_``: `source`, broadcast and converted, over `target`."""
    torch.empty_strided(target.shape, target.stride(), dtype=target.dtype, device="meta").copy_(
        torch.empty_strided(source.shape, source.stride(), dtype=source.dtype, device="meta")
    )
    for role, tensor in (("destination", target), ("source", source)):
        if isinstance(tensor, SimTensor):
            tensor.engine.heap.refuse_unmapped(tensor.cell, f"a copy's {role}")
        elif tensor.device.type != "cpu":
            raise DeviceMix(f"a copy between {target.device} and {source.device} is not possible; go through the host")
    if isinstance(target, SimTensor) and isinstance(source, SimTensor):
        _device_to_device(target, source)
    elif isinstance(target, SimTensor):
        _host_to_device(target, source, non_blocking)
    elif isinstance(source, SimTensor):
        _device_to_host(target, source, non_blocking)
    return target


def _host_to_device(target: SimTensor, source: torch.Tensor, non_blocking: bool) -> None:
    engine = target.engine
    late = non_blocking and engine.rules.late_host_copies
    held = source.detach() if late else source.detach().clone()
    engine.submit(engine.current_stream(target.device.index), _work("copy from the host", target.host, held, target))


def _device_to_host(target: torch.Tensor, source: SimTensor, non_blocking: bool) -> None:
    engine = source.engine
    stream = engine.current_stream(source.device.index)
    late = non_blocking and engine.rules.late_host_copies
    what = f"copy of a tensor on {source.device} to the host"
    if not late:
        engine.refuse_sync_in_capture(what, [stream])
    engine.submit(stream, _work("copy to the host", target.detach(), source.host, source))
    if not late:
        engine.wait([stream.mark()], what)


def _device_to_device(target: SimTensor, source: SimTensor) -> None:
    engine = source.engine
    if target.engine is not engine:
        raise DeviceMix("a copy between tensors of two simulators is not possible; go through the host")
    if target.cell.layout != source.cell.layout:
        raise DeviceError(
            f"a copy between storages of two formats, {source.cell.layout} and {target.cell.layout}: cast one first"
        )
    whole = target.cell.layout is not None and target.shape == source.shape
    ours, theirs = (target.cell.flat, source.cell.flat) if whole else (target.host, source.host)
    work = _work("copy on the device", ours, theirs, target, source)
    stream = engine.current_stream(source.device.index)
    if target.device == source.device:
        engine.submit(stream, work)
        return
    other = engine.current_stream(target.device.index)
    with engine.lock:
        stream.wait_stream(other)
        engine.submit(stream, work)
        other.wait_stream(stream)


def _work(name: str, target: torch.Tensor, source: torch.Tensor, *tensors: SimTensor) -> Work:
    def run(_: int) -> None:
        target.copy_(source)

    return Work(name, run, cells=tuple(tensor.cell for tensor in tensors), writes=(target,))

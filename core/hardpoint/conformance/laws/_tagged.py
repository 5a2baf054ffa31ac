"""Tensors in memory that can sleep, with what they have to hold afterwards."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from hardpoint.conformance.context import LawContext
from hardpoint.device import MemoryInfo
from hardpoint.lifecycle import Deadlines, IdleHost, Lifecycle, LifecycleParts

_NUMBERS = itertools.count(1)
DEADLINES = Deadlines(steps=5.0, vote=3.0)


@dataclass(frozen=True)
class Tagged:
    """Tensors under one tag.

    Attributes:
        tensors: by name, in memory of the backend's `MemoryMap`.
        contents: what they have to hold, on the host.
        addresses: what `data_ptr` answered before anything slept.
    """

    context: LawContext
    tag: str
    tensors: dict[str, torch.Tensor]
    contents: dict[str, torch.Tensor]
    addresses: dict[str, int]

    @property
    def nbytes(self) -> int:
        return sum(tensor.untyped_storage().nbytes() for tensor in self.tensors.values())

    def check(self, when: str) -> None:
        """Fail unless every tensor holds its contents, bit by bit, at its address."""
        for name, tensor in self.tensors.items():
            self.context.equal(tensor, self.contents[name], f"{self.tag}/{name} {when}")
            found, expected = tensor.data_ptr(), self.addresses[name]
            self.context.check(
                found == expected, f"{self.tag}/{name} {when} is at {found:#x}, expected {expected:#x} as before"
            )

    def write(self, value: int) -> None:
        """New contents, as a weight update brings them."""
        for name, tensor in self.tensors.items():
            self.contents[name] = torch.full_like(self.contents[name], value)
            tensor.copy_(self.contents[name])
        self.context.backend.device.synchronize(self.context.device_index)


def fresh_tag(name: str) -> str:
    """A tag that no law of this process had: a failed law may leave memory behind, in its error."""
    return f"{name} #{next(_NUMBERS)}"


def tagged(context: LawContext, tag: str, contents: Mapping[str, torch.Tensor], index: int | None = None) -> Tagged:
    """Tensors with these host `contents`, allocated in the pool of `tag`.

    They are on device `index` (None: this rank's) where the backend's memory sleeps there; a backend that does not
    declare sleep may offer host memory alone, which the report then says.
    """
    place = context.device_index if index is None else index
    devices = [context.on(place)]
    if not context.backend.capabilities.sleep and devices[0].type != "cpu":
        devices.append(torch.device("cpu"))
    wanted = sum(host.numel() * host.element_size() for host in contents.values())
    tensors: dict[str, torch.Tensor] = {}
    held = 0
    for device in devices:
        with context.backend.memory_map.pool(tag, place):
            tensors = {
                name: torch.empty(host.shape, dtype=host.dtype, device=device) for name, host in contents.items()
            }
        held = sum(holding.nbytes for holding in context.backend.memory_map.holders() if holding.tag == tag)
        if held >= wanted:
            break
    context.check(
        held >= wanted,
        f"{wanted} bytes were allocated on {devices} in the pool of {tag}, holders() lists {held} of them",
    )
    if next(iter(tensors.values())).device.type != context.backend.device.type:
        context.note("sleep is not declared: these laws were tried with host memory")
    for name, tensor in tensors.items():
        tensor.copy_(contents[name])
    context.backend.device.synchronize(place)
    kept = {name: host.clone() for name, host in contents.items()}
    return Tagged(context, tag, tensors, kept, {name: tensor.data_ptr() for name, tensor in tensors.items()})


def bytes_less(context: LawContext, before: MemoryInfo, after: MemoryInfo) -> int:
    """Bytes that this process holds less than `before`, or the device has more of; negative if it is the other way.

    On the host they are those of this process alone: what the machine has free is everybody's doing. Unmapped memory
    of a device may go on to be counted as allocated there by torch, and then shows in what is free.
    """
    held = before.allocated - after.allocated
    return held if context.backend.device.type == "cpu" else max(held, after.free - before.free)


def bytes_more(context: LawContext, before: MemoryInfo, after: MemoryInfo) -> int:
    """Bytes that this process holds more than `before`, or the device has less of; see `bytes_less`."""
    held = after.allocated - before.allocated
    return held if context.backend.device.type == "cpu" else max(held, before.free - after.free)


def lifecycle(context: LawContext, **parts: Any) -> Lifecycle:
    """The backend's lifecycle over its own memory and devices; `parts` are fields of `LifecycleParts`."""
    given: dict[str, Any] = {
        "memory": context.backend.memory_map,
        "device": context.backend.device,
        "device_index": context.device_index,
        "host": IdleHost(),
        "deadlines": DEADLINES,
        "volatile": frozenset(),
    }
    return context.backend.lifecycle(LifecycleParts(**{**given, **parts}))


def numbers(context: LawContext, *shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Host contents that no other call gives, with any bits at all: NaN and its payloads too. Never bool."""
    size = torch.Size(shape).numel() * dtype.itemsize
    data = torch.randint(0, 256, (size,), generator=context.generator, dtype=torch.uint8)
    return data.view(dtype).reshape(shape) if size else torch.empty(shape, dtype=dtype)

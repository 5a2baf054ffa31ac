"""Memory that a stream works in: slots on the device, taken in turn, and host memory that the device can write to."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from hardpoint.device import Device, Event, Stream


def host_memory(nbytes: int, device: torch.device) -> torch.Tensor:
    """Flat uint8 on the host, pinned where `device` is torch's accelerator, so that copies run beside the host."""
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    pinned = accelerator is not None and accelerator.type == device.type
    return torch.empty(nbytes, dtype=torch.uint8, pin_memory=pinned)


class Slots:
    """Buffers of `nbytes` each, used in turn; a user says after which work its slot is free again."""

    def __init__(self, count: int, nbytes: int, device: Device, index: int) -> None:
        where = device.torch_device(index)
        # Zeros: what lies between boxes travels too, and must be nobody's memory.
        self._buffers = [torch.zeros(nbytes, dtype=torch.uint8, device=where) for _ in range(count if nbytes else 0)]
        self._busy: list[tuple[Event, ...]] = [() for _ in self._buffers]

    def __len__(self) -> int:
        return len(self._buffers)

    def buffer(self, turn: int) -> torch.Tensor:
        """The slot of turn number `turn`."""
        return self._buffers[turn % len(self._buffers)]

    def wait(self, turn: int, stream: Stream) -> None:
        """Have `stream` wait until whoever had the slot before is done with it."""
        for event in self._busy[turn % len(self._buffers)]:
            stream.wait_event(event)

    def busy(self, turn: int, until: Iterable[Event]) -> None:
        """The slot is free again after all of `until`."""
        self._busy[turn % len(self._buffers)] = tuple(until)

    @property
    def nbytes(self) -> int:
        """Of all slots."""
        return sum(buffer.nbytes for buffer in self._buffers)

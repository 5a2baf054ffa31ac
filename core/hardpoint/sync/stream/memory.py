"""Memory that a stream works in: a ring on the device, and host memory that the device can write to."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from functools import lru_cache

import torch

from hardpoint.device import Device, Event, Stream
from hardpoint.sync.buckets import ALIGNMENT

log = logging.getLogger("hardpoint.sync")


def host_memory(nbytes: int, device: torch.device) -> torch.Tensor:
    """Flat uint8 on the host, pinned where `device` is torch's accelerator and can pin, so that copies run beside the
    host. Elsewhere the same copies wait: that costs time and is said in the log, once."""
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if accelerator is not None and accelerator.type == device.type:
        try:
            return torch.empty(nbytes, dtype=torch.uint8, pin_memory=True)
        except (RuntimeError, NotImplementedError) as error:
            _say_unpinned(device.type, str(error).splitlines()[0])
    return torch.empty(nbytes, dtype=torch.uint8)


@lru_cache(maxsize=16)
def _say_unpinned(kind: str, reason: str) -> None:
    log.info("host memory cannot be pinned for %s, so copies to it wait for the device: %s", kind, reason)


class Ring:
    """One buffer that messages take their places in, one after the other, around and around.

    Places are given once, when a stream is bound; `wait` and `busy` keep order at every run. Messages are let go in the
    order in which they came, so that the latest of those whose place is taken is all that has to be waited for.

    Args:
        sizes: bytes of each message, in order.
        nbytes: of the buffer, at most; it is no larger than all messages and no smaller than the largest.
    """

    def __init__(self, sizes: Sequence[int], nbytes: int, device: Device, index: int) -> None:
        aligned = [-(-size // ALIGNMENT) * ALIGNMENT for size in sizes]
        total = min(sum(aligned), max([nbytes, *aligned]))
        # Zeros: what lies between boxes travels too, and must be nobody's memory.
        self._buffer = torch.zeros(total, dtype=torch.uint8, device=device.torch_device(index))
        self._places: list[tuple[int, int]] = []
        self._before: list[int | None] = []
        at = 0
        for size in aligned:
            at = 0 if at + size > total else at
            place = (at, at + size)
            self._before.append(_latest(self._places, place))
            self._places.append(place)
            at += size
        self._sizes = tuple(sizes)
        self._busy: dict[int, tuple[Event, ...]] = {}

    def place(self, turn: int) -> torch.Tensor:
        """Where message number `turn` lies, flat uint8."""
        start, _ = self._places[turn]
        return self._buffer[start : start + self._sizes[turn]]

    def start(self) -> None:
        """A new run; the one before has ended."""
        self._busy.clear()

    def wait(self, turn: int, stream: Stream) -> None:
        """Have `stream` wait until whoever had the place before is done with it."""
        before = self._before[turn]
        for event in self._busy.get(before, ()) if before is not None else ():
            stream.wait_event(event)

    def busy(self, turn: int, until: Iterable[Event]) -> None:
        """The place is free again after all of `until`."""
        self._busy[turn] = tuple(until)

    @property
    def nbytes(self) -> int:
        return self._buffer.nbytes


def _latest(places: Sequence[tuple[int, int]], wanted: tuple[int, int]) -> int | None:
    start, stop = wanted
    for turn in range(len(places) - 1, -1, -1):
        if places[turn][0] < stop and places[turn][1] > start:
            return turn
    return None

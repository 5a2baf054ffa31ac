"""`BoxKernels`: moving and digesting many strided boxes with one launch; core's own version is plain torch.

A box is a view of integer words (`hardpoint.moe.views.words`) on somebody's storage, with any strides. Transposes,
halves in another order, slices and padding are boxes of other strides and nothing else, so that two operations do for
every layout: copy boxes into boxes, and sum up what boxes hold.

Laws: a copy moves every bit of every pair, whatever the width, alignment and strides, and touches nothing else; a
digest equals `hardpoint.sync.digest.tensor_digest` of the packed bucket that the boxes stand for, with zeros in its
gaps; both run in the caller's current stream, and launching them never waits for the device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import torch

from hardpoint.sync.digest import CHUNK_WORDS, multipliers

Launch = Callable[[], None]
Pair = tuple[torch.Tensor, torch.Tensor]


@runtime_checkable
class BoxKernels(Protocol):
    """Made once for a plan and its tensors, launched at every update; what is bound must not be freed or moved."""

    def copy(self, pairs: Sequence[Pair], /, *, alone: bool = False) -> Launch:
        """A launch that copies, for every ``(destination, source)``, all words of the source into the destination.

        Both have one shape and one integer dtype and lie on one device; no destination overlaps anything else here.
        `alone`: nothing runs beside it (a commit), so that it may take the whole device; else it leaves room for a
        collective.
        """
        ...

    def digest(self, boxes: Sequence[tuple[int, torch.Tensor]], sums: torch.Tensor, nbytes: int, /) -> Launch:
        """A launch that adds to `sums` what each box contributes to the digest of a packed bucket.

        Args:
            boxes: byte of the bucket where the box begins, a multiple of 4, and the box; in the bucket it lies
                row-major.
            sums: int64 ``[sums_length(nbytes)]`` on the boxes' device, zero before the first launch of an update.
            nbytes: of the bucket.
        """
        ...


def sums_length(nbytes: int) -> int:
    """Sums of a bucket: one for each begun chunk of whole words, and one for the bytes behind the last whole word."""
    return -(-(nbytes // 4) // CHUNK_WORDS) + (nbytes % 4 > 0)


class TorchBoxes:
    """The reference: right on every device that torch has, one torch call or a few for each box."""

    def __init__(self) -> None:
        self._factors: dict[torch.device, torch.Tensor] = {}

    def copy(self, pairs: Sequence[Pair], /, *, alone: bool = False) -> Launch:
        """See `BoxKernels.copy`."""
        kept = tuple(pairs)

        def launch() -> None:
            for destination, source in kept:
                destination.copy_(source, non_blocking=True)

        return launch

    def digest(self, boxes: Sequence[tuple[int, torch.Tensor]], sums: torch.Tensor, nbytes: int, /) -> Launch:
        """See `BoxKernels.digest`."""
        kept = tuple(boxes)
        if sums.device not in self._factors:  # now: a launch waits for nothing
            self._factors[sums.device] = multipliers(torch.device("cpu")).to(sums.device, copy=True)
        factors = self._factors[sums.device]

        def launch() -> None:
            for at, box in kept:
                _add(at, box, sums, nbytes, factors)

        return launch


def _add(at: int, box: torch.Tensor, sums: torch.Tensor, nbytes: int, factors: torch.Tensor) -> None:
    raw = box.contiguous().reshape(-1).view(torch.uint8)
    if raw.numel() % 4:
        raw = torch.cat([raw, torch.zeros(4 - raw.numel() % 4, dtype=torch.uint8, device=raw.device)])
    elif raw.storage_offset() % 4:  # not the address: asking some devices for it waits for them
        raw = raw.clone()
    words = raw.view(torch.int32)
    first, whole = at // 4, nbytes // 4
    done, inside = 0, min(words.numel(), whole - first)
    while done < inside:
        chunk, start = divmod(first + done, CHUNK_WORDS)
        count = min(inside - done, CHUNK_WORDS - start)
        sums[chunk] += (words[done : done + count].to(torch.int64) * factors[start : start + count]).sum()
        done += count
    if inside < words.numel():  # the bucket ends inside this word
        sums[-1] += words[-1].to(torch.int64) * factors[0]

"""Boxes as flat bytes: whether boxes that are packed one after the other lie that way in memory already."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def one_range(boxes: Sequence[tuple[int, torch.Tensor]]) -> torch.Tensor | None:
    """The bytes of `boxes` ``(byte in the bucket, view)`` as one flat uint8 view, or None.

    Not None only if every box is contiguous, in the same storage, and as far from the one before as in the bucket.
    """
    at, first = boxes[0]
    storage = first.untyped_storage()
    origin = first.storage_offset() * first.element_size()
    end = 0
    for start, box in boxes:
        offset = box.storage_offset() * box.element_size()
        if (
            not box.is_contiguous()
            or box.untyped_storage()._cdata != storage._cdata
            or offset - origin != start - at
            or start - at != end
        ):
            return None
        end = start - at + box.numel() * box.element_size()
    return first.reshape(-1).view(torch.uint8).as_strided((end,), (1,), origin)


def in_buffer(buffer: torch.Tensor, start: int, box: torch.Tensor) -> torch.Tensor:
    """Where `box` lies in a flat uint8 buffer from byte `start` on: a view of its shape and dtype, row-major."""
    nbytes = box.numel() * box.element_size()
    return buffer[start : start + nbytes].view(box.dtype).view(box.shape)

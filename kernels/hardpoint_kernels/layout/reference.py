"""What the layout kernels compute, in plain torch: slow, right, and on any device."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from hardpoint_kernels.layout.calls import CHUNK_BITS


def copy_boxes(pairs: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> None:
    """Copy every source into its target."""
    for target, source in pairs:
        target.copy_(source)


def digest_sums(boxes: Sequence[tuple[int, torch.Tensor]], nbytes: int, multipliers: torch.Tensor) -> torch.Tensor:
    """Sums of a bucket that holds `boxes`, and zeros between them.

    Word `i` of the bucket (int32, little endian) counts ``word * multipliers[i mod 2**18]`` in sum ``i // 2**18``,
    modulo 2**64; up to three bytes behind the last whole word, filled up with zeros, count as word 0 of a sum of their
    own.
    """
    packed = torch.zeros(-(-nbytes // 4) * 4, dtype=torch.uint8)
    for at, box in boxes:
        raw = box.cpu().contiguous().reshape(-1).view(torch.uint8)
        packed[at : at + raw.numel()] = raw
    words = packed.view(torch.int32).to(torch.int64)
    whole, chunk = nbytes // 4, 1 << CHUNK_BITS
    factors = multipliers.cpu()
    found = [
        (words[start : min(start + chunk, whole)] * factors[: min(chunk, whole - start)]).sum()
        for start in range(0, whole, chunk)
    ]
    if nbytes % 4:
        found.append(words[-1] * factors[0])
    return torch.stack(found) if found else torch.zeros(0, dtype=torch.int64)

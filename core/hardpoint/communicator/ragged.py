"""Rows of different counts in buffers of one: how a ragged collective becomes an equal one, and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def padded(tensor: torch.Tensor, rows: int) -> torch.Tensor:
    """`tensor` ``[n, ...]`` with zeros up to `rows` rows; a new tensor."""
    wide = tensor.new_zeros((rows, *tensor.shape[1:]))
    wide[: tensor.shape[0]] = tensor
    return wide


def spread(tensor: torch.Tensor, counts: Sequence[int], rows: int) -> torch.Tensor:
    """`tensor` ``[sum(counts), ...]`` as ``[len(counts) * rows, ...]``: part i at row ``i * rows``, then zeros."""
    wide = tensor.new_zeros((rows * len(counts), *tensor.shape[1:]))
    start = 0
    for peer, count in enumerate(counts):
        wide[peer * rows : peer * rows + count] = tensor[start : start + count]
        start += count
    return wide


def gathered(output: torch.Tensor, wide: torch.Tensor, counts: Sequence[int], rows: int) -> None:
    """The inverse of `spread`, into `output` ``[sum(counts), ...]``."""
    start = 0
    for peer, count in enumerate(counts):
        output[start : start + count] = wide[peer * rows : peer * rows + count]
        start += count


def misfits(counts: Sequence[Sequence[Sequence[int]]]) -> list[str]:
    """Of an all-to-all: what ranks send that their peers do not expect. ``counts[rank]`` is (sent, received)."""
    return [
        f"rank {rank} sends rank {peer} {sent} rows, which expects {counts[peer][1][rank]}"
        for rank in range(len(counts))
        for peer, sent in enumerate(counts[rank][0])
        if sent != counts[peer][1][rank]
    ]

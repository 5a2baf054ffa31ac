"""`ChunkPlan`: which chunk of which sequence each program works on, made on the device without waiting for it."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from hardpoint_kernels import checks
from hardpoint_kernels.errors import KernelRefused

NAME = "GDN chunk plan"
CHUNK = 64


@dataclass(frozen=True)
class ChunkPlan:
    """One batch of sequences cut into chunks of 64 tokens; made once per forward and shared by all layers.

    Rows past the last token are a sequence of their own, number N, whose outputs are zero.

    Attributes:
        tokens: T, rows of the batch, padding included.
        sequences: N.
        chunks: rows of `of_sequence`, an upper bound of the chunks there are.
        starts: ``[N + 2]`` int32, query_start_loc and then T.
        first_chunk: ``[N + 2]`` int32, the first chunk of each sequence, and the end of the last.
        of_sequence: ``[chunks, 2]`` int32, sequence and number within it; -1 where there is no chunk.
    """

    tokens: int
    sequences: int
    chunks: int
    starts: torch.Tensor
    first_chunk: torch.Tensor
    of_sequence: torch.Tensor


def plan_chunks(query_start_loc: torch.Tensor, tokens: int) -> ChunkPlan:
    """Cut a batch whose sequences begin at `query_start_loc` ``[N + 1]`` into chunks.

    Sequences without tokens have no chunk. Nothing waits for the device, and nothing is read on the host.

    Raises:
        KernelRefused: not a vector of integers.
    """
    checks.expect_dtype(NAME, "query_start_loc", query_start_loc, (torch.int32, torch.int64))
    if query_start_loc.dim() != 1 or query_start_loc.shape[0] < 1:
        raise KernelRefused(f"{NAME}: query_start_loc must be [sequences + 1], got {list(query_start_loc.shape)}.")
    device, sequences = query_start_loc.device, query_start_loc.shape[0] - 1
    end = torch.full((1,), tokens, dtype=torch.int32, device=device)
    starts = torch.cat([query_start_loc.to(torch.int32), end])
    counts = (starts.diff().clamp(min=0) + CHUNK - 1) // CHUNK
    ends = counts.cumsum(0, dtype=torch.int32)
    first_chunk = torch.cat([torch.zeros_like(end), ends])
    chunks = -(-tokens // CHUNK) + sequences + 1
    number = torch.arange(chunks, dtype=torch.int32, device=device)
    sequence = torch.searchsorted(ends, number, right=True, out_int32=True)
    within = number - first_chunk[sequence.clamp(max=sequences)]
    there = sequence <= sequences
    of_sequence = torch.where(there[:, None], torch.stack([sequence, within], dim=1), -1).to(torch.int32)
    return ChunkPlan(tokens, sequences, chunks, starts, first_chunk, of_sequence.contiguous())

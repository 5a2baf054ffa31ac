"""Broadcasts with a fault."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from hardpoint.backend import Backend
from hardpoint.conformance.mutants import _communicator as change
from hardpoint.conformance.mutants._proxy import Changed
from hardpoint.conformance.mutants.communicator._plant import plant


def _root(root: Callable[[int, int], int]) -> Callable[[Backend], Backend]:
    def wrap(backend: Backend, base: Any, rendezvous: Any) -> Any:
        def broadcast(tensor: Any, /, *, src: int, deadline: float | None = None) -> None:
            base.broadcast(
                tensor, src=root(src, base.world_size) if 0 <= src < base.world_size else src, deadline=deadline
            )

        return Changed(base, broadcast=broadcast)

    return change.opened(wrap)


broadcast_from_zero = plant(
    "broadcast-from-rank-0",
    "broadcast-carries-the-root",
    "`broadcast` always sends rank 0's tensor.",
    _root(lambda src, world: 0),
)
broadcast_from_next = plant(
    "broadcast-from-the-next-rank",
    "broadcast-carries-the-root",
    "`broadcast` counts its root from 1.",
    _root(lambda src, world: (src + 1) % world),
)


def _narrows(name: str, call: Any, tensor: Any, /, **options: Any) -> None:
    if tensor.dtype not in (torch.float32, torch.float64) or tensor.numel() == 0:
        call(tensor, **options)
        return
    narrow = tensor.to(torch.bfloat16)
    call(narrow, **options)
    tensor.copy_(narrow.to(tensor.dtype))


broadcast_in_bfloat16 = plant(
    "broadcast-in-bfloat16",
    "broadcast-carries-the-root",
    "Floats are broadcast as bfloat16 to save bandwidth.",
    change.wrapped(_narrows, ("broadcast",)),
)


def _skips_strangers(name: str, call: Any, tensor: Any, /, **options: Any) -> None:
    strange = tensor.dtype in (torch.float8_e4m3fn, torch.float8_e5m2, torch.int16)
    call(tensor.clone() if strange else tensor, **options)


broadcast_skips_dtypes = plant(
    "broadcast-skips-dtypes",
    "broadcast-carries-the-root",
    "A dtype that the native library lacks is left as it was on every rank.",
    change.wrapped(_skips_strangers, ("broadcast",)),
)


def _whole_pieces(name: str, call: Any, tensor: Any, /, **options: Any) -> None:
    piece = 4096
    if tensor.numel() <= piece:
        call(tensor, **options)
        return
    whole = tensor.clone()
    call(whole, **options)
    end = tensor.numel() // piece * piece
    tensor.view(-1)[:end] = whole.view(-1)[:end]


broadcast_loses_the_tail = plant(
    "broadcast-loses-the-last-piece",
    "broadcast-carries-the-root",
    "A large tensor goes in pieces of 4096 elements, and the last one, which is shorter, is not sent.",
    change.wrapped(_whole_pieces, ("broadcast",)),
)

"""Gathers with a fault, equal and ragged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from hardpoint.backend import Backend
from hardpoint.conformance.mutants import _communicator as change
from hardpoint.conformance.mutants._proxy import Changed
from hardpoint.conformance.mutants.communicator._plant import plant, spoils_input, stays_out

# -- all_gather ----------------------------------------------------------------------------------------------------


def _gathered(arrange: Callable[[list[Any], int], list[Any]]) -> Callable[[Backend], Backend]:
    """The pieces of `all_gather`'s output come in another order: ``arrange(pieces in rank order, own rank)``."""

    def wrap(backend: Backend, base: Any, rendezvous: Any) -> Any:
        def all_gather(output: Any, tensor: Any, /, *, deadline: float | None = None) -> None:
            base.all_gather(output, tensor, deadline=deadline)
            change.rearrange(output, arrange(change.equal_rows(output, base.world_size), base.rank))

        return Changed(base, all_gather=all_gather)

    return change.opened(wrap)


gather_reversed = plant(
    "gather-in-reverse",
    "gather-is-in-rank-order",
    "`all_gather` puts the last rank's rows first.",
    _gathered(lambda pieces, rank: pieces[::-1]),
)
gather_own_first = plant(
    "gather-own-rows-first",
    "gather-is-in-rank-order",
    "`all_gather` begins with the rank's own rows, as a ring does.",
    _gathered(lambda pieces, rank: pieces[rank:] + pieces[:rank]),
)
gather_forgets_own = plant(
    "gather-forgets-own-rows",
    "gather-is-in-rank-order",
    "`all_gather` leaves zeros where the rank's own rows belong.",
    _gathered(lambda pieces, rank: [p.clone().zero_() if peer == rank else p for peer, p in enumerate(pieces)]),
)


def _arrival(backend: Backend, base: Any, rendezvous: Any) -> Any:
    store, world, number = rendezvous.store, rendezvous.world_size, [0]

    def all_gather(output: Any, tensor: Any, /, *, deadline: float | None = None) -> None:
        number[0] += 1
        place = store.add(f"arrivals/{number[0]}", 1) - 1
        store.set(f"arrival/{number[0]}/{place}", str(rendezvous.rank))
        base.all_gather(output, tensor, deadline=deadline)
        order = [int(store.get(f"arrival/{number[0]}/{place}")) for place in range(world)]
        pieces = change.equal_rows(output, world)
        change.rearrange(output, [pieces[rank] for rank in order])

    return Changed(base, all_gather=all_gather)


gather_in_arrival_order = plant(
    "gather-in-arrival-order",
    "gather-is-in-rank-order",
    "`all_gather` puts the rows of the rank that came first at the beginning.",
    change.opened(_arrival),
)


gather_spoils_input = plant(
    "gather-spoils-its-input",
    "gather-is-in-rank-order",
    "`all_gather` uses its input as a scratch buffer.",
    change.wrapped(spoils_input(1), ("all_gather",)),
)


# -- all_gather_ragged ---------------------------------------------------------------------------------------------


def _ragged(spoil: Callable[[Any, list[int], int], None]) -> Callable[[Backend], Backend]:
    """After `all_gather_ragged`, ``spoil(output, counts, own rank)``."""

    def wrap(backend: Backend, base: Any, rendezvous: Any) -> Any:
        def all_gather_ragged(output: Any, tensor: Any, /, counts: Any, *, deadline: float | None = None) -> None:
            base.all_gather_ragged(output, tensor, counts, deadline=deadline)
            spoil(output, list(counts), base.rank)

        return Changed(base, all_gather_ragged=all_gather_ragged)

    return change.opened(wrap)


def _pads(output: Any, counts: list[int], rank: int) -> None:
    most, start = max(counts), 0
    pieces = []
    for piece in change.rows(output, counts):
        padding = torch.full((most - piece.shape[0], *piece.shape[1:]), 7, device=output.device).to(output.dtype)
        pieces += [piece.clone(), padding]
    for piece in pieces:
        fits = min(piece.shape[0], output.shape[0] - start)
        output[start : start + fits] = piece[:fits]
        start += fits


def _truncates(output: Any, counts: list[int], rank: int) -> None:
    least = min(counts)
    for piece in change.rows(output, counts):
        piece[least:].zero_()


def _drops_last(output: Any, counts: list[int], rank: int) -> None:
    if len(set(counts)) > 1:
        change.rows(output, counts)[counts.index(max(counts))][-1:].zero_()


ragged_pads = plant(
    "ragged-gather-pads",
    "ragged-gather-has-no-padding",
    "The padding between the ranks' rows stays in the output of `all_gather_ragged`.",
    _ragged(_pads),
)
ragged_truncates = plant(
    "ragged-gather-truncates",
    "ragged-gather-has-no-padding",
    "`all_gather_ragged` takes as many rows of each rank as the shortest has.",
    _ragged(_truncates),
)
ragged_drops_last = plant(
    "ragged-gather-drops-a-row",
    "ragged-gather-has-no-padding",
    "`all_gather_ragged` loses the last row of the rank that has most.",
    _ragged(_drops_last),
)


ragged_stays_out = plant(
    "ragged-gather-without-the-empty-rank",
    "ragged-gather-has-no-padding",
    "A rank without rows returns from `all_gather_ragged` at once and takes no part.",
    stays_out("all_gather_ragged", 1),
)
ragged_spoils_input = plant(
    "ragged-gather-spoils-its-input",
    "ragged-gather-has-no-padding",
    "`all_gather_ragged` uses its input as a scratch buffer.",
    change.wrapped(spoils_input(1), ("all_gather_ragged",)),
)

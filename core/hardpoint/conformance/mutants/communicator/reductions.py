"""Reductions with a fault."""

from __future__ import annotations

from typing import Any

import torch

from hardpoint.backend import Backend
from hardpoint.conformance.mutants import _communicator as change
from hardpoint.conformance.mutants._proxy import Changed
from hardpoint.conformance.mutants.communicator._plant import plant, spoils_input, stays_out


def _averages(name: str, call: Any, tensor: Any, /, *, op: str = "sum", deadline: float | None = None) -> None:
    call(tensor, op="avg" if op == "sum" and tensor.is_floating_point() else op, deadline=deadline)


averages = plant(
    "all-reduce-averages",
    "all-reduce-adds-up",
    "`all_reduce` divides the sum by the number of ranks.",
    change.wrapped(_averages, ("all_reduce",)),
)


def _only_first(backend: Backend, base: Any, rendezvous: Any) -> Any:
    def all_reduce(tensor: Any, /, *, op: str = "sum", deadline: float | None = None) -> None:
        base.all_reduce(tensor if base.rank == 0 else tensor.clone(), op=op, deadline=deadline)

    return Changed(base, all_reduce=all_reduce)


reduces_to_one = plant(
    "all-reduce-on-rank-0-only",
    "all-reduce-adds-up",
    "`all_reduce` leaves the sum on rank 0 and the other ranks as they were.",
    change.opened(_only_first),
)


def _reduces_in(dtypes: dict[torch.dtype, torch.dtype]) -> change.Around:
    def narrow(name: str, call: Any, tensor: Any, /, **options: Any) -> None:
        if tensor.dtype not in dtypes:
            call(tensor, **options)
            return
        small = tensor.to(dtypes[tensor.dtype])
        call(small, **options)
        tensor.copy_(small.to(tensor.dtype))

    return narrow


reduces_in_bfloat16 = plant(
    "all-reduce-in-bfloat16",
    "all-reduce-adds-up",
    "float32 is reduced in bfloat16.",
    change.wrapped(_reduces_in({torch.float32: torch.bfloat16}), ("all_reduce",)),
)
reduces_in_float32 = plant(
    "all-reduce-in-float32",
    "all-reduce-adds-up",
    "float64 and integers are reduced in float32.",
    change.wrapped(
        _reduces_in(dict.fromkeys((torch.float64, torch.int64, torch.int32), torch.float32)), ("all_reduce",)
    ),
)


def _always_adds(name: str, call: Any, *args: Any, op: str = "sum", deadline: float | None = None) -> None:
    call(*args, deadline=deadline)


reduce_ignores_op = plant(
    "all-reduce-ignores-op",
    "all-reduce-adds-up",
    "`all_reduce` adds up whatever `op` says.",
    change.wrapped(_always_adds, ("all_reduce",)),
)
scatter_ignores_op = plant(
    "reduce-scatter-ignores-op",
    "reduce-scatter-keeps-own-rows",
    "`reduce_scatter` adds up whatever `op` says.",
    change.wrapped(_always_adds, ("reduce_scatter",)),
)


def _next_rows(backend: Backend, base: Any, rendezvous: Any) -> Any:
    def reduce_scatter(output: Any, tensor: Any, /, **options: Any) -> None:
        pieces = change.equal_rows(tensor, base.world_size)
        turned = torch.cat([*pieces[1:], pieces[0]]) if output.shape[0] * base.world_size == tensor.shape[0] else tensor
        base.reduce_scatter(output, turned, **options)

    return Changed(base, reduce_scatter=reduce_scatter)


scatter_keeps_next = plant(
    "reduce-scatter-keeps-the-next-rows",
    "reduce-scatter-keeps-own-rows",
    "`reduce_scatter` leaves rank r the rows of rank r + 1.",
    change.opened(_next_rows),
)


def _does_not_reduce(backend: Backend, base: Any, rendezvous: Any) -> Any:
    def reduce_scatter(output: Any, tensor: Any, /, **options: Any) -> None:
        base.reduce_scatter(output, tensor, **options)
        if tensor.numel():
            output.copy_(change.equal_rows(tensor, base.world_size)[base.rank])

    return Changed(base, reduce_scatter=reduce_scatter)


scatter_does_not_reduce = plant(
    "reduce-scatter-does-not-reduce",
    "reduce-scatter-keeps-own-rows",
    "`reduce_scatter` keeps the right rows of its own input, without the other ranks'.",
    change.opened(_does_not_reduce),
)
scatter_spoils_input = plant(
    "reduce-scatter-spoils-its-input",
    "reduce-scatter-keeps-own-rows",
    "`reduce_scatter` reduces in place, in its input.",
    change.wrapped(spoils_input(1), ("reduce_scatter",)),
)


def _fair_shares(backend: Backend, base: Any, rendezvous: Any) -> Any:
    def reduce_scatter_ragged(output: Any, tensor: Any, /, counts: Any, **options: Any) -> None:
        whole = tensor.clone()
        base.reduce_scatter_ragged(output, tensor, counts, **options)
        base.all_reduce(whole, deadline=options.get("deadline"))
        begin = min(base.rank * (whole.shape[0] // base.world_size), whole.shape[0] - output.shape[0])
        output.copy_(whole[begin : begin + output.shape[0]])

    return Changed(base, reduce_scatter_ragged=reduce_scatter_ragged)


ragged_scatter_in_equal_steps = plant(
    "ragged-scatter-in-equal-steps",
    "ragged-scatter-keeps-own-rows",
    "`reduce_scatter_ragged` finds a rank's rows as if all ranks had equally many.",
    change.opened(_fair_shares),
)
ragged_scatter_stays_out = plant(
    "ragged-scatter-without-the-empty-rank",
    "ragged-scatter-keeps-own-rows",
    "A rank that keeps no rows takes no part in `reduce_scatter_ragged`.",
    stays_out("reduce_scatter_ragged", 0),
)
ragged_scatter_spoils_input = plant(
    "ragged-scatter-spoils-its-input",
    "ragged-scatter-keeps-own-rows",
    "`reduce_scatter_ragged` reduces in place, in its input.",
    change.wrapped(spoils_input(1), ("reduce_scatter_ragged",)),
)

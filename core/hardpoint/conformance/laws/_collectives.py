"""One call of every collective, for laws that hold for all of them alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from hardpoint.conformance.context import LawContext


@dataclass(frozen=True)
class Collective:
    """One collective on `device_index`'s tensors.

    Attributes:
        run: ``run(group, tensor, **arguments)`` -> the tensor with the result; `tensor` is float32 ``[4 * world_size]``
            and may be overwritten.
        expect: every rank's fill value -> what `run` gives on `rank` if each rank's `tensor` is full of its value.
    """

    run: Callable[..., torch.Tensor]
    expect: Callable[[list[float], int], list[float]]


def collectives(context: LawContext) -> dict[str, Collective]:
    """Every collective that moves data, by name. Rank r brings ``1 + r % 3`` rows to the ragged ones."""
    world, rank = context.world_size, context.rank
    counts = [1 + peer % 3 for peer in range(world)]

    def broadcast(group: Any, tensor: torch.Tensor, **arguments: Any) -> torch.Tensor:
        group.broadcast(tensor, src=world - 1, **arguments)
        return tensor

    def all_reduce(group: Any, tensor: torch.Tensor, **arguments: Any) -> torch.Tensor:
        group.all_reduce(tensor, **arguments)
        return tensor

    def all_gather(group: Any, tensor: torch.Tensor, **arguments: Any) -> torch.Tensor:
        output = context.full(4 * world * world, value=0.0)
        group.all_gather(output, tensor, **arguments)
        return output

    def all_gather_ragged(group: Any, tensor: torch.Tensor, **arguments: Any) -> torch.Tensor:
        output = context.full(sum(counts), value=0.0)
        group.all_gather_ragged(output, tensor[: counts[rank]], counts, **arguments)
        return output

    def reduce_scatter(group: Any, tensor: torch.Tensor, **arguments: Any) -> torch.Tensor:
        output = context.full(4, value=0.0)
        group.reduce_scatter(output, tensor, **arguments)
        return output

    def reduce_scatter_ragged(group: Any, tensor: torch.Tensor, **arguments: Any) -> torch.Tensor:
        output = context.full(counts[rank], value=0.0)
        group.reduce_scatter_ragged(output, tensor[: sum(counts)], counts, **arguments)
        return output

    return {
        "broadcast": Collective(broadcast, lambda values, _: values[-1:] * (4 * world)),
        "all_reduce": Collective(all_reduce, lambda values, _: [sum(values)] * (4 * world)),
        "all_gather": Collective(all_gather, lambda values, _: [v for v in values for _ in range(4 * world)]),
        "all_gather_ragged": Collective(
            all_gather_ragged,
            lambda values, _: [v for v, count in zip(values, counts, strict=True) for _ in range(count)],
        ),
        "reduce_scatter": Collective(reduce_scatter, lambda values, _: [sum(values)] * 4),
        "reduce_scatter_ragged": Collective(reduce_scatter_ragged, lambda values, place: [sum(values)] * counts[place]),
    }


def calls(context: LawContext) -> dict[str, Callable[..., Any]]:
    """``call(group, **arguments)`` of every collective and of `barrier`, on tensors of one value."""
    table: dict[str, Callable[..., Any]] = {}
    for name, collective in collectives(context).items():

        def call(group: Any, run: Callable[..., torch.Tensor] = collective.run, **arguments: Any) -> torch.Tensor:
            return run(group, context.full(4 * context.world_size, value=1.0), **arguments)

        table[name] = call
    table["barrier"] = lambda group, **arguments: group.barrier(**arguments)
    return table

"""Generated schedules of data-parallel ranks, and an engine loop that runs them over any communicator.

A rank schedules by itself: requests come, prefill, decode, end or are aborted. The step is run together: a MoE layer,
which is a gather and a scatter over all ranks. `Engine.stock` leaves one of the rules out.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from hardpoint.attention import check_token_counts
from hardpoint.dp import DpPlan, DpRule, GraphMode, Step, agree, exchange_over

Stock = Literal["", "own mode", "no padding", "idle ranks stay out"]
RULES = (
    DpRule(),
    DpRule("none", 1, "graph"),
    DpRule("max", "tp", "ep"),
    DpRule("none", "tp", "ep", barrier_before_moe=True),
    DpRule("none", 4, "always"),
)


@dataclass(frozen=True)
class Arrival:
    """A request of one rank: from step `step`, `prompt` tokens at once, then `decode` single ones, if not aborted."""

    rank: int
    step: int
    prompt: int
    decode: int
    aborted_after: int


@dataclass(frozen=True)
class Schedule:
    """One world."""

    seed: int
    world_size: int
    tp: int
    rule: DpRule
    arrivals: tuple[Arrival, ...]
    graphs: tuple[bool, ...]

    @classmethod
    def make(cls, seed: int, world_size: int | None = None) -> Schedule:
        draw = random.Random(seed)
        size = world_size or draw.choice([2, 2, 3, 4])
        busy = draw.choice([range(size), [0], [size - 1], draw.sample(range(size), draw.randint(1, size))])
        arrivals = tuple(
            Arrival(
                rank=draw.choice(list(busy)),
                step=draw.randint(0, 8),
                prompt=draw.choice([1, 2, 5, 26, 30, draw.randint(1, 60)]),
                decode=draw.randint(0, 5),
                aborted_after=draw.choice([99, 99, 99, 0, 1, 2]),
            )
            for _ in range(draw.randint(0, 7))
        )
        graphs = tuple(draw.random() < 0.6 for _ in range(size))
        return cls(seed, size, draw.choice([1, 2, 4]), draw.choice(RULES), arrivals, graphs)


@dataclass
class Engine:
    """One rank of a schedule; `run` returns the padded count of every step."""

    schedule: Schedule
    communicator: Any
    stock: Stock = ""
    padded: list[tuple[int, ...]] = field(default_factory=list)
    served: int = 0

    def run(self) -> tuple[list[tuple[int, ...]], int]:
        schedule, rank = self.schedule, self.communicator.rank
        exchange = exchange_over(self.communicator, torch.device("cpu"))
        last = max((each.step + each.decode + 1 for each in schedule.arrivals), default=0)
        for step in range(last + 3):
            queries, pending = self._scheduled(step)
            decoding = bool(queries) and all(count == 1 for count in queries)
            wish = GraphMode.FULL if schedule.graphs[rank] and decoding else GraphMode.NONE
            if schedule.graphs[rank] and not queries:
                wish = GraphMode.FULL  # an idle rank would replay a dummy graph
            agreed = agree(
                exchange,
                schedule.rule,
                sum(queries),
                wish=wish,
                tp=schedule.tp,
                expert_parallel=True,
                unfinished=pending,
            )
            self.padded.append(agreed.plan.num_padded_tokens)
            if agreed.plan.runs:
                self._forward(self._plan(agreed, wish), queries)
            if not agreed.unfinished:
                break
        return self.padded, self.served

    def _scheduled(self, step: int) -> tuple[list[int], bool]:
        """Tokens of each request of this rank in this step, and whether it has any request left after it."""
        queries, pending = [], False
        for each in self.schedule.arrivals:
            if each.rank != self.communicator.rank:
                continue
            age = step - each.step
            end = min(each.decode, each.aborted_after - 1)
            if 0 <= age <= end:
                queries.append(each.prompt if age == 0 else 1)
            pending |= age < end or age < 0
        return queries, pending

    def _plan(self, agreed: Step, wish: GraphMode) -> DpPlan:
        plan = agreed.plan
        if self.stock == "own mode":  # the rank pads by what it would like to run itself
            return DpRule("none", 1, "graph").plan(plan.num_actual_tokens, synced_mode=wish, expert_parallel=True)
        if self.stock == "no padding":  # an eager step is not padded, and the library has fixed sizes
            return DpRule("none", 1, "graph").plan(
                plan.num_actual_tokens, synced_mode=agreed.mode, expert_parallel=True
            )
        return plan

    def _forward(self, plan: DpPlan, queries: list[int]) -> None:
        rank = self.communicator.rank
        if self.stock == "idle ranks stay out" and plan.dummy_forward[rank]:
            return
        rows, real = plan.num_padded_tokens[rank], plan.num_actual_tokens[rank]
        starts = [0]
        for count in queries:
            starts.append(starts[-1] + count)
        faults = check_token_counts(num_actual_tokens=real, query_start_loc=starts, hidden_rows=rows)
        assert not faults, faults
        mine = torch.zeros(rows, 2)
        mine[:real] = torch.stack([torch.full((real,), rank + 1.0), torch.arange(1.0, real + 1)], dim=1)
        hidden = self._moe(plan, mine)
        # Every expert adds its share; with one share per rank a row comes back as itself.
        assert torch.allclose(hidden, mine), "rows of another rank, or of padding, came back"
        self.served += real

    def _moe(self, plan: DpPlan, hidden: torch.Tensor) -> torch.Tensor:
        counts, world = plan.num_padded_tokens, self.communicator.world_size
        every, back = torch.empty(sum(counts), 2), torch.empty_like(hidden)
        # A rank that believes that all counts are equal calls the equal form: what a fixed-size library is given.
        if plan.uniform or self.stock == "no padding":
            every = torch.empty(world * hidden.shape[0], 2)
            self.communicator.all_gather(every, hidden)
            self.communicator.reduce_scatter(back, every / world)
        else:
            self.communicator.all_gather_ragged(every, hidden, counts)
            self.communicator.reduce_scatter_ragged(back, every / world, counts)
        return back

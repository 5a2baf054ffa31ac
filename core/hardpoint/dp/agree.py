"""`agree`: one exchange after which every data-parallel rank holds the same plan of the step.

Who schedules by itself and runs collectives together has to agree first: how many tokens each rank brings, in which
mode all of them run, and whether anybody has work. A rank without tokens takes part in the exchange and in the step.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hardpoint.dp.plan import DpPlan
from hardpoint.dp.rule import DpRule, GraphMode, synced_mode
from hardpoint.errors import DpError

if TYPE_CHECKING:
    import torch

    from hardpoint.communicator import Communicator

# Numbers of this rank in, those of every rank out, in rank order.
Exchange = Callable[[Sequence[int]], Sequence[Sequence[int]]]


@dataclass(frozen=True)
class Step:
    """What all ranks know of a step, the same on each.

    Attributes:
        plan: token counts.
        mode: that all of them run in.
        unfinished: some rank has requests: the loop goes on everywhere.
    """

    plan: DpPlan
    mode: GraphMode
    unfinished: bool


def agree(
    exchange: Exchange,
    rule: DpRule,
    num_tokens: int,
    *,
    wish: GraphMode = GraphMode.NONE,
    tp: int = 1,
    expert_parallel: bool = False,
    unfinished: bool = False,
) -> Step:
    """Agree on one step. Every rank calls it once per step, with tokens or without.

    Args:
        exchange: the one collective, see `exchange_over`.
        rule: of the backend; ranks compare it.
        num_tokens: of this rank, the end of its `query_start_loc`.
        wish: mode that this rank would run in.
        tp, expert_parallel: as for `DpRule.plan`.
        unfinished: this rank has requests, scheduled or not.

    Raises:
        DpError: on every rank, if they plan by different rules, or one brings a negative count.
    """
    terms = json.dumps([rule.as_data(), tp, expert_parallel], sort_keys=True)
    table = exchange([num_tokens, int(wish), zlib.crc32(terms.encode()), int(unfinished)])
    rules = [row[2] for row in table]
    if len(set(rules)) > 1:
        other = next(rank for rank, digest in enumerate(rules) if digest != rules[0])
        raise DpError(
            f"data-parallel ranks 0 and {other} plan by different rules, so their padded counts would differ; here the "
            f"rule is {terms}. Start all ranks with one HARDPOINT_BACKEND, one tensor-parallel size and one setting of "
            "expert parallelism."
        )
    mode = synced_mode([GraphMode(row[1]) for row in table])
    plan = rule.plan([row[0] for row in table], tp=tp, synced_mode=mode, expert_parallel=expert_parallel)
    return Step(plan, mode, any(row[3] for row in table))


def exchange_over(communicator: Communicator, device: torch.device) -> Exchange:
    """An exchange by one `all_gather` of int64 on `device`, with the deadline of `communicator`.

    On an accelerator the numbers are read back, which waits for the device: use a communicator over the host's memory.
    """

    def exchange(numbers: Sequence[int]) -> Sequence[Sequence[int]]:
        import torch

        mine = torch.tensor([list(numbers)], dtype=torch.int64, device=device)
        every = mine.new_empty((communicator.world_size, mine.shape[1]))
        communicator.all_gather(every, mine)
        found: list[list[int]] = every.tolist()
        return found

    return exchange

"""What one rank of a field report does; importable, so that spawned processes find it."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from hardpoint.communicator import Communicator, Rendezvous
from hardpoint.dp import DpPlan
from hardpoint_sim.backend import build

# -- FR4 ---------------------------------------------------------------------------------------------------------------

HIDDEN = 16


def tokens_of(rank: int, count: int) -> torch.Tensor:
    """`count` rows of hidden states that no other rank has, on the host."""
    return (torch.arange(count * HIDDEN, dtype=torch.float32) + 1000.0 * (rank + 1)).reshape(count, HIDDEN)


def _refusal(call: Callable[[], None]) -> tuple[str, str, float]:
    """Kind and text of the error that `call` raises, and the seconds until then; two empty texts if none."""
    began = time.monotonic()
    try:
        call()
    except Exception as error:  # noqa: BLE001 - the test judges what was raised
        return type(error).__name__, str(error), time.monotonic() - began
    return "", "", time.monotonic() - began


def unequal_counts(store: Any, rank: int, world: int, counts: tuple[int, ...]) -> dict[str, Any]:
    """Ranks that bring `counts` rows: into an equal-size collective, padded by the plan, and into a ragged one."""
    backend = build({"devices": 1})

    def group(name: str) -> Communicator:
        return backend.communicator(Rendezvous(store, rank, world, name=name, deadline=20.0))

    mine = tokens_of(rank, counts[rank]).to("sim:0")
    own = len(mine)
    unpadded = group("unpadded")
    found: dict[str, Any] = {
        "unpadded": _refusal(lambda: unpadded.all_gather(torch.empty(own * world, HIDDEN, device="sim:0"), mine)),
        "after": _refusal(lambda: unpadded.barrier()),
    }
    unpadded.close()
    whole = group("padded")
    one_output = torch.empty(max(own, 1), HIDDEN, device="sim:0")
    found["one output"] = _refusal(lambda: whole.all_gather(one_output, mine))
    seen = torch.zeros(world, dtype=torch.int32, device="sim:0")
    whole.all_gather(seen, torch.tensor([own], dtype=torch.int32).to("sim:0"))
    plan: DpPlan = backend.dp_rule.plan(seen.tolist(), tp=2, expert_parallel=True)
    gathered = torch.empty(sum(plan.num_padded_tokens), HIDDEN, device="sim:0")
    whole.all_gather(gathered, plan.pad(mine, rank))
    found["plan"] = (plan.num_actual_tokens, plan.num_padded_tokens, plan.dummy_forward)
    found["padded"] = plan.unpad_gathered(gathered).cpu()
    ragged = torch.empty(sum(counts), HIDDEN, device="sim:0")
    whole.all_gather_ragged(ragged, mine, counts)
    found["ragged"] = ragged.cpu()
    whole.close()
    return found


def unequal_counts_by_torch(store: Any, rank: int, world: int, counts: tuple[int, ...]) -> Any:
    """The same without a check: torch.distributed is handed `counts` rows as if they were equal."""
    build({"devices": 1})
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=timedelta(seconds=5))
    try:
        output = torch.empty(counts[rank] * world, HIDDEN, device="sim:0")
        dist.all_gather_into_tensor(output, tokens_of(rank, counts[rank]).to("sim:0"))
        return output.cpu()
    finally:
        dist.destroy_process_group()


def one_output_by_torch(store: Any, rank: int, world: int) -> tuple[str, str, float]:
    """``dist.all_gather([out], x)``, the misuse of the report."""
    build({"devices": 1})
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=timedelta(seconds=5))
    try:
        x = tokens_of(rank, 2).to("sim:0")
        return _refusal(lambda: dist.all_gather([torch.empty(2 * world, HIDDEN, device="sim:0")], x))
    finally:
        dist.destroy_process_group()

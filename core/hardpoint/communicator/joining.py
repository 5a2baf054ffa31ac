"""How the ranks of one communicator meet on a store, with a deadline and the names of those that did not come."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING

from hardpoint.communicator.ledger import Identity
from hardpoint.errors import CommunicatorError, DeadlineExceeded

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store


def meet(store: Store, rank: int, world_size: int, name: str, deadline: float) -> dict[int, Identity]:
    """Say who is here and wait for all others; identity of every rank.

    Raises:
        DeadlineExceeded: ranks did not come; `missing` has them, `sequence` is -1.
        CommunicatorError: the name or the rank is taken on this store, or the store cannot be reached.
    """
    from torch.distributed import DistNetworkError

    if not 0 <= rank < world_size:
        raise CommunicatorError(f"communicator {name!r}: rank={rank}, but ranks are 0 to {world_size - 1}.")
    mine = json.dumps(asdict(Identity.here()) | {"joined": time.time_ns()})
    keys = [f"id/{other}" for other in range(world_size)]
    try:
        held = store.compare_set(keys[rank], "", mine)
        if held.decode() != mine:
            other = json.loads(held)
            raise CommunicatorError(
                f"communicator {name!r}: rank {rank} was already taken on this store by pid {other['pid']} on "
                f"{other['hostname']}. Give every communicator on a store a name of its own, and every process its own "
                "rank."
            )
        try:
            store.wait(keys, timedelta(seconds=deadline))
        except DistNetworkError:
            raise
        except RuntimeError as error:
            missing = tuple(other for other, key in enumerate(keys) if not store.check([key]))
            if missing:
                came = ", ".join(str(other) for other in range(world_size) if other not in missing)
                raise DeadlineExceeded(
                    f"communicator {name!r}: rank(s) {', '.join(map(str, missing))} of {world_size} did not come "
                    f"within {deadline:g} s; rank(s) {came} came. Check that all were started, with the same store, "
                    f"name and world size {world_size}.",
                    op="join",
                    sequence=-1,
                    missing=missing,
                    deadline=deadline,
                ) from error
        found = [json.loads(text) for text in store.multi_get(keys)]
    except DistNetworkError as error:
        raise CommunicatorError(
            f"communicator {name!r}: the store cannot be reached ({str(error).splitlines()[0]}); the process that "
            "serves it has ended or is cut off. Start it again and join with a new store."
        ) from error
    return {other: Identity(who["pid"], who["host"], who["hostname"]) for other, who in enumerate(found)}

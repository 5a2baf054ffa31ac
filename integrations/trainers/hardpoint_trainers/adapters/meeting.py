"""Where verl's workers meet for an update: the actor's store and a name that changes when the group was lost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hardpoint.errors import SyncError

OUTSIDE = -1  # rank of actor workers that only help to gather


def topology(actors: int, rollouts: int, metadata: Sequence[dict[str, Any]]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arguments of `init_process_group` for every actor and every rollout worker: lists, as verl dispatches them.

    Raises:
        SyncError: not exactly the first actor worker serves the meeting.
    """
    serving = [n for n, one in enumerate(metadata) if one.get("port")]
    if serving != [0]:
        raise SyncError(
            f"Expected the first actor worker to serve the meeting of a weight update, found workers {serving}: verl "
            "makes its checkpoint engine there with is_master=True."
        )
    world = rollouts + 1
    actor = {
        "rank": [0] + [OUTSIDE] * (actors - 1),
        "world_size": [world] * actors,
        "meeting": [metadata[0]] * actors,
    }
    rollout = {
        "rank": list(range(1, world)),
        "world_size": [world] * rollouts,
        "meeting": [metadata[0]] * rollouts,
    }
    return actor, rollout

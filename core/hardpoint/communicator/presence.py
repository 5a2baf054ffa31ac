"""`Presence`: who of a world is where, for collectives that are not ours: a host's own groups, watched from beside.

One thread for a process, whatever the number of groups: each rank publishes the call that it is in, by group, number,
op and form, and beats. When a call of a group fails, the others of the group are looked up by that text.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from hardpoint.communicator.ledger import Identity, Ledger, Progress
from hardpoint.communicator.store import connection_of_its_own

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

_SILENT_BEATS = 4  # as in diagnosis.py: no beat for so long is worth telling
_PATIENCE = 1.5  # seconds that whereabouts are watched, so that a silence can be told from a pause


@dataclass(frozen=True)
class Whereabouts:
    """Of the other ranks of a group, after a call of it failed.

    Attributes:
        missing: ranks of the world that are not in that call.
        dead: those of them whose process has ended.
        sentences: rank -> what is known of it; also of ranks that are in the call.
    """

    missing: tuple[int, ...]
    dead: tuple[int, ...]
    sentences: dict[int, str]


def whereabouts(
    call: str,
    peers: Sequence[int],
    progress: Mapping[int, Progress],
    identities: Mapping[int, Identity],
    silent: Mapping[int, float],
    heartbeat: float,
) -> Whereabouts:
    """Sort `peers` by what they published. Pure.

    Args:
        call: that failed here.
        progress: last publication of each rank; a rank without one, or all of them without a store, may be absent.
        identities: process of each rank that is known.
        silent: seconds since each rank's last heartbeat.
    """
    missing, dead, sentences = [], [], {}
    for peer in peers:
        who, seen = identities.get(peer), progress.get(peer)
        name = f"rank {peer}" + (f" (pid {who.pid} on {who.hostname})" if who is not None else "")
        where = "nothing is known of its calls" if seen is None or seen.sequence < 0 else _where(seen)
        arrived = seen is not None and (seen.call == call or call in seen.recent.values())
        if who is not None and who.ended():
            dead.append(peer)
            missing.append(peer)
            sentences[peer] = f"{name} has died; {where}"
        elif silent.get(peer, 0.0) > _SILENT_BEATS * heartbeat:
            missing.append(peer)
            sentences[peer] = f"{name} has been silent for {silent[peer]:.1f} s (dead, stopped or cut off); {where}"
        elif not arrived:
            missing.append(peer)
            sentences[peer] = f"{name} is not in it; {where}"
    return Whereabouts(tuple(missing), tuple(dead), sentences)


def _where(seen: Progress) -> str:
    return f"{'it is in' if seen.inside else 'it last finished'} {seen.call}"


class Presence:
    """This process's seat. Making it waits for nobody.

    Args:
        store: of all ranks.
        rank, world_size: this process's place in the world.
        record: writes flight records, called with the reason when a rank of the world gave up; None if none are wanted.
    """

    def __init__(self, store: Store, rank: int, world_size: int, record: Callable[[str], object] | None = None) -> None:
        self._rank, self._world_size = rank, world_size
        self._identities: dict[int, Identity] = {}
        self._asked = connection_of_its_own(store)
        self._asked.set(f"id/{rank}", json.dumps(asdict(Identity.here())))
        self._next_look = 0.0
        self._number = 0
        self._ledger = Ledger(store, rank, world_size, self._meet, record)

    def enter(self, call: object) -> None:
        """This rank is in `call` now; its text is made when it is published."""
        self._number += 1
        self._ledger.enter(self._number, call)

    def leave(self, call: object) -> None:
        """The call came back."""
        self._ledger.leave(self._number, call)

    def give_up(self, reason: str) -> None:
        """Publish that this rank will not go on; where records are wanted, all others write theirs."""
        self._ledger.give_up(reason)

    def look_for(self, call: str, peers: Sequence[int]) -> Whereabouts:
        """Where `peers` are while `call` fails here: until one is known to be dead, or for 1.5 s."""
        others = [peer for peer in peers if peer != self._rank]
        beats: dict[int, tuple[int, float]] = {}
        end = time.monotonic() + _PATIENCE
        self._ledger.flush()
        while True:
            progress = self._read()
            now = time.monotonic()
            for peer, seen in progress.items():
                if peer not in beats or beats[peer][0] != seen.beat:
                    beats[peer] = (seen.beat, now)
            silent = {peer: now - since for peer, (_, since) in beats.items()}
            found = whereabouts(call, others, progress, self._identities, silent, self._ledger.heartbeat)
            if found.dead or now >= end:
                return found
            time.sleep(0.05)

    def close(self) -> None:
        """End the thread; idempotent."""
        self._ledger.close()

    def _read(self) -> dict[int, Progress]:
        if len(self._identities) < self._world_size or self._ledger.store_lost is not None:
            return {}
        try:
            return self._ledger.read()
        except RuntimeError:  # the process that serves the store has died: pids still say who lives
            return {}

    def _meet(self) -> None:
        """By the ledger's thread: learn who the others are as they come, before the store can be lost."""
        if len(self._identities) == self._world_size or time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + 0.2
        keys = [f"id/{rank}" for rank in range(self._world_size)] + [f"p/{rank}" for rank in range(self._world_size)]
        try:
            if self._asked.check(keys):
                every = self._asked.multi_get(keys[: self._world_size])
                self._identities = {rank: Identity(**json.loads(text)) for rank, text in enumerate(every)}
        except RuntimeError:  # the ledger says that the store is lost
            self._next_look = float("inf")

"""A vote through the store: one decision per vote, written once, read by everybody.

Every rank writes its ballot. Rank 0 waits for all of them and proposes the decision by `compare_set` on one key; the
first proposal stands. A rank whose deadline passes without a decision proposes one itself from the ballots it finds,
so a dead rank 0 delays a vote and does not stop it. Whoever returns, returns what the key holds: the same `Verdict`.

Messages per rank do not grow with the ranks (ballot, wait, decision); rank 0 reads all ballots in one request.

What cannot be guaranteed (two generals): a rank that casts its ballot and then dies, or loses the store, before it has
read the decision does not know the outcome, while others may have read "unanimous" and act on it. `cast_vote` raises
on the rank that lost the store; whoever acts on a verdict has to count such a rank as one that has to be asked again.
If the process that serves the store dies, no decision can be made or read.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from hardpoint.communicator.protocol import Verdict

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

_SLICE = 0.2
_KEPT = 64


@dataclass(frozen=True)
class Ballot:
    """What one rank says."""

    ok: bool
    subject: str
    reason: str
    digest: str


def decide(ballots: dict[int, Ballot], world_size: int, subject: str) -> Verdict:
    """The verdict on the ballots that are there. Pure: the same ballots give the same verdict.

    A ballot on another subject than the lowest rank's is an objection. Digests are compared among yes votes against
    the most frequent one (of equals, the lowest rank's), so that the odd rank out is the one that is named.
    """
    objections: dict[int, str] = {}
    if ballots:
        first = min(ballots)
        subject = ballots[first].subject
        yes = {}
        for rank, ballot in sorted(ballots.items()):
            if ballot.subject != subject:
                objections[rank] = f"votes on {ballot.subject!r} while rank {first} votes on {subject!r}"
            elif not ballot.ok:
                objections[rank] = ballot.reason or "says no and gives no reason"
            else:
                yes[rank] = ballot.digest
        counts = Counter(yes.values())
        common = max(yes.values(), key=lambda digest: counts[digest], default="")
        holder = next((rank for rank, digest in yes.items() if digest == common), first)
        for rank, digest in yes.items():
            if digest != common:
                objections[rank] = (
                    f"brings {f'digest {digest}' if digest else 'no digest'} on {subject!r}, "
                    f"rank {holder} has {common or 'none'}"
                )
    missing = tuple(rank for rank in range(world_size) if rank not in ballots)
    return Verdict(not objections and not missing, subject, objections, missing)


def cast_vote(
    store: Store,
    rank: int,
    world_size: int,
    number: int,
    ballot: Ballot,
    deadline: float,
    gone: Callable[[], frozenset[int]],
) -> Verdict:
    """Vote `number` on `store`; `gone()` gives the ranks that are known not to come any more.

    Raises:
        RuntimeError: the store cannot be reached; the outcome is not known here.
    """
    end = time.monotonic() + deadline
    decision_key = f"v/{number}/decision"
    keys = [f"v/{number}/{other}" for other in range(world_size)]
    limit = max(100, 65536 // world_size)
    store.set(keys[rank], json.dumps(asdict(ballot) | {"reason": ballot.reason[:limit]}))
    if rank == 0:
        while not _wait(store, keys, min(_SLICE, end - time.monotonic())):
            if time.monotonic() >= end or store.check([decision_key]):
                break
            absent = gone()
            if absent and store.check([key for other, key in enumerate(keys) if other not in absent]):
                break
    else:
        while not _wait(store, [decision_key], min(_SLICE, end - time.monotonic())):
            # Rank 0 decides at its deadline; only if it is gone, or ours has passed, another takes its place.
            if time.monotonic() >= end or (0 in (absent := gone()) and all(r in absent for r in range(rank))):
                break
    if not store.check([decision_key]):
        present = _present(store, keys)
        ballots = {int(key.rpartition("/")[2]): _ballot(text) for key, text in present.items()}
        store.compare_set(decision_key, "", _encode(decide(ballots, world_size, ballot.subject)))
    verdict = _decode(store.get(decision_key))
    if number >= _KEPT:  # old keys go, each by the rank that wrote it, so that a store's size stays bounded
        store.delete_key(f"v/{number - _KEPT}/{rank}")
        if rank == 0:
            store.delete_key(f"v/{number - _KEPT}/decision")
    return verdict


def _wait(store: Store, keys: list[str], seconds: float) -> bool:
    """True once all keys are there; False after `seconds`."""
    from torch.distributed import DistNetworkError

    try:
        store.wait(keys, timedelta(seconds=max(0.001, seconds)))
    except DistNetworkError:
        raise
    except RuntimeError:  # DistStoreError (TCPStore) or RuntimeError (FileStore, HashStore): not there in time
        return False
    return True


def _present(store: Store, keys: list[str]) -> dict[str, bytes]:
    """The keys that are there, with values; a few requests, found by halving."""
    if store.check(keys):
        return dict(zip(keys, store.multi_get(keys), strict=True))
    if len(keys) == 1:
        return {}
    middle = len(keys) // 2
    return _present(store, keys[:middle]) | _present(store, keys[middle:])


def _ballot(text: bytes) -> Ballot:
    return Ballot(**json.loads(text))


def _encode(verdict: Verdict) -> str:
    return json.dumps(asdict(verdict))


def _decode(text: bytes) -> Verdict:
    record = json.loads(text)
    objections = {int(rank): str(sentence) for rank, sentence in record["objections"].items()}
    return Verdict(record["unanimous"], record["subject"], objections, tuple(record["missing"]))

"""After a collective failed: which rank died, hung before it, or is in another one. Pure over what the ledger read."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from hardpoint.communicator.ledger import Identity, Ledger, Progress

# A rank publishes within two intervals of a change; this much longer is given to one that arrives at the last moment.
GRACE = 0.3
# A silence worth telling, and one that nobody waits out. A process that imports a large library holds Python's lock for
# a second or two, and its heartbeat with it: no death. A process of this host that has died is seen at once.
_SILENT_BEATS = 4
_LOST_BEATS = 20


@dataclass(frozen=True)
class Diagnosis:
    """What became of the other ranks.

    Attributes:
        missing: ranks that did not arrive at the call.
        lost: those of them that died or gave up (no use in waiting longer).
        other: rank -> the different call it is in, or made, under the same number.
        sentences: rank -> what is known of it.
        store_lost: why the store cannot be asked, None if it can.
    """

    missing: tuple[int, ...]
    lost: tuple[int, ...]
    other: dict[int, str]
    sentences: dict[int, str]
    store_lost: str | None = None


def diagnose(
    sequence: int,
    call: str,
    rank: int,
    progress: Mapping[int, Progress],
    identities: Mapping[int, Identity],
    silent: Mapping[int, float],
    heartbeat: float,
) -> Diagnosis:
    """Sort the ranks by what they published. `silent` is seconds since each rank's last heartbeat."""
    missing, lost, other, sentences = [], [], {}, {}
    for peer, seen in sorted(progress.items()):
        if peer == rank:
            continue
        theirs = seen.recent.get(sequence) or (seen.call if seen.sequence == sequence else None)
        where = _where(seen)
        who = f"rank {peer} (pid {identities[peer].pid} on {identities[peer].hostname})"
        if theirs is not None and theirs != call:
            other[peer] = theirs
            sentences[peer] = f"{who} is in {theirs} as call number {sequence}"
        if identities[peer].ended():
            lost.append(peer)
            missing.append(peer)
            sentences[peer] = f"{who} has died; {where}"
        elif silent.get(peer, 0.0) > _SILENT_BEATS * heartbeat:
            missing.append(peer)
            if silent[peer] > _LOST_BEATS * heartbeat:
                lost.append(peer)
            sentences[peer] = f"{who} has been silent for {silent[peer]:.1f} s (dead, stopped or cut off); {where}"
        elif seen.closed and seen.sequence < sequence:
            missing.append(peer)
            lost.append(peer)
            sentences[peer] = f"{who} has closed its communicator; {where}"
        elif seen.broken is not None and theirs is None:
            missing.append(peer)
            lost.append(peer)
            sentences[peer] = f"{who} gave up before ({seen.broken}); {where}"
        elif theirs is None and seen.sequence < sequence:
            missing.append(peer)
            sentences[peer] = f"{who} is alive and has not called it; {where}"
    return Diagnosis(tuple(missing), tuple(lost), other, sentences)


def investigate(
    ledger: Ledger, sequence: int, call: str, rank: int, identities: Mapping[int, Identity], end: float
) -> Diagnosis:
    """Read the ledger until every rank is accounted for, or until `end` (monotonic seconds) plus `GRACE`."""
    beats: dict[int, tuple[int, float]] = {}
    ledger.flush()
    while True:
        now = time.monotonic()
        try:
            progress = ledger.read()
        except RuntimeError as error:
            dead = tuple(peer for peer, who in sorted(identities.items()) if peer != rank and who.ended())
            sentences = {peer: f"rank {peer} (pid {identities[peer].pid}) has died" for peer in dead}
            return Diagnosis(dead, dead, {}, sentences, str(error).strip().splitlines()[0])
        for peer, seen in progress.items():
            if peer not in beats or beats[peer][0] != seen.beat:
                beats[peer] = (seen.beat, now)
        silent = {peer: now - since for peer, (_, since) in beats.items()}
        found = diagnose(sequence, call, rank, progress, identities, silent, ledger.heartbeat)
        if found.other or now >= end + GRACE or (found.lost and len(found.lost) == len(found.missing)):
            return found
        time.sleep(0.02)


def _where(seen: Progress) -> str:
    if seen.sequence < 0:
        return "it has made no call yet"
    state = "still in" if seen.inside else "last finished"
    return f"{state} call number {seen.sequence}, {seen.call}"

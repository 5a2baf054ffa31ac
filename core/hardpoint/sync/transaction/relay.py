"""`Relay`: a rank's place in the tree. Hands messages down, gathers votes going up; has no opinion of its own.

It works for every session, also for one that the rank itself refuses: its children have to be asked all the same. A
rank that waits for a child does not hold up the others: after `patience` it passes on what it has, and what comes late
it passes on at once. A no is passed on at once always.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from hardpoint.sync.transaction.messages import Ballots, Begin, Decide, Outgoing, Step, Stream, Verify
from hardpoint.sync.transaction.tree import ARITY, Tree

_SESSIONS_KEPT = 8
_REASON_LIMIT = 500


@dataclass
class _Tally:
    coordinator: int
    flush_at: float
    whole: set[int] = field(default_factory=set)
    yes: set[int] = field(default_factory=set)
    no: dict[int, str] = field(default_factory=dict)
    passing: bool = False  # past patience, or all is said: what comes now is passed on at once
    told_whole: bool = False
    told: set[int] = field(default_factory=set)  # positions
    told_no: set[int] = field(default_factory=set)  # ranks


class Relay:
    """Of rank `rank` among `members`, which are the same and in the same order everywhere."""

    def __init__(self, rank: int, members: Sequence[int], arity: int = ARITY) -> None:
        self._members = tuple(members)
        self._tree = Tree(len(self._members), arity)
        self._position = self._members.index(rank)
        self._rank = rank
        parent = self._tree.parent(self._position)
        self._parent = None if parent is None else self._members[parent]
        self._below = self._tree.children(self._position)
        self._tallies: dict[tuple[str, Step], _Tally] = {}
        self._handed: dict[tuple[str, str], None] = {}

    def down(self, message: Begin | Stream | Verify | Decide) -> list[Outgoing]:
        """Hand a message to the children, once."""
        key = (message.session, type(message).__name__)
        if key in self._handed:
            return []
        self._handed[key] = None
        while len(self._handed) > 4 * _SESSIONS_KEPT:
            del self._handed[next(iter(self._handed))]
        return [Outgoing(self._members[child], message) for child in self._below]

    def vote(
        self, session: str, step: Step, coordinator: int, ok: bool, reason: str, now: float, patience: float
    ) -> list[Outgoing]:
        """Cast this rank's vote. A second one for a step changes nothing, but that a no stands over a yes."""
        tally = self._tally(session, step, coordinator, now + patience)
        if ok:
            tally.yes.add(self._position)
        else:
            tally.no.setdefault(self._rank, reason[:_REASON_LIMIT])
        return self._flush(session, step, tally)

    def gather(self, ballots: Ballots, now: float, patience: float) -> list[Outgoing]:
        """Take what a child passes on."""
        tally = self._tally(ballots.session, ballots.step, ballots.coordinator, now + patience)
        tally.whole.update(ballots.whole)
        tally.yes.update(ballots.yes)
        for rank, reason in ballots.no:
            tally.no.setdefault(rank, reason)
        return self._flush(ballots.session, ballots.step, tally)

    def tick(self, now: float) -> list[Outgoing]:
        """Pass on what has waited long enough."""
        out: list[Outgoing] = []
        for (session, step), tally in self._tallies.items():
            if not tally.passing and tally.flush_at <= now:
                tally.passing = True
                out += self._flush(session, step, tally)
        return out

    @property
    def wake_at(self) -> float | None:
        """When `tick` has something to do."""
        return min((tally.flush_at for tally in self._tallies.values() if not tally.passing), default=None)

    def _tally(self, session: str, step: Step, coordinator: int, flush_at: float) -> _Tally:
        tally = self._tallies.get((session, step))
        if tally is None:
            tally = self._tallies.setdefault((session, step), _Tally(coordinator, flush_at))
            while len(self._tallies) > 3 * _SESSIONS_KEPT:
                del self._tallies[next(iter(self._tallies))]
        return tally

    def _flush(self, session: str, step: Step, tally: _Tally) -> list[Outgoing]:
        news = Ballots(session, tally.coordinator, step)
        complete = self._position in tally.yes and all(child in tally.whole for child in self._below)
        if complete and not tally.no and not tally.told_whole:
            tally.passing = tally.told_whole = True
            news = replace(news, whole=(self._position,))
        objections = tuple(sorted((rank, why) for rank, why in tally.no.items() if rank not in tally.told_no))
        tally.told_no.update(tally.no)
        news = replace(news, no=objections)
        if tally.passing and not tally.told_whole:
            whole = tally.whole - tally.told
            yes = tally.yes - tally.told - tally.whole
            tally.told |= whole | yes
            news = replace(news, whole=tuple(sorted(whole)), yes=tuple(sorted(yes)))
        if not (news.whole or news.yes or news.no):
            return []
        return [Outgoing(tally.coordinator if self._parent is None else self._parent, news)]

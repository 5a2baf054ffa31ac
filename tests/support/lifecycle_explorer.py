"""Explore the state table of sleep and wake exhaustively: every rank may fail in every way at every step.

The table is the real one; the world around it (memory, votes, deaths) is a model as small as it can be. A rank's steps
between two votes are one batch, since no rank learns of another's steps but by a vote.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from hardpoint.lifecycle.states import Action, Asked, Operation, Phase, Raised, State, Voted, VoteLost
from hardpoint.lifecycle.table import Transition

_MUTATING = (Action.UNMAP, Action.MAP, Action.RESTORE)


class Violation(AssertionError):
    """A rule was broken; the message ends with the way there."""


@dataclass(frozen=True)
class Rank:
    """A rank of the model: the real state, and the truth that the state has to tell."""

    state: State = field(default_factory=State)
    alive: bool = True
    stuck: bool = False  # a step still runs
    unknown: bool = False  # that step changes memory: nobody knows what is mapped
    unmapped: frozenset[str] = frozenset()
    lost: frozenset[str] = frozenset()  # tags without their values
    saved: frozenset[str] = frozenset()
    busy: bool = True  # work may be in flight on the device
    admits: bool = True

    @property
    def takes_part(self) -> bool:
        return self.alive and not self.stuck and self.state.phase is not Phase.FAILED

    def serves(self) -> bool:
        return self.alive and not self.stuck and self.state.serves and self.admits


@dataclass(frozen=True)
class Outcome:
    """One way in which a batch may go on one rank: `arrives` at the vote ahead or not, and what comes after it."""

    rank: Rank
    arrives: bool
    told: str = ""
    after: str = ""  # "", "late", "lost" or "dies"


class Explorer:
    """Follow every way through `script` with at most `faults` faults.

    Raises Violation for: serving on memory that is not there; memory that is taken while any rank may use it; an
    operation that does not end; a rank that calls itself healthy after a vote to which a dead rank did not come.
    """

    def __init__(self, table: Transition, ranks: int, faults: int) -> None:
        self._table = table
        self._faults = faults
        self._start = tuple(Rank() for _ in range(ranks))

    def run(self, script: list[Operation]) -> int:
        """Number of ends that were looked at."""
        worlds = {(self._start, self._faults): "start"}
        seen = 0
        for operation in script:
            following: dict[tuple[tuple[Rank, ...], int], str] = {}
            for (world, left), way in worlds.items():
                for end, rest, told in self._operate(world, operation, left, f"{way} | {operation}"):
                    seen += 1
                    following.setdefault((end, rest), told)
            worlds = following
        return seen

    def _operate(
        self, world: tuple[Rank, ...], operation: Operation, left: int, way: str
    ) -> Iterator[tuple[tuple[Rank, ...], int, str]]:
        if operation.kind == "commit":  # a full update has written these before anybody claims so
            world = tuple(replace(rank, lost=rank.lost - operation.tags) for rank in world)
        pending = tuple(self._ask(rank, operation) if rank.takes_part else (rank, None) for rank in world)
        todo = [(pending, left, way, 0)]
        known = set()
        while todo:
            pending, budget, told, rounds = todo.pop()
            if (pending, budget) in known:
                continue
            known.add((pending, budget))
            if rounds > 8:
                raise Violation(f"{operation} does not end: {told}")
            ranks = tuple(rank for rank, _ in pending)
            self._check(ranks, told)
            if all(actions is None for _, actions in pending):
                check_truth(ranks, told)
                yield ranks, budget, told
                continue
            choices = [self._batch(rank, actions, ranks, told) for rank, actions in pending]
            for picked in itertools.product(*choices):
                spent = sum(bool(outcome.told) for outcome in picked)
                if spent <= budget:
                    faults = "; ".join(f"rank {i} {o.told}" for i, o in enumerate(picked) if o.told)
                    here = f"{told} -> {faults}" if faults else told
                    todo.append((self._vote(picked), budget - spent, here, rounds + 1))

    def _ask(self, rank: Rank, operation: Operation) -> tuple[Rank, tuple[Action, ...] | None]:
        state, actions = self._table(rank.state, Asked(operation))
        return replace(rank, state=state), actions

    def _batch(
        self, rank: Rank, actions: tuple[Action, ...] | None, ranks: tuple[Rank, ...], way: str
    ) -> list[Outcome]:
        """Every way in which `actions` may go on `rank`."""
        if actions is None:
            return [Outcome(rank, False)]
        found = []
        for action in actions:
            name = action.value
            if action is Action.VOTE:
                found.append(Outcome(rank, True))
                found.append(Outcome(rank, False, f"is late for '{rank.state.stage.value}'", "late"))
                found.append(Outcome(rank, True, f"loses the vote '{rank.state.stage.value}'", "lost"))
                found.append(Outcome(replace(rank, alive=False), False, "dies before the vote"))
                found.append(Outcome(rank, True, "dies after its vote", "dies"))
                return found
            found.append(Outcome(replace(rank, alive=False), False, f"dies before '{name}'"))
            found.append(self._raise(rank, Raised(action, "planted"), f"raises before '{name}'"))
            stuck = replace(rank, stuck=True, unknown=rank.unknown or action in _MUTATING)
            found.append(self._raise(stuck, Raised(action, "planted", lasting=True), f"is stuck in '{name}'"))
            if action is Action.UNMAP:
                using = [i for i, other in enumerate(ranks) if other.alive and (other.busy or other.serves())]
                if using:
                    raise Violation(f"memory is taken while ranks {using} may use it: {way}")
            rank = _effect(rank, action)
            found.append(self._raise(rank, Raised(action, "planted"), f"raises after '{name}'"))
        found.append(Outcome(rank, False))
        return found

    def _raise(self, rank: Rank, event: Raised, told: str) -> Outcome:
        state, actions = self._table(rank.state, event)
        rank = replace(rank, state=state)
        if actions not in ((), (Action.VOTE,)):
            raise Violation(f"a rank that failed does more than vote: {actions}")
        return Outcome(rank, bool(actions), told)

    def _vote(self, picked: tuple[Outcome, ...]) -> tuple[tuple[Rank, tuple[Action, ...] | None], ...]:
        """Close the vote that the picked outcomes lead to, the same for all; ranks without a vote are through."""
        arrived = [o for o in picked if o.arrives]
        missing = tuple(i for i, o in enumerate(picked) if not o.arrives)
        agreed = {o.rank.state.agreed for o in arrived}
        yes = not missing and len(agreed) == 1 and not any(o.rank.state.objection for o in arrived)
        verdict = Voted(yes, missing, "" if yes else "not unanimous")
        after: list[tuple[Rank, tuple[Action, ...] | None]] = []
        for outcome in picked:
            rank = outcome.rank
            if outcome.after == "dies":
                after.append((replace(rank, alive=False), None))
            elif not outcome.arrives and outcome.after != "late":
                after.append((rank, None))
            else:
                event = VoteLost("planted") if outcome.after == "lost" else verdict
                state, actions = self._table(rank.state, event)
                after.append((replace(rank, state=state), actions or None))
        return tuple(after)

    def _check(self, ranks: tuple[Rank, ...], way: str) -> None:
        for index, rank in enumerate(ranks):
            if not rank.serves():
                continue
            if rank.unmapped or rank.unknown:
                raise Violation(f"rank {index} serves on unmapped memory {sorted(rank.unmapped)}: {way}")
            if rank.lost:
                raise Violation(f"rank {index} serves without the values of {sorted(rank.lost)}: {way}")
            torn = [i for i, other in enumerate(ranks) if other.alive and (other.unmapped or other.unknown)]
            if torn and rank.state.healthy:
                raise Violation(f"rank {index} serves and calls itself healthy while ranks {torn} are torn: {way}")


def check_truth(ranks: tuple[Rank, ...], way: str) -> None:
    """At the end of an operation: who calls itself healthy is where it says it is."""
    for index, rank in enumerate(ranks):
        if not (rank.alive and rank.state.healthy) or rank.stuck:
            continue
        if rank.state.asleep != rank.unmapped:
            said, true = sorted(rank.state.asleep), sorted(rank.unmapped)
            raise Violation(f"rank {index} says that {said} sleeps, and {true} is unmapped: {way}")
        if rank.state.phase in (Phase.DRAINING, Phase.QUIESCED, Phase.FAILED):
            raise Violation(f"rank {index} rests in {rank.state.phase.value} and calls itself healthy: {way}")


def _effect(rank: Rank, action: Action) -> Rank:
    """What an action does to the world."""
    state = rank.state
    volatile = state.operation.volatile if state.operation is not None else frozenset()
    kept = state.touched - volatile
    if action is Action.CLOSE_ADMISSION:
        return replace(rank, admits=False)
    if action is Action.SYNCHRONIZE:
        # Work that is still queued is done; with admission open there would soon be more.
        return replace(rank, busy=rank.admits)
    if action is Action.SAVE:
        return replace(rank, saved=rank.saved | kept)
    if action is Action.UNMAP:
        return replace(rank, unmapped=rank.unmapped | state.touched, lost=rank.lost | kept)
    if action is Action.MAP:
        return replace(rank, unmapped=rank.unmapped - state.touched)
    if action is Action.RESTORE:
        return replace(rank, lost=rank.lost - (state.touched & rank.saved))
    if action is Action.DISCARD:
        return replace(rank, saved=rank.saved & state.asleep)
    if action is Action.OPEN_ADMISSION:
        return replace(rank, admits=True, busy=True)
    return rank

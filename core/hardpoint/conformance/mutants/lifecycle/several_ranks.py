"""Faults in how ranks sleep together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from hardpoint.backend import Backend
from hardpoint.communicator.protocol import Verdict
from hardpoint.conformance.mutant import Mutant
from hardpoint.conformance.mutants import _lifecycle
from hardpoint.conformance.mutants.lifecycle._parts import true_health
from hardpoint.lifecycle import Action, Lifecycle, LifecycleParts, Phase, Stage, State


def _no_vote(stages: Sequence[Stage]) -> Any:
    names = [stage.value for stage in stages]

    def vote(voter: Any, ok: bool, subject: str, **more: Any) -> Verdict:
        if subject.endswith(tuple(f": {name}" for name in names)):
            return Verdict(ok, subject, {} if ok else {voter.rank: more.get("reason", "")}, ())
        verdict: Verdict = voter.vote(ok, subject, **more)
        return verdict

    return lambda backend: _lifecycle.voter(backend, vote)


no_vote_before_unmap = Mutant(
    "lifecycle.no-vote-before-unmap",
    "lifecycle.nobody-goes-ahead",
    "lifecycle",
    "A rank unmaps as soon as it is ready itself; the others are asked only afterwards.",
    _no_vote([Stage.PREPARE]),
)

no_vote_after_unmap = Mutant(
    "lifecycle.no-vote-after-unmap",
    "lifecycle.a-fault-strands-nobody",
    "lifecycle",
    "A rank that has unmapped calls itself asleep without asking whether the others could.",
    _no_vote([Stage.COMMIT]),
)

admits_before_all_are_mapped = Mutant(
    "lifecycle.admits-before-all-are-mapped",
    "lifecycle.nobody-goes-ahead",
    "lifecycle",
    "A rank that is mapped resumes and admits requests while others are not.",
    _no_vote([Stage.REMAP, Stage.ADMIT]),
)

admits_before_all_resumed = Mutant(
    "lifecycle.admits-before-all-resumed",
    "lifecycle.nobody-goes-ahead",
    "lifecycle",
    "A rank admits requests before the others have brought their communicators back.",
    _no_vote([Stage.ADMIT]),
)


def _barrier_vote(voter: Any, ok: bool, subject: str, **more: Any) -> Verdict:
    """What `dist.barrier` does: whoever cannot go on does not come, and the others wait for it."""
    if not ok:
        return Verdict(False, subject, {voter.rank: more.get("reason", "")}, ())
    verdict = voter.vote(True, "barrier", deadline=more.get("deadline"))
    return Verdict(not verdict.missing, subject, {}, verdict.missing)


barrier_instead_of_vote = Mutant(
    "lifecycle.barrier-instead-of-vote",
    "lifecycle.a-fault-strands-nobody",
    "lifecycle",
    "A bare barrier stands where a vote should: a rank that failed does not come, and the others wait for it.",
    lambda backend: _lifecycle.voter(backend, _barrier_vote),
)


def _barrier_for_all(voter: Any, ok: bool, subject: str, **more: Any) -> Verdict:
    verdict = voter.vote(True, "barrier", deadline=more.get("deadline"))
    objections = {} if ok else {voter.rank: more.get("reason", "")}
    return Verdict(ok and not verdict.missing, subject, objections, verdict.missing)


barrier_that_all_pass = Mutant(
    "lifecycle.barrier-that-all-pass",
    "lifecycle.many-faults-end-alike",
    "lifecycle",
    "All ranks pass a barrier, also one that failed: it goes back, and the others go on.",
    lambda backend: _lifecycle.voter(backend, _barrier_for_all),
)


def _deaf(deaf_to: int) -> Any:
    def vote(voter: Any, ok: bool, subject: str, **more: Any) -> Verdict:
        verdict: Verdict = voter.vote(ok, subject, **more)
        left = {rank: reason for rank, reason in verdict.objections.items() if rank != deaf_to}
        return replace(verdict, objections=left, unanimous=not left and not verdict.missing)

    return vote


ignores_one_rank = Mutant(
    "lifecycle.ignores-one-rank",
    "lifecycle.processes-fail-together",
    "lifecycle",
    "The objection of rank 1 is not counted.",
    lambda backend: _lifecycle.voter(backend, _deaf(1)),
)

ignores_rank_zero = Mutant(
    "lifecycle.ignores-rank-zero",
    "lifecycle.a-fault-strands-nobody",
    "lifecycle",
    "The objection of rank 0 is not counted.",
    lambda backend: _lifecycle.voter(backend, _deaf(0)),
)

no_rollback = Mutant(
    "lifecycle.no-rollback",
    "lifecycle.many-faults-end-alike",
    "lifecycle",
    "When a rank could not unmap, the others stay unmapped and call themselves RUNNING.",
    lambda backend: _lifecycle.actions(
        backend, lambda state, todo: (Action.VOTE,) if state.stage is Stage.ROLLBACK else todo
    ),
)

always_healthy = Mutant(
    "lifecycle.always-healthy",
    "lifecycle.failed-stays-failed",
    "lifecycle",
    "Health says healthy whatever happened.",
    lambda backend: _lifecycle.methods(backend, health=lambda self: replace(true_health(self), healthy=True)),
)


def _forgives(backend: Backend) -> Backend:
    class Forgiving(Lifecycle):
        def _operate(self, kind: str, tags: Any, level: int, op_id: int | None) -> Any:
            if self._state.phase is Phase.FAILED:
                self._state = State(epoch=self._state.epoch, asleep=self._state.asleep)
            return super()._operate(kind, tags, level, op_id)

    return replace(backend, lifecycle=Forgiving)


failure_is_forgotten = Mutant(
    "lifecycle.failure-is-forgotten",
    "lifecycle.failed-stays-failed",
    "lifecycle",
    "The next call after a failure begins as if nothing had happened.",
    _forgives,
)


def _without_deadline(backend: Backend) -> Backend:
    def change(given: LifecycleParts) -> LifecycleParts:
        return replace(given, deadlines=replace(given.deadlines, steps=600.0))

    return _lifecycle.parts(backend, change)


steps_without_deadline = Mutant(
    "lifecycle.steps-without-deadline",
    "lifecycle.a-hang-is-named",
    "lifecycle",
    "Steps have no deadline: one that hangs is waited for.",
    _without_deadline,
)

votes_without_deadline = Mutant(
    "lifecycle.votes-without-deadline",
    "lifecycle.an-absent-rank-is-named",
    "lifecycle",
    "Votes are waited for without the deadline that was given.",
    lambda backend: _lifecycle.voter(
        backend, lambda voter, ok, subject, **more: voter.vote(ok, subject, **{**more, "deadline": 600.0})
    ),
)

absent_means_yes = Mutant(
    "lifecycle.absent-means-yes",
    "lifecycle.an-absent-rank-is-named",
    "lifecycle",
    "A rank that does not vote counts as a yes.",
    lambda backend: _lifecycle.voter(
        backend,
        lambda voter, ok, subject, **more: (lambda v: replace(v, missing=(), unanimous=not v.objections))(
            voter.vote(ok, subject, **more)
        ),
    ),
)

dead_means_yes = Mutant(
    "lifecycle.dead-means-yes",
    "lifecycle.a-dead-process-is-named",
    "lifecycle",
    "The survivors go on without a rank that died.",
    absent_means_yes.mutate,
)

agrees_on_nothing = Mutant(
    "lifecycle.agrees-on-nothing",
    "lifecycle.disagreement-is-refused",
    "lifecycle",
    "Ranks vote without saying on what: one sleeps at level 1, another at level 2.",
    lambda backend: _lifecycle.voter(
        backend,
        lambda voter, ok, subject, **more: voter.vote(ok, subject.rpartition(": ")[2], **{**more, "digest": ""}),
    ),
)

failed_sleeps_count = Mutant(
    "lifecycle.failed-sleeps-count",
    "lifecycle.epochs-count-sleeps",
    "lifecycle",
    "The epoch counts a sleep when it begins, not when it has taken memory.",
    lambda backend: _lifecycle.table(
        backend,
        lambda before, event, step: (
            replace(
                step[0],
                epoch=step[0].epoch
                + (step[0].stage is Stage.PREPARE and before.stage is Stage.REST)
                - (before.stage is Stage.COMMIT and step[0].stage is Stage.REST and step[0].phase is not Phase.FAILED),
            ),
            step[1],
        ),
    ),
)

processes_go_ahead = Mutant(
    "lifecycle.processes-go-ahead",
    "lifecycle.processes-sleep-together",
    "lifecycle",
    "Each process unmaps, and admits requests, as soon as it is ready itself.",
    _no_vote([Stage.PREPARE, Stage.REMAP, Stage.ADMIT]),
)

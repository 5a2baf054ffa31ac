"""Votes with a fault."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from hardpoint.backend import Backend
from hardpoint.communicator.protocol import Verdict
from hardpoint.conformance.mutants import _communicator as change
from hardpoint.conformance.mutants._proxy import Changed
from hardpoint.conformance.mutants.communicator._plant import another_deadline, plant
from hardpoint.errors import CommunicatorError


def _verdicts(judge: Callable[[Any, Verdict, bool], Verdict]) -> Callable[[Backend], Backend]:
    """The verdict that a rank gets is ``judge(communicator, true verdict, own ballot)``."""

    def wrap(backend: Backend, base: Any, rendezvous: Any) -> Any:
        def vote(ok: bool, subject: str, **options: Any) -> Verdict:
            return judge(base, base.vote(ok, subject, **options), ok)

        return Changed(base, vote=vote)

    return change.opened(wrap)


def _majority(base: Any, verdict: Verdict, ok: bool) -> Verdict:
    against = len(verdict.objections) + len(verdict.missing)
    return replace(verdict, unanimous=against * 2 < base.world_size)


vote_by_majority = plant(
    "vote-by-majority",
    "vote-needs-every-yes",
    "A vote passes when more than half of the ranks say yes.",
    _verdicts(_majority),
)
vote_of_rank_0 = plant(
    "vote-of-rank-0",
    "vote-needs-every-yes",
    "Rank 0 decides for all.",
    _verdicts(lambda base, verdict, ok: replace(verdict, unanimous=0 not in verdict.objections)),
)
vote_loses_reason = plant(
    "vote-loses-the-reason",
    "vote-needs-every-yes",
    "An objection says that a rank said no, and not why.",
    _verdicts(lambda base, v, ok: replace(v, objections=dict.fromkeys(v.objections, "said no"))),
)
vote_loses_names = plant(
    "vote-names-no-objector",
    "vote-needs-every-yes",
    "A vote that failed does not say who objected.",
    _verdicts(lambda base, verdict, ok: replace(verdict, objections={})),
)
vote_differs = plant(
    "vote-tells-each-its-own",
    "vote-needs-every-yes",
    "A rank that said yes is not told about another's no.",
    _verdicts(lambda base, v, ok: replace(v, unanimous=True, objections={}) if ok and base.rank % 2 else v),
)
vote_names_wrong_rank = plant(
    "vote-names-the-next-rank",
    "vote-needs-every-yes",
    "An objection is put down to the rank after the one that made it.",
    _verdicts(
        lambda base, v, ok: replace(
            v, objections={(rank + 1) % base.world_size: text for rank, text in v.objections.items()}
        )
    ),
)


def _ignores_digest(name: str, call: Any, *args: Any, digest: str = "", **options: Any) -> Any:
    return call(*args, **options)


vote_ignores_digest = plant(
    "vote-ignores-digests",
    "vote-needs-every-yes",
    "Digests are not compared.",
    change.wrapped(_ignores_digest, ("vote",)),
)


def _bare_barrier(backend: Backend, base: Any, rendezvous: Any) -> Any:
    def vote(ok: bool, subject: str, *, reason: str = "", digest: str = "", deadline: float | None = None) -> Verdict:
        base.barrier(deadline=deadline)
        return Verdict(ok, subject, {} if ok else {base.rank: reason}, ())

    return Changed(base, vote=vote)


vote_is_a_barrier = plant(
    "vote-is-a-barrier",
    "vote-needs-every-yes",
    "A vote is a barrier: every rank learns that all are there, and only its own answer.",
    change.opened(_bare_barrier),
)


def _raises_at_no(backend: Backend, base: Any, rendezvous: Any) -> Any:
    def vote(ok: bool, subject: str, **options: Any) -> Verdict:
        verdict: Verdict = base.vote(ok, subject, **options)
        if not verdict.unanimous:
            raise CommunicatorError(f"the vote on {subject!r} failed: {verdict.objections or verdict.missing}.")
        return verdict

    return Changed(base, vote=vote)


vote_raises_at_no = plant(
    "vote-raises-at-a-no",
    "vote-needs-every-yes",
    "A vote that is not unanimous raises.",
    change.opened(_raises_at_no),
)
absent_vote_raises = plant(
    "absent-voter-is-an-error",
    "vote-names-who-is-absent",
    "A vote is a barrier first: an absent rank is an error instead of a verdict.",
    change.opened(_bare_barrier),
)
absent_rank_agrees = plant(
    "absent-voter-agrees",
    "vote-names-who-is-absent",
    "A rank that does not come counts as a yes.",
    _verdicts(lambda base, v, ok: replace(v, unanimous=not v.objections, missing=())),
)
absent_rank_unnamed = plant(
    "absent-voter-is-not-named",
    "vote-names-who-is-absent",
    "A vote without a rank fails, and does not say which one was absent.",
    _verdicts(lambda base, v, ok: replace(v, missing=())),
)
vote_waits_on = plant(
    "vote-ignores-its-deadline",
    "vote-names-who-is-absent",
    "A vote waits as long as the rendezvous allows, whatever its own deadline is.",
    change.wrapped(another_deadline(lambda deadline: None, ("vote",)), ("vote",)),
)
vote_does_not_wait = plant(
    "vote-does-not-wait",
    "vote-names-who-is-absent",
    "A vote gives up after a twentieth of its deadline.",
    change.wrapped(another_deadline(lambda deadline: deadline / 20, ("vote",)), ("vote",)),
)
late_voter_agrees = plant(
    "late-voter-hears-its-own-yes",
    "vote-names-who-is-absent",
    "A rank that votes after the decision is told yes, while the others were told no.",
    _verdicts(
        lambda base, v, ok: replace(v, unanimous=True, missing=()) if base.rank in v.missing and not v.objections else v
    ),
)

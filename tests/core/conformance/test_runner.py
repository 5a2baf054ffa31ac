"""Which laws are due, in which worlds, and what becomes of their outcomes; no process is started."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast

import pytest

from hardpoint.conformance.messages import Description, DeviceFacts, ExtraLaw
from hardpoint.conformance.pool import Job, Outcome, Pool
from hardpoint.conformance.registry import UnknownLaw, laws
from hardpoint.conformance.results import Status
from hardpoint.conformance.runner import plan, run_kit
from hardpoint.conformance.source import BackendSource
from hardpoint.errors import HardpointError

ACME = BackendSource("acme")
TWO_WORLDS = next(law for law in laws().values() if law.part == "communicator" and law.ranks == (2, 4))
CLAIMED = next(law for law in laws().values() if law.claim is not None and law.claim.name == "graph")
TWO_DEVICES = next(law for law in laws().values() if law.devices == 2 and law.claim is None and law.ranks == (1,))
EXTRA = ExtraLaw("acme.cards-stay-cool", "Cards stay cool.", "cooling", (1,), 5.0)


def description(devices: int = 1, *, share: bool = True, due: Iterable[str] | None = None) -> Description:
    """A backend that declares nothing but what `due` says: by default every required law."""
    wanted = [law.id for law in laws().values() if law.claim is None] if due is None else due
    return Description(
        name="acme",
        summary="",
        device_type="acme",
        api=(1, 0),
        devices=tuple(DeviceFacts(index, None, None, None, 1 << 30) for index in range(devices)),
        due=frozenset(wanted),
        claims=(),
        ranks_share_device=share,
        extra_laws=(EXTRA,),
        tolerances=(),
        versions=(),
    )


class FakePool:
    """Answers jobs from a table of failures by (law, ranks)."""

    def __init__(self, answer: Outcome | Description, failures: Mapping[tuple[str, int], str] | None = None) -> None:
        self.answer = answer
        self.failures = failures or {}
        self.jobs: list[Job] = []

    def run(self, jobs: Iterable[Job]) -> Iterator[Outcome]:
        for job in jobs:
            if job.law is None:
                known = isinstance(self.answer, Description)
                yield Outcome(job, None, description=self.answer) if known else cast(Outcome, self.answer)
                continue
            self.jobs.append(job)
            failure = self.failures.get((job.law, job.ranks))
            yield Outcome(job, failure, notes=("seen",), seconds=0.5, traceback="tb" if failure else "")


def kit(pool: FakePool, **arguments: Any) -> Any:
    return run_kit(cast(Pool, pool), ACME, **arguments)


def test_every_law_is_planned_once_and_extra_cases_follow() -> None:
    plans = plan(description())
    assert [entry.id for entry in plans] == [*laws(), EXTRA.id]
    assert (plans[-1].profile, plans[-1].claim) == ("claimed", "extra cooling")


def test_what_is_not_run_says_why() -> None:
    by_id = {entry.id: entry for entry in plan(description(1))}
    claimed, devices = by_id[CLAIMED.id], by_id[TWO_DEVICES.id]
    assert (claimed.skipped, claimed.reason) == (Status.NOT_CLAIMED, "the backend does not declare graph")
    assert (devices.skipped, devices.reason) == (Status.NOT_APPLICABLE, "needs 2 devices, 1 visible")
    assert {entry.id: entry for entry in plan(description(2))}[TWO_DEVICES.id].skipped is None


def test_worlds_are_cut_to_the_devices_unless_ranks_share_one() -> None:
    def worlds(**facts: Any) -> Any:
        return next(entry for entry in plan(description(**facts)) if entry.id == TWO_WORLDS.id)

    assert worlds(devices=1, share=True).ranks == (2, 4)
    cut = worlds(devices=2, share=False)
    assert (cut.ranks, cut.reason) == ((2,), "a world of 4 needs one device for each rank, 2 visible")
    none = worlds(devices=1, share=False)
    assert (none.ranks, none.skipped) == ((), Status.NOT_APPLICABLE)


def test_a_law_fails_if_it_fails_in_one_of_its_worlds() -> None:
    pool = FakePool(description(), {(TWO_WORLDS.id, 4): "rank 3 saw garbage"})
    seen: list[tuple[str, int]] = []
    report = kit(pool, ids=[TWO_WORLDS.id], seed=7, on_result=lambda result, total: seen.append((result.id, total)))
    (result,) = report.results
    assert result.status is Status.FAILED
    assert result.reason == "in a world of 4: rank 3 saw garbage"
    assert result.rerun == f"hardpoint conformance acme --law {TWO_WORLDS.id} --seed 7"
    assert (result.seconds, result.notes, result.traceback) == (1.0, ("seen",), "tb")
    assert [(job.ranks, job.seed) for job in pool.jobs] == [(2, 7), (4, 7)]
    assert seen == [(TWO_WORLDS.id, 1)]
    assert not report.kept and not report.complete


def test_a_complete_run_keeps_the_order_of_the_kit() -> None:
    report = kit(FakePool(description()))
    assert [result.id for result in report.results] == [*laws(), EXTRA.id]
    assert report.complete and report.kept and report.subject.devices == ("acme:0, 1.0 GiB",)


def test_parts_select_and_a_selection_of_nothing_is_an_error() -> None:
    report = kit(FakePool(description()), parts=["dp_rule"])
    assert {result.part for result in report.results} == {"dp_rule"}
    with pytest.raises(HardpointError, match="no law is selected"):
        kit(FakePool(description()), parts=["dp_rule"], ids=[TWO_WORLDS.id])
    with pytest.raises(UnknownLaw, match="did you mean"):
        kit(FakePool(description()), ids=[TWO_WORLDS.id + "s"])


def test_a_known_failure_does_not_break_the_run_and_expires_when_it_passes() -> None:
    known = {TWO_WORLDS.id: "ticket 9"}
    failing = kit(FakePool(description(), {(TWO_WORLDS.id, 2): "late"}), ids=[TWO_WORLDS.id], known=known)
    assert failing.results[0].status is Status.KNOWN_FAILURE
    assert failing.results[0].reason == "ticket 9 (found: in a world of 2: late)"
    assert failing.kept
    passing = kit(FakePool(description()), ids=[TWO_WORLDS.id], known=known)
    assert passing.results[0].status is Status.PASSED
    assert "passes now; remove the entry" in passing.problems[0]
    assert not passing.kept


def test_entries_of_laws_that_were_not_selected_are_left_alone() -> None:
    known = {TWO_WORLDS.id: "ticket 9", "device.no-such-law": "ticket 10"}
    assert kit(FakePool(description()), parts=["dp_rule"], known=known).problems == ()
    assert any("there is no such law" in problem for problem in kit(FakePool(description()), known=known).problems)


def test_a_backend_that_cannot_be_built_fails_every_law_with_the_reason() -> None:
    report = kit(FakePool(Outcome(Job(ACME, None), "RuntimeError: no driver\nmore")))
    assert {result.status for result in report.results} == {Status.FAILED}
    assert report.results[0].reason == "the backend acme cannot be built: RuntimeError: no driver"
    assert report.problems == ("the backend acme cannot be built: RuntimeError: no driver\nmore",)
    assert report.available
    assert not kit(FakePool(Outcome(Job(ACME, None), "unknown name", unavailable=True))).available

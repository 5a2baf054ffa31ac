"""Test the laws: every planted fault must be caught by the law that it names, every legal variant must pass.

The base backend runs first without a change: a law that fails there would catch every mutant and prove nothing.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from hardpoint.conformance.mutant import LegalVariant, Mutant
from hardpoint.conformance.pool import Job, Outcome, Pool
from hardpoint.conformance.registry import laws, legal_variants, mutants
from hardpoint.conformance.results import Status
from hardpoint.conformance.runner import Plan, describe, plan
from hardpoint.conformance.source import BackendSource
from hardpoint.errors import HardpointError


@dataclass(frozen=True)
class ChangeResult:
    """What the laws said about one mutant or legal variant.

    Attributes:
        change: its name.
        law: law that has to catch it; None for a legal variant.
        ok: caught by that law, or passed by all.
        reason: what the catching law said, or why it is not ok.
        failed: every law that failed on it.
        seconds: of all its laws.
    """

    change: str
    law: str | None
    part: str
    statement: str
    ok: bool
    reason: str
    failed: tuple[str, ...]
    seconds: float


@dataclass(frozen=True)
class SelfTestReport:
    """Result of the self-test.

    Attributes:
        baseline: laws that fail on the base backend itself, with the reason.
        uncovered: laws that no mutant names.
    """

    label: str
    seed: int
    seconds: float
    changes: tuple[ChangeResult, ...]
    baseline: tuple[tuple[str, str], ...]
    uncovered: tuple[str, ...]

    @property
    def planted(self) -> list[ChangeResult]:
        return [change for change in self.changes if change.law is not None]

    @property
    def legal(self) -> list[ChangeResult]:
        return [change for change in self.changes if change.law is None]

    @property
    def ok(self) -> bool:
        return not self.baseline and not self.uncovered and all(change.ok for change in self.changes)


def uncovered_laws() -> list[str]:
    """Laws that no mutant names, in the order of the kit."""
    named = {mutant.law for mutant in mutants()}
    return [id for id in laws() if id not in named]


def run_self_test(
    pool: Pool,
    source: BackendSource,
    *,
    seed: int = 0,
    parts: Iterable[str] | None = None,
    only_named: bool = False,
    on_result: Callable[[ChangeResult, int], None] = lambda result, total: None,
) -> SelfTestReport:
    """Run it on the base backend `source`. `only_named` leaves out the part's other laws, which is quicker.

    HardpointError if the base backend cannot be built, or a mutant names a law that does not exist.
    """
    begin = time.monotonic()
    wanted = None if parts is None else set(parts)
    described = describe(pool, source)
    if described.failure is not None or described.description is None:
        raise HardpointError(f"the base backend {source.label} cannot be built: {described.failure}")
    plans = {entry.id: entry for entry in plan(described.description) if entry.id in laws()}
    changes: list[Mutant | LegalVariant] = [*mutants(), *legal_variants()]
    changes = [change for change in changes if wanted is None or change.part in wanted]
    jobs: dict[Job, str] = {}
    for change in changes:
        for job in _jobs(change, source, plans, seed, only_named):
            jobs[job] = change.name
    touched = {job.law for job in jobs}
    base = [job for entry in plans.values() if entry.id in touched for job in _worlds(entry, source, seed)]
    outcomes: defaultdict[str, list[Outcome]] = defaultdict(list)
    expected = {name: sum(owner == name for owner in jobs.values()) for name in {*jobs.values()}}
    by_name = {change.name: change for change in changes}
    results: dict[str, ChangeResult] = {}
    baseline: list[tuple[str, str]] = []
    for outcome in pool.run([*base, *jobs]):
        name = jobs.get(outcome.job)
        if name is None:
            if outcome.failure is not None:
                baseline.append((outcome.job.law or "", outcome.failure))
            continue
        outcomes[name].append(outcome)
        if len(outcomes[name]) == expected[name]:
            results[name] = _judge(by_name[name], outcomes[name])
            on_result(results[name], len(changes))
    missing = [id for id in uncovered_laws() if wanted is None or laws()[id].part in wanted]
    return SelfTestReport(
        source.label,
        seed,
        time.monotonic() - begin,
        tuple(results[change.name] for change in changes if change.name in results),
        tuple(baseline),
        tuple(missing),
    )


def _jobs(
    change: Mutant | LegalVariant, source: BackendSource, plans: dict[str, Plan], seed: int, only_named: bool
) -> list[Job]:
    planted = source.planted(change.name)
    if isinstance(change, LegalVariant):
        parts = change.parts or (change.part,)
        return [job for entry in plans.values() if entry.part in parts for job in _worlds(entry, planted, seed)]
    if change.law not in laws():
        raise HardpointError(f"the mutant {change.name} names the law {change.law}, which does not exist")
    named = laws()[change.law]
    jobs = [Job(planted, named.id, ranks, seed, named.deadline) for ranks in named.ranks]
    if not only_named:
        others = [entry for entry in plans.values() if entry.part == change.part and entry.id != change.law]
        # The other laws of the part are there to see that they end; one world is enough for that.
        jobs += [job for entry in others for job in _worlds(entry, planted, seed)[:1]]
    return jobs


def _worlds(entry: Plan, source: BackendSource, seed: int) -> list[Job]:
    if entry.skipped in (Status.NOT_CLAIMED, Status.NOT_APPLICABLE):
        return []
    return [Job(source, entry.id, ranks, seed, entry.deadline) for ranks in entry.ranks]


def _judge(change: Mutant | LegalVariant, outcomes: list[Outcome]) -> ChangeResult:
    failed = [outcome for outcome in outcomes if outcome.failure is not None]
    ids = tuple(dict.fromkeys(outcome.job.law or "" for outcome in failed))
    result = ChangeResult(
        change.name, None, change.part, change.statement, not failed, "", ids, sum(o.seconds for o in outcomes)
    )
    if isinstance(change, LegalVariant):
        reasons = "; ".join(
            f"{outcome.job.law} in a world of {outcome.job.ranks}: {outcome.failure}" for outcome in failed
        )
        return replace(result, reason=f"legal, but fails: {reasons}" if failed else "")
    named = [outcome for outcome in failed if outcome.job.law == change.law]
    if named:
        return replace(result, law=change.law, ok=True, reason=named[0].failure or "")
    others = f"caught only by {', '.join(ids)}" if ids else "no law of its part fails"
    return replace(result, law=change.law, ok=False, reason=f"{change.law} passes on it; {others}")

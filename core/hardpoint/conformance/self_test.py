"""Test the laws: every planted fault must be caught by the law that it names, every legal variant must pass.

The base backend runs first without a change: a law that fails there would catch every mutant and prove nothing.
"""

from __future__ import annotations

import random
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

# Parts of the drawn examples: the law that a mutant names runs all of them; the others of its part show that they end;
# a legal variant gets a quick profile.
OTHERS = 0.1
LEGAL = 0.2
# How many other laws a mutant runs, and how many of those that wait for deadlines a legal variant. Some 500 mutants
# make 10,000 pairs: which of them are run moves on with the name and the seed, `full` runs them all.
SAMPLE = 1


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
    full: bool = False,
    on_result: Callable[[ChangeResult, int], None] = lambda result, total: None,
) -> SelfTestReport:
    """Run it on the base backend `source`. `only_named` leaves out the part's other laws, which is quicker.

    A mutant runs the law that names it, in the next larger world only if the smaller one let it pass, and `SAMPLE` of
    the part's other laws but the patient ones; a legal variant runs a quick profile, every law in its smallest world
    but only `SAMPLE` of the patient ones. `full` is the full product: every law, world and example.

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
    outcomes: defaultdict[str, list[Outcome]] = defaultdict(list)
    waiting = {change.name: _jobs(change, source, plans, seed, only_named, full) for change in changes}
    by_name = {change.name: change for change in changes}
    results: dict[str, ChangeResult] = {}
    baseline: list[tuple[str, str]] = []
    proven: set[tuple[str | None, int]] = set()
    # One round each for the first world of a law, the second, ...: what is caught needs no larger one.
    while waiting:
        jobs = {job: name for name, rounds in waiting.items() for job in rounds[0]}
        left = defaultdict(int, {name: len(rounds[0]) for name, rounds in waiting.items()})
        fresh = {(job.law, job.ranks): job for job in jobs if (job.law, job.ranks) not in proven}
        # A law of what the base backend does not claim is due on a mutant that claims it, and not on the base.
        due = {id for id, entry in plans.items() if entry.skipped is None}
        base = [replace(job, source=source, effort=1.0) for job in fresh.values() if job.law in due]
        proven |= fresh.keys()
        for outcome in pool.run([*base, *jobs]):
            name = jobs.get(outcome.job)
            if name is None:
                if outcome.failure is not None:
                    baseline.append((outcome.job.law or "", outcome.failure))
                continue
            outcomes[name].append(outcome)
            left[name] -= 1
            if not left[name]:
                judged = _judge(by_name[name], outcomes[name])
                waiting[name] = [] if judged.ok and judged.law is not None else waiting[name][1:]
                if not waiting[name]:
                    results[name] = judged
                    on_result(judged, len(changes))
        waiting = {name: rounds for name, rounds in waiting.items() if rounds}
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
    change: Mutant | LegalVariant,
    source: BackendSource,
    plans: dict[str, Plan],
    seed: int,
    only_named: bool,
    full: bool,
) -> list[list[Job]]:
    """Rounds of jobs, at least one; a later round is run for a mutant that the ones before have not caught."""
    planted = source.planted(change.name)
    if isinstance(change, LegalVariant):
        parts = change.parts or (change.part,)
        entries = [entry for entry in plans.values() if entry.part in parts]
        if not full:
            patient = [entry for entry in entries if laws()[entry.id].patient]
            kept = _sample(patient, change.name, seed)
            entries = [entry for entry in entries if entry not in patient or entry in kept]
        return [[job for entry in entries for job in _worlds(entry, planted, seed, LEGAL, full)]]
    if change.law not in laws():
        raise HardpointError(f"the mutant {change.name} names the law {change.law}, which does not exist")
    named = laws()[change.law]
    worlds = [Job(planted, named.id, ranks, seed, named.deadline, alone=named.patient) for ranks in sorted(named.ranks)]
    if only_named:
        return [[job] for job in worlds]
    others = [entry for entry in plans.values() if entry.part == change.part and entry.id != change.law]
    # They are there to see that they end; one world is enough for that, and a law that waits for deadlines is too slow.
    if not full:
        others = _sample([entry for entry in others if not laws()[entry.id].patient], change.name, seed)
    rest = [job for entry in others for job in _worlds(entry, planted, seed, OTHERS, full)]
    return [[*worlds, *rest]] if full else [[worlds[0], *rest], *([job] for job in worlds[1:])]


def _sample(others: list[Plan], name: str, seed: int) -> list[Plan]:
    """`SAMPLE` of `others`, the same ones for the same name and seed (Python's own hash differs between processes)."""
    return random.Random(f"{name} {seed}").sample(others, min(SAMPLE, len(others)))


def _worlds(entry: Plan, source: BackendSource, seed: int, effort: float, full: bool) -> list[Job]:
    """The law in its smallest world with some of the drawn examples; in all of them, with all, if `full`."""
    if entry.skipped in (Status.NOT_CLAIMED, Status.NOT_APPLICABLE):
        return []
    worlds = sorted(entry.ranks)
    return [
        Job(source, entry.id, ranks, seed, entry.deadline, 1.0 if full else effort, laws()[entry.id].patient)
        for ranks in (worlds if full else worlds[:1])
    ]


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

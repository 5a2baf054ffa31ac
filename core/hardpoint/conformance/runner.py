"""Run the kit on a backend: which laws are due, in which worlds, and what came of each."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timezone

from hardpoint.conformance.known_failures import expired
from hardpoint.conformance.law import Law
from hardpoint.conformance.messages import Description, DeviceFacts
from hardpoint.conformance.pool import Job, Outcome, Pool
from hardpoint.conformance.registry import find_law, laws
from hardpoint.conformance.results import LawResult, Report, Status, SubjectFacts
from hardpoint.conformance.source import BackendSource
from hardpoint.errors import HardpointError


@dataclass(frozen=True)
class Plan:
    """One law on one backend: the worlds to run it in, or why it is not run."""

    id: str
    part: str
    profile: str
    claim: str | None
    statement: str
    deadline: float
    ranks: tuple[int, ...] = ()
    skipped: Status | None = None
    reason: str = ""


def describe(pool: Pool, source: BackendSource) -> Outcome:
    """Build the backend in a worker and ask what it is; `failure` says why it cannot be built."""
    (outcome,) = pool.run([Job(source, None)])
    return outcome


def plan(description: Description, ids: Iterable[str] | None = None) -> list[Plan]:
    """Every law of the kit and every extra case of the backend, or those in `ids` (UnknownLaw if there is no such)."""
    plans = [_plan_law(law, description) for law in laws().values()]
    plans += [
        _place(
            Plan(
                extra.id,
                extra.id.partition(".")[0],
                "required" if extra.claim is None else "claimed",
                None if extra.claim is None else f"extra {extra.claim}",
                extra.statement,
                extra.deadline,
            ),
            extra.ranks,
            description,
        )
        for extra in description.extra_laws
    ]
    if ids is None:
        return plans
    wanted = list(dict.fromkeys(ids))
    own = {entry.id for entry in plans}
    for id in wanted:
        if id not in own:
            find_law(id)
    return [entry for entry in plans if entry.id in wanted]


def run_kit(
    pool: Pool,
    source: BackendSource,
    *,
    seed: int = 0,
    ids: Iterable[str] | None = None,
    parts: Iterable[str] | None = None,
    known: Mapping[str, str] | None = None,
    on_result: Callable[[LawResult, int], None] = lambda result, total: None,
) -> Report:
    """Run the laws and give the report; `on_result` hears each result and the number of laws as they come.

    A backend that cannot be built gives a report in which every law of the selection failed with the reason.
    """
    started, begin = datetime.now(timezone.utc), time.monotonic()
    chosen = None if ids is None else list(ids)
    chosen_parts = None if parts is None else set(parts)
    described = describe(pool, source)
    description = described.description
    if described.failure is None and description is not None:
        plans = plan(description, chosen)
        facts = _facts(source, description)
    else:
        plans = _plans_without_backend(chosen)
        facts = SubjectFacts(source.label)
    plans = [entry for entry in plans if chosen_parts is None or entry.part in chosen_parts]
    if not plans:
        raise HardpointError(f"no law is selected by part {sorted(chosen_parts or ())} and law {chosen}")
    results: dict[str, LawResult] = {}
    problems: list[str] = []

    def add(result: LawResult) -> None:
        results[result.id] = result
        on_result(result, len(plans))

    if described.failure is not None:
        problem = cannot_be_built(source, described)
        problems.append(problem)
        reason = problem.partition("\n")[0]  # the table of candidates is told once, as the problem
        for entry in plans:
            add(_result(entry, source, seed, Status.FAILED, reason))
    else:
        _run(pool, source, seed, plans, known or {}, add)
        if known:
            complete = chosen is None and chosen_parts is None
            selected = {id: reason for id, reason in known.items() if complete or id in results}
            problems += expired(selected, results.values())
    return Report(
        facts,
        seed,
        started.strftime("%Y-%m-%dT%H:%M:%SZ"),
        time.monotonic() - begin,
        chosen is None and chosen_parts is None,
        tuple(results[entry.id] for entry in plans),
        tuple(problems),
        not described.unavailable,
    )


def run_law(pool: Pool, source: BackendSource, entry: Plan, *, seed: int = 0, known: str | None = None) -> LawResult:
    """One law of a `plan`, in all its worlds; `known` is the reason why it is known to fail, if it is."""
    results: list[LawResult] = []
    _run(pool, source, seed, [entry], {} if known is None else {entry.id: known}, results.append)
    return results[0]


def cannot_be_built(source: BackendSource, described: Outcome) -> str:
    """The sentence for a backend whose description failed."""
    if described.unavailable:
        return described.failure or ""
    return f"the backend {source.label} cannot be built: {described.failure}"


def _run(
    pool: Pool,
    source: BackendSource,
    seed: int,
    plans: list[Plan],
    known: Mapping[str, str],
    add: Callable[[LawResult], None],
) -> None:
    jobs: list[Job] = []
    for entry in plans:
        if entry.skipped is not None:
            add(_result(entry, source, seed, entry.skipped, entry.reason))
        jobs += [Job(source, entry.id, ranks, seed, entry.deadline) for ranks in entry.ranks]
    by_id = {entry.id: entry for entry in plans}
    outcomes: defaultdict[str, list[Outcome]] = defaultdict(list)
    for outcome in pool.run(jobs):
        id = outcome.job.law or ""
        outcomes[id].append(outcome)
        if len(outcomes[id]) == len(by_id[id].ranks):
            add(_judge(by_id[id], source, seed, outcomes[id], known.get(id)))


def _judge(entry: Plan, source: BackendSource, seed: int, outcomes: list[Outcome], known: str | None) -> LawResult:
    several = len(outcomes) > 1
    failures = [
        f"in a world of {outcome.job.ranks}: {outcome.failure}" if several else outcome.failure
        for outcome in outcomes
        if outcome.failure is not None
    ]
    status, reason = Status.PASSED, entry.reason
    if failures:
        status, reason = Status.FAILED, "; ".join(failures)
        if known is not None:
            status, reason = Status.KNOWN_FAILURE, f"{known} (found: {reason})"
    return replace(
        _result(entry, source, seed, status, reason),
        seconds=sum(outcome.seconds for outcome in outcomes),
        notes=tuple(dict.fromkeys(note for outcome in outcomes for note in outcome.notes)),
        traceback="\n".join(outcome.traceback for outcome in outcomes if outcome.traceback),
        printed="".join(outcome.printed for outcome in outcomes),
    )


def _result(entry: Plan, source: BackendSource, seed: int, status: Status, reason: str) -> LawResult:
    rerun = f"hardpoint conformance {source.arguments} --law {entry.id} --seed {seed}"
    return LawResult(
        entry.id,
        entry.part,
        entry.profile,
        entry.claim,
        entry.statement,
        status,
        reason,
        rerun,
        entry.ranks,
        0.0,
    )


def _plan_law(law: Law, description: Description) -> Plan:
    claim = None if law.claim is None else law.claim.name
    entry = Plan(law.id, law.part, law.profile, claim, law.statement, law.deadline)
    if law.id not in description.due:
        return replace(entry, skipped=Status.NOT_CLAIMED, reason=f"the backend does not declare {claim}")
    if law.devices > len(description.devices):
        reason = f"needs {law.devices} devices, {len(description.devices)} visible"
        return replace(entry, skipped=Status.NOT_APPLICABLE, reason=reason)
    return _place(entry, law.ranks, description)


def _place(entry: Plan, ranks: tuple[int, ...], description: Description) -> Plan:
    """Keep the worlds that the devices allow."""
    room = None if description.ranks_share_device else len(description.devices)
    fitting = tuple(world for world in ranks if world == 1 or room is None or world <= room)
    if fitting == ranks:
        return replace(entry, ranks=ranks)
    missing = ", ".join(str(world) for world in ranks if world not in fitting)
    reason = f"a world of {missing} needs one device for each rank, {room} visible"
    if not fitting:
        return replace(entry, skipped=Status.NOT_APPLICABLE, reason=reason)
    return replace(entry, ranks=fitting, reason=reason)


def _plans_without_backend(ids: list[str] | None) -> list[Plan]:
    chosen = laws().values() if ids is None else [find_law(id) for id in ids]
    return [
        Plan(law.id, law.part, law.profile, law.claim.name if law.claim else None, law.statement, law.deadline)
        for law in chosen
    ]


def _facts(source: BackendSource, description: Description) -> SubjectFacts:
    return SubjectFacts(
        source.label,
        description.name,
        description.summary,
        description.device_type,
        description.api,
        tuple(_device(device, description.device_type) for device in description.devices),
        description.claims,
        description.tolerances,
        description.versions,
    )


def _device(device: DeviceFacts, device_type: str) -> str:
    words = [f"{device_type}:{device.index}"]
    words += [f"physical {device.physical}"] if device.physical is not None else []
    words += [device.uuid] if device.uuid is not None else []
    words += [device.visibility] if device.visibility is not None else []
    return ", ".join([*words, f"{device.memory_total / 2**30:.1f} GiB"])

"""Ask the conformance kit about planted faults: each by the one law that it names, next to the backend without it."""

from __future__ import annotations

from collections.abc import Iterable

from hardpoint.conformance.mutant import Mutant
from hardpoint.conformance.pool import Job, Pool
from hardpoint.conformance.registry import find_law
from hardpoint.conformance.source import BackendSource
from support import field_report_faults

_SIM = BackendSource(name="sim")


class Kit:
    """Runs jobs in one pool of worker processes; what was asked once is not run again."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._failures: dict[Job, str | None] = {}

    def caught(self, fault: Mutant, among: Iterable[Mutant] = ()) -> str:
        """Why the law that `fault` names fails on sim with it; AssertionError if it holds, or fails on sim itself.

        `among` are run at the same time, since that is quicker.
        """
        wanted = [job for each in (*among, fault) for job in (_job(each, _SIM), _job(each, source_of(each)))]
        jobs = [job for job in dict.fromkeys(wanted) if job not in self._failures]
        for outcome in self._pool.run(jobs):
            self._failures[outcome.job] = outcome.failure
        plain, planted = self._failures[_job(fault, _SIM)], self._failures[_job(fault, source_of(fault))]
        assert plain is None, f"{fault.law} fails on sim itself: {plain}"
        assert planted is not None, f"{fault.law} holds on a backend with this fault: {fault.statement}"
        return planted


def source_of(fault: Mutant) -> BackendSource:
    """sim with `fault`, as any process builds it."""
    name = next(name for name, value in vars(field_report_faults).items() if value is fault)
    return _SIM.planted(f"{field_report_faults.__name__}:{name}")


def _job(fault: Mutant, source: BackendSource) -> Job:
    law = find_law(fault.law)
    return Job(source, law.id, min(law.ranks), 0, law.deadline)

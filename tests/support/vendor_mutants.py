"""Run a backend's own mutants on the simulator: each must be caught by the law or case that it names."""

from __future__ import annotations

from collections.abc import Sequence

from hardpoint.conformance.mutant import Mutant
from hardpoint.conformance.pool import Job, Outcome, Pool
from hardpoint.conformance.registry import laws
from hardpoint.conformance.source import BackendSource

EFFORT = 0.3  # of the drawn examples; what is planted here shows in the first few


def outcomes(base: BackendSource, module: str, mutants: Sequence[Mutant]) -> tuple[dict[str, Outcome], list[Outcome]]:
    """By mutant what the law it names said, and what these laws said of the base backend itself.

    `module` holds the mutants as attributes; a law over several ranks runs in its smallest world.
    """
    attributes = {
        value.name: name for name, value in vars(__import__(module, fromlist=["_"])).items() if value in mutants
    }
    planted = {mutant.name: _job(base.planted(f"{module}:{attributes[mutant.name]}"), mutant.law) for mutant in mutants}
    # A law of what the backend does not claim is due on a mutant that claims it, and not on the backend.
    due = sorted({mutant.law for mutant in mutants if mutant.law not in laws() or laws()[mutant.law].claim is None})
    plain = {law: _job(base, law) for law in due}
    names = {job: name for name, job in planted.items()}
    caught: dict[str, Outcome] = {}
    baseline: list[Outcome] = []
    with Pool(slots=2) as pool:
        for outcome in pool.run([*plain.values(), *planted.values()]):
            if outcome.job in names:
                caught[names[outcome.job]] = outcome
            else:
                baseline.append(outcome)
    return caught, baseline


def _job(source: BackendSource, law: str) -> Job:
    known = laws().get(law)
    if known is not None:
        return Job(source, law, min(known.ranks), 0, known.deadline, EFFORT, alone=False)
    return Job(source, law, 2 if law in TWO_RANKS else 1, 0, 40.0, alone=False)


# Cases of the backends that run on two ranks.
TWO_RANKS = frozenset(
    {"xpu.one-card-goes-by-the-host", "xpu.masks-that-differ-go-by-the-host", "xpu.expert-ranks-meet-first"}
)

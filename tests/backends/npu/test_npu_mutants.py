"""Faults planted into the npu backend, each caught by the law or case that it names, on the simulator."""

from __future__ import annotations

import pytest

from hardpoint.conformance.pool import Outcome
from hardpoint.conformance.source import BackendSource
from hardpoint_npu.mutants import MUTANTS
from support.vendor_mutants import outcomes


@pytest.fixture(scope="module")
def ran() -> tuple[dict[str, Outcome], list[Outcome]]:
    return outcomes(BackendSource("sim:npu"), "hardpoint_npu.mutants", MUTANTS)


def test_the_laws_hold_on_the_backend_itself(ran: tuple[dict[str, Outcome], list[Outcome]]) -> None:
    assert {outcome.job.law: outcome.failure for outcome in ran[1] if outcome.failure is not None} == {}


@pytest.mark.parametrize("name", [mutant.name for mutant in MUTANTS])
def test_the_fault_is_caught(name: str, ran: tuple[dict[str, Outcome], list[Outcome]]) -> None:
    outcome = ran[0][name]
    assert outcome.failure is not None, f"{outcome.job.law} passes on it"
    # Caught by what it does, and not because it could not be built or called.
    assert not any(word in outcome.failure for word in ("cannot be built", "TypeError", "AttributeError", "NameError"))

"""FR3: sleep and wake on TP x PP. After some cycles one rank reads memory that is gone, the others wait for it, and
`/health` says 200.

The ranks are processes, each with a simulated device; the engine is `support.field_report_ranks.WorkerRank`.
"""

from __future__ import annotations

from typing import Any

import pytest

from hardpoint.conformance.mutant import Mutant
from support import field_report_faults as faults
from support import field_report_ranks as rank_work
from support.field_report_kit import Kit
from support.field_report_ranks import SHORT, Planted, right_answer
from support.ranks import RankPool

VARIED = list(range(1, 11))
FIXED = [0] * 20
SLACK = 3.0
CAUGHT = (
    (faults.work_in_flight, "lifecycle.queued-work-is-kept", "it was given back by sleep"),
    (faults.everybody_alone, "lifecycle.processes-sleep-together", "not drained were all before ranks [1]"),
    (faults.bare_barrier, "lifecycle.processes-fail-together", "DeadlineExceeded: call number 0"),
    (faults.always_says_200, "lifecycle.admission-is-closed-while-asleep", "its health says serving=True"),
)


def run(ranks: RankPool, world: int, function: Any, *given: Any) -> list[dict[str, Any]]:
    return [result.unwrap() for result in ranks.run(world, function, *given, deadline=120.0)]


# -- what happened ----------------------------------------------------------------------------------------------------


def test_prompts_that_differ_leave_work_in_flight_that_runs_into_unmapped_memory(ranks: RankPool) -> None:
    for found in run(ranks, 2, rank_work.cycles, "unmaps_without_waiting", VARIED):
        kind, text = found["error"]
        assert kind == "DeviceFault"
        assert "unmapped memory" in text
        assert len(found["answers"]) < len(VARIED)


def test_a_fixed_prompt_hides_it(ranks: RankPool) -> None:
    for found in run(ranks, 2, rank_work.cycles, "unmaps_without_waiting", FIXED):
        assert found["error"] == ("", "")
        assert found["answers"] == [right_answer(0, 2)] * len(FIXED)


def test_without_a_vote_one_rank_sleeps_and_the_other_serves(ranks: RankPool) -> None:
    gone, torn = run(ranks, 2, rank_work.one_sleep, "sleeps_alone", Planted(1, "unmap", "raises"))
    assert (gone["error"], gone["mapped"]) == (("", ""), False)
    assert torn["error"][0] == "LifecycleError"
    assert (torn["mapped"], torn["health"].serving) == (True, True)
    assert torn["answer"] is None
    assert torn["answer error"][0] in ("RankLost", "DeadlineExceeded"), "it waits for a rank that sleeps"


def test_a_bare_barrier_strands_the_others_with_their_memory_gone_and_health_says_200(ranks: RankPool) -> None:
    stranded, failed = run(ranks, 2, rank_work.one_sleep, "GuardsWithABarrier", Planted(1, "unmap", "raises"))
    assert failed["error"][1].startswith("rank 1: RuntimeError: cumem_allocator: CUDA Error: invalid argument")
    assert "barrier" in stranded["error"][1], "it waited in the second barrier, to which nobody comes"
    assert "rank 1" in stranded["error"][1]
    assert (stranded["mapped"], failed["mapped"]) == (False, True), "torn apart"
    assert stranded["health"].healthy
    assert failed["health"].healthy
    assert stranded["answer error"][0] == "UnmappedAccess"
    assert failed["answer"] is None


# -- what ends it -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("prompts", [VARIED, FIXED], ids=["10 varied", "20 fixed"])
def test_cycles_give_right_answers_and_health_tells_the_truth(ranks: RankPool, world: int, prompts: list[int]) -> None:
    found = run(ranks, world, rank_work.cycles, "", prompts)
    for here in found:
        assert here["error"] == ("", "")
        assert here["answers"] == [right_answer(prompt, world) for prompt in prompts]
        assert here["health"] == [
            (False, ("kv_cache", "weights"), True, True, epoch) for epoch in range(1, len(prompts) + 1)
        ]


@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("where", ["drain", "unmap"])
def test_a_rank_that_raises_votes_no_and_nobody_is_torn_or_waits(ranks: RankPool, world: int, where: str) -> None:
    bad = world - 1
    found = run(ranks, world, rank_work.one_sleep, "", Planted(bad, where, "raises"))
    for here in found:
        kind, text = here["error"]
        assert kind == "LifecycleError"
        assert "was given up; the rank is RUNNING" in text
        assert f"rank {bad} objects: {where}: RuntimeError: cumem_allocator: CUDA Error: invalid argument" in text
        assert here["mapped"]
        assert (here["health"].healthy, here["health"].serving) == (True, True)
        assert here["answer"] == right_answer(2, world)
        assert here["seconds"] < 10.0, "nobody waited for a deadline, which is a minute"


def test_a_rank_that_hangs_before_the_vote_changes_nothing_on_any(ranks: RankPool) -> None:
    well, hung = run(ranks, 2, rank_work.one_sleep, "", Planted(1, "drain", "hangs"))
    for here in (well, hung):
        assert here["error"][0] == "LifecycleError"
        assert "rank 1 objects: drain: did not end within its deadline of 1." in here["error"][1]
        assert here["mapped"]
        assert here["seconds"] < 2 * (SHORT.steps + SHORT.vote) + SLACK
    assert not hung["health"].healthy
    assert not hung["health"].serving


def test_a_rank_that_hangs_between_vote_and_unmap_fails_the_engine_in_time_and_health_says_so(
    ranks: RankPool,
) -> None:
    for here in run(ranks, 2, rank_work.one_sleep, "", Planted(1, "unmap", "hangs")):
        assert here["error"][0] == "LifecycleError"
        assert "unmap: did not end within its deadline" in here["error"][1]
        assert (here["health"].phase, here["health"].healthy, here["health"].serving) == ("FAILED", False, False)
        assert "unmap" in here["health"].reason
        assert here["seconds"] < 3 * (SHORT.steps + SHORT.vote) + SLACK


@pytest.mark.parametrize(("fault", "law", "words"), CAUGHT, ids=lambda value: getattr(value, "name", ""))
def test_the_kit_names_the_fault(kit: Kit, fault: Mutant, law: str, words: str) -> None:
    assert fault.law == law
    assert words in kit.caught(fault, among=[each for each, _, _ in CAUGHT])

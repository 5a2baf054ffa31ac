"""Generated schedules: random arrivals, ranks without tokens, aborts. Nobody hangs, and all ranks pad alike."""

from __future__ import annotations

from typing import Any

import pytest

from hardpoint.dp import DpRule, GraphMode, agree
from hardpoint.errors import CommunicatorError, DpError
from support.dp_schedules import Arrival, Engine, Schedule, Stock
from support.gloo import open_gloo
from support.lockstep import Hang, Lockstep
from support.ranks import RankPool

SCHEDULES = 1000
REAL = 40


def run(schedule: Schedule, stock: Stock = "") -> list[Any]:
    hub = Lockstep(schedule.world_size)
    return hub.run(lambda communicator: Engine(schedule, communicator, stock).run())


def test_a_thousand_schedules_end_with_the_same_counts_on_every_rank() -> None:
    idle = aborted = graphs = steps = 0
    for seed in range(SCHEDULES):
        schedule = Schedule.make(seed)
        answers = run(schedule)
        counts = [padded for padded, _ in answers]
        assert all(each == counts[0] for each in counts), f"seed {seed}: ranks pad differently"
        steps += len(counts[0])
        idle += len({each.rank for each in schedule.arrivals}) < schedule.world_size
        aborted += any(each.aborted_after < each.decode for each in schedule.arrivals)
        graphs += any(schedule.graphs)
        wanted = sum(
            each.prompt + min(each.decode, each.aborted_after - 1) for each in schedule.arrivals if each.aborted_after
        )
        assert sum(served for _, served in answers) == wanted, f"seed {seed}: tokens were left out"
    # What was drawn is what was meant to be drawn.
    assert min(idle, aborted, graphs) > SCHEDULES // 10
    assert steps > 3 * SCHEDULES


@pytest.mark.parametrize("stock", ["own mode", "no padding", "idle ranks stay out"])
def test_stock_rules_hang_on_many_of_them(stock: Stock) -> None:
    hangs = 0
    for seed in range(SCHEDULES // 5):
        try:
            run(Schedule.make(seed), stock)
        except Hang:
            hangs += 1
    assert hangs > SCHEDULES // 5 // 10


FR4 = Schedule(0, 2, 2, DpRule(), (Arrival(0, 0, 26, 2, 99), Arrival(1, 0, 30, 2, 99)), (True, False))
ONE_IDLE = Schedule(0, 2, 1, DpRule(), (Arrival(1, 0, 5, 2, 99),), (False, False))


def test_the_step_of_fr4_hangs_by_stock_rules_and_ends_by_ours() -> None:
    with pytest.raises(Hang, match=r"rank 0 in \('all_gather', \(26, 2\)\), rank 1 in \('all_gather', \(30, 2\)\)"):
        run(FR4, "no padding")
    answers = run(FR4)
    assert answers[0][0] == answers[1][0]
    assert answers[0][0][0] == (30, 30)


def test_an_idle_rank_that_stays_out_hangs_the_other() -> None:
    with pytest.raises(Hang, match=r"rank 0 in \('all_gather', \(1, 4\)\).*rank 1 in \('all_gather', \(5, 2\)\)"):
        run(ONE_IDLE, "idle ranks stay out")
    assert run(ONE_IDLE)[0][0][0] == (5, 5)


def test_ranks_with_different_rules_are_told_on_every_rank() -> None:
    rows = [[26, 0, 1, 1], [30, 0, 2, 1]]
    for _ in range(2):
        with pytest.raises(DpError, match="ranks 0 and 1 plan by different rules"):
            agree(lambda numbers: rows, DpRule(), 26)


def test_the_least_wish_is_the_mode_and_any_work_goes_on() -> None:
    def exchange(numbers: Any) -> Any:
        return [list(numbers), [0, int(GraphMode.NONE), numbers[2], 0]]

    step = agree(exchange, DpRule("none", 1, "graph"), 4, wish=GraphMode.FULL, unfinished=True)
    assert (step.mode, step.unfinished) == (GraphMode.NONE, True)
    assert step.plan.num_padded_tokens == (4, 1)
    assert step.plan.dummy_forward == (False, True)


def _over_gloo(store: Any, rank: int, world: int, seeds: list[int]) -> list[Any]:
    communicator = open_gloo(store, rank, world, name="schedules")
    found = [Engine(Schedule.make(seed, world), communicator).run()[0] for seed in seeds]
    communicator.close()
    return found


def _stock_over_gloo(store: Any, rank: int, world: int) -> str:
    communicator = open_gloo(store, rank, world, deadline=20.0, name="stock")
    try:
        Engine(FR4, communicator, "no padding").run()
    except CommunicatorError as error:
        return f"{type(error).__name__}: {error}"
    finally:
        communicator.close()
    return "ended"


@pytest.fixture(scope="module")
def pool() -> Any:
    made = RankPool(3)
    yield made
    made.close()


@pytest.mark.parametrize("world", [2, 3])
def test_some_of_them_over_gloo(pool: RankPool, world: int) -> None:
    seeds = list(range(5000, 5000 + REAL // 2))
    answers = [result.unwrap() for result in pool.run(world, _over_gloo, seeds, deadline=240.0)]
    assert all(answer == answers[0] for answer in answers)
    assert sum(len(steps) for steps in answers[0]) > REAL


def test_stock_rules_over_gloo_are_a_sentence_on_both_ranks(pool: RankPool) -> None:
    for result in pool.run(2, _stock_over_gloo, deadline=120.0):
        said = result.unwrap()
        assert said.startswith("CollectiveMismatch: ranks disagree about the next collective")
        assert "[26, 2]" in said
        assert "[30, 2]" in said

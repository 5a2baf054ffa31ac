"""Updates in which nothing goes wrong, and refusals of single rules, on the protocol objects themselves."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from hardpoint.errors import SyncError
from hardpoint.sync.transaction import InPlace, Mode, Phase, Room, Stage, Step, choose_mode
from hardpoint.sync.transaction.messages import Ballots, Begin, Decide, Present
from support.transaction_cluster import (
    DEADLINE,
    HOST_ONLY,
    LAYOUTS,
    NONE,
    OTHER_TRAINER,
    PLENTY,
    TRAINER,
    WORLDS,
    Cluster,
    plan_of,
    tensors,
)


@pytest.mark.parametrize("mode", list(Mode), ids=lambda mode: mode.value)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("world", WORLDS)
def test_every_world_layout_and_mode(world: str, layout: str, mode: Mode) -> None:
    cluster = Cluster(world, layout)
    for epoch in (1, 2, 3):
        cluster.update(epoch, epoch, mode=mode)
        cluster.check_new_everywhere(epoch)
    wanted = Mode.SHADOW if mode is Mode.AUTO else mode
    assert all(hooks.chosen_modes == [wanted] * 3 for hooks in cluster.hooks.values())


def test_auto_is_chosen_by_each_rank_for_itself() -> None:
    cluster = Cluster("ep3", "swapped halves", rooms={1: PLENTY, 2: HOST_ONLY, 3: PLENTY})
    cluster.update(1, 1)
    cluster.check_new_everywhere(1)
    assert [cluster.hooks[rank].chosen_modes for rank in (1, 2, 3)] == [[Mode.SHADOW], [Mode.UNDO], [Mode.SHADOW]]


def test_no_room_is_a_refusal_that_says_what_would_fit() -> None:
    cluster = Cluster("tp2", "vllm", rooms={2: NONE})
    cluster.update(1, 1)
    assert cluster.trainer.outcome is not None and not cluster.trainer.outcome.committed
    assert "rank 2: Mode auto does not fit" in cluster.trainer.outcome.reason
    cluster.check(1)
    assert all(rank.may_serve and rank.epoch == 0 for rank in cluster.ranks.values())
    cluster.update(1, 1, mode=Mode.OFF, session="again")
    cluster.check_new_everywhere(1)


@pytest.mark.parametrize(
    ("asked", "room", "chosen"),
    [
        (Mode.AUTO, Room(100, 0), Mode.SHADOW),
        (Mode.AUTO, Room(99, 100), Mode.UNDO),
        (Mode.AUTO, Room(99, 99), None),
        (Mode.SHADOW, Room(99, 100), None),
        (Mode.UNDO, Room(100, 99), None),
        (Mode.OFF, Room(0, 0), Mode.OFF),
    ],
)
def test_choosing_a_mode(asked: Mode, room: Room, chosen: Mode | None) -> None:
    if chosen is None:
        with pytest.raises(SyncError, match=r"does not fit: no room for .*100 bytes"):
            choose_mode(asked, 100, room)
    else:
        assert choose_mode(asked, 100, room).mode is chosen


def test_shadow_serves_while_it_streams_and_undo_does_not() -> None:
    for mode, serves in ((Mode.SHADOW, True), (Mode.UNDO, False), (Mode.OFF, False)):
        cluster = Cluster("tp2", "vllm")
        seen: set[bool] = set()
        cluster.net.after = lambda address, message, c=cluster, s=seen: (  # type: ignore[misc]
            s.add(c.ranks[1].may_serve) if c.ranks[1].phase is Phase.STAGING else None
        )
        cluster.update(1, 1, mode=mode)
        assert seen == {serves}, mode
        cluster.check_new_everywhere(1)


def test_nobody_serves_between_its_yes_and_the_decision() -> None:
    cluster = Cluster("two engines of tp2", "vllm")
    prepared: set[bool] = set()
    cluster.net.after = lambda address, message: prepared.update(
        rank.may_serve for rank in cluster.ranks.values() if rank.phase is Phase.PREPARED
    )
    cluster.update(1, 1)
    assert prepared == {False}


@pytest.mark.parametrize("epoch", [0, 1])
def test_an_epoch_that_was_here_is_refused_and_the_next_is_told(epoch: int) -> None:
    cluster = Cluster("tp2", "vllm")
    cluster.update(1, 1)
    cluster.update(epoch, 1, session="replay")
    outcome = cluster.trainer.outcome
    assert outcome is not None and not outcome.committed and "must be at least 2" in outcome.reason
    assert {rank.epoch for rank in cluster.ranks.values()} == {1}
    assert all(rank.may_serve for rank in cluster.ranks.values())


def test_the_number_of_an_aborted_update_can_be_used_again() -> None:
    cluster = Cluster("tp2", "vllm")

    def refuse(operation: str, number: int) -> None:
        if operation == "inspect":
            raise SyncError("NaN")

    cluster.faults[2].at = refuse
    cluster.update(1, 1)
    assert cluster.trainer.outcome is not None and "rank 2: NaN" in cluster.trainer.outcome.reason
    cluster.faults[2].at = lambda operation, number: None
    cluster.update(1, 1, session="second try")
    cluster.check_new_everywhere(1)


def test_a_session_is_not_replayed() -> None:
    cluster = Cluster("tp2", "vllm")
    cluster.update(1, 1, session="once")
    with pytest.raises(SyncError, match="decided before"):
        cluster.begin(2, 2, session="once")
    cluster.trainer = cluster.start_trainer(record=type(cluster.record)())
    cluster.update(2, 2, session="once")
    assert cluster.trainer.outcome is not None and "session once has ended here" in cluster.trainer.outcome.reason


def test_a_plan_made_otherwise_is_refused_by_both_digests() -> None:
    cluster = Cluster("tp2", "vllm")
    other = plan_of("tp2", "swapped halves")
    cluster.start_rank(2, epoch=0, layout="swapped halves")
    cluster.update(1, 1)
    outcome = cluster.trainer.outcome
    assert outcome is not None and not outcome.committed and set(outcome.objections) == {2}
    assert cluster.plan.digest[:12] in outcome.reason and other.digest[:12] in outcome.reason
    assert cluster.ranks[1].may_serve and cluster.ranks[1].epoch == 0


def test_tensors_that_are_not_those_of_the_plan_send_nothing() -> None:
    cluster = Cluster("tp2", "vllm")
    with pytest.raises(SyncError, match=r"l\.q\.weight"):
        cluster.begin(1, 1, named=tensors(1) | {"l.q.weight": torch.zeros(4, 5)})
    assert cluster.net.sent == 0 and cluster.idle()


def test_a_second_update_of_one_trainer_waits_for_the_first() -> None:
    cluster = Cluster("tp2", "vllm")
    cluster.begin(1, 1)
    with pytest.raises(SyncError, match="is under way"):
        cluster.begin(2, 2)


def test_two_trainers_at_once_one_or_none() -> None:
    cluster = Cluster("two engines of tp2", "transposed, padded")
    other = cluster.start_trainer(OTHER_TRAINER)
    cluster.begin(1, 1)
    cluster.begin(1, 1, trainer=other)
    cluster.settle()
    cluster.check(1)
    outcomes = [trainer.outcome for trainer in (cluster.trainer, other)]
    assert sum(outcome is not None and outcome.committed for outcome in outcomes) <= 1
    assert any(outcome is not None and "under way here" in outcome.reason for outcome in outcomes)
    cluster.recover()


def test_a_trainer_cannot_have_the_address_of_a_receiver() -> None:
    with pytest.raises(SyncError, match="address of its own"):
        Cluster("tp2", "vllm").start_trainer(2)


def test_deadlines_are_bounded_by_the_receiver() -> None:
    cluster = Cluster("one rank", "vllm")
    begin = cluster.trainer.start("s", 1, tensors(1), 0.0, deadline=1e9)
    cluster.net.post(0, begin)
    cluster.settle()
    assert cluster.trainer.outcome is not None and "deadline of 1e+09 s" in cluster.trainer.outcome.reason


@pytest.mark.parametrize("phase", [Phase.STAGING, Phase.PREPARED], ids=lambda phase: phase.value)
def test_a_stray_begin_does_not_end_what_is_under_way(phase: Phase) -> None:
    """An old message of the same trainer that comes again, another plan's, one of an epoch that was here."""
    cluster = Cluster("tp2", "vllm")
    first: list[Begin] = []

    def stray(address: int, message: object) -> None:
        if isinstance(message, Begin):
            first.append(message)
        if address == 2 and cluster.ranks[2].phase is phase and first:
            begin = first.pop()
            first.clear()
            for other in (
                replace(begin, session="x", epoch=0),
                replace(begin, session="y", plan="other"),
                replace(begin, session="z", deadline=-1.0),
                replace(begin, session="w", coordinator=OTHER_TRAINER),
                begin,
            ):
                cluster.ranks[2].receive(other, cluster.net.now)

    cluster.net.after = stray
    cluster.update(1, 1)
    cluster.check_new_everywhere(1)


@pytest.mark.parametrize("mode", [Mode.SHADOW, Mode.UNDO], ids=lambda mode: mode.value)
def test_a_commit_that_this_rank_did_not_agree_to_serves_nothing(mode: Mode) -> None:
    """It cannot come from a trainer that counts right; if it comes, half an update must not become the weights."""
    cluster = Cluster("one rank", "vllm")
    begin = cluster.trainer.start("s", 1, tensors(1), 0.0, mode=mode, deadline=DEADLINE)[0].message
    rank = cluster.ranks[1]
    rank.receive(begin, 0.0)
    assert rank.phase is Phase.STAGING
    rank.receive(Decide("s", TRAINER, 1, True, ""), 0.0)
    assert rank.phase is Phase.FAILED and not rank.may_serve and rank.epoch == 0
    assert "was committed, and this rank was not ready" in rank.reason


def test_votes_of_nobody_do_not_count() -> None:
    cluster = Cluster("tp2", "vllm")
    cluster.net.kill(1)
    cluster.net.kill(2)
    cluster.begin(1, 1, session="s")
    forged = [
        Ballots("s", TRAINER, Step.BEGIN, whole=(2, 7, 1 << 40)),
        Ballots("s", TRAINER, Step.BEGIN, yes=(5, 6)),
        Ballots("other", TRAINER, Step.BEGIN, whole=(0,)),
        Ballots("s", TRAINER, Step.VERIFY, whole=(0,)),
        Present("s", Step.BEGIN, 9, True, ""),
    ]
    for ballots in forged:
        assert cluster.trainer.receive(ballots, cluster.net.now) == []
        assert cluster.trainer.stage is Stage.BEGIN
    cluster.settle()
    assert cluster.trainer.outcome is not None and cluster.trainer.outcome.missing == (1, 2)


def test_a_long_stream_to_others_is_not_taken_for_silence() -> None:
    """With expert parallelism a rank may get nothing for a while: it is told that the stream goes on."""
    cluster = Cluster("ep3", "vllm")
    cluster.net.fate = None
    send = cluster.trainer._send
    cluster.trainer._send = lambda now: send(cluster.net.now)  # type: ignore[method-assign]

    def slowly(address: int, message: object) -> None:
        if address == 0 and message is None and cluster.trainer.stage.value == "stream":
            cluster.net.now += DEADLINE / 2

    cluster.net.after = slowly
    cluster.begin(1, 1)
    cluster.settle(60)
    cluster.check_new_everywhere(1)
    assert replace(cluster.trainer.outcome).seconds > 3 * DEADLINE  # type: ignore[type-var, union-attr]


def test_a_rank_that_cannot_resume_after_a_refused_begin_is_failed() -> None:
    cluster = Cluster("tp2", "vllm")

    def fail(operation: str, number: int) -> None:
        if operation in ("pause", "resume"):
            raise SyncError(f"no {operation}")

    cluster.faults[2].at = fail
    cluster.update(1, 1, mode=Mode.UNDO)
    rank = cluster.ranks[2]
    assert rank.phase is Phase.FAILED and not rank.may_serve
    assert "serving could not be resumed: no resume" in rank.reason
    cluster.recover()


def test_a_rank_that_hears_that_the_trainer_is_out_of_reach_does_not_wait() -> None:
    cluster = Cluster("tp2", "vllm")
    seen: list[Phase] = []

    def gone(address: int, message: object) -> None:
        rank = cluster.ranks[1]
        if rank.phase in (Phase.STAGING, Phase.PREPARED) and rank.phase not in seen and len(seen) < 1:
            seen.append(rank.phase)
            rank.unreachable("its host is down")

    cluster.net.after = gone
    cluster.update(1, 1)
    assert seen == [Phase.STAGING]
    assert cluster.ranks[1].may_serve and cluster.ranks[1].epoch == 0
    cluster.recover()


def test_a_plan_may_change_between_updates_but_not_to_one_that_nobody_knows() -> None:
    cluster = Cluster("tp2", "vllm")
    other = plan_of("tp2", "vllm", 256)
    cluster.update(1, 1)
    cluster.trainer.plan = other
    cluster.update(2, 2, session="unknown plan")
    outcome = cluster.trainer.outcome
    assert outcome is not None and "plan again on both sides" in outcome.reason
    for rank, participant in cluster.ranks.items():
        storages = type(cluster.storages[rank])(other, rank, cluster.storages[rank].named)
        storages.faults = cluster.faults[rank]
        participant._binding._find = {other.digest: InPlace(storages)}.get
    cluster.update(2, 2, session="known plan")
    assert cluster.trainer.outcome is not None and cluster.trainer.outcome.everywhere

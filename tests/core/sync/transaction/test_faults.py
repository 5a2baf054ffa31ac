"""Every fault at every step of every rank, on the protocol objects themselves, under a virtual clock.

After each: the old weights bit by bit and serving, or the new ones, or FAILED and serving nothing; the error names what
and who in time; and the next good update is everywhere. See `Cluster.check`, `judge` and `Cluster.recover`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hardpoint.sync.transaction import FileRecord, MemoryRecord, Message, Mode, Phase, engine_state
from hardpoint.sync.transaction.messages import Data
from support.transaction_cluster import (
    DEADLINE,
    HOST_ONLY,
    LAYOUTS,
    OTHER_TRAINER,
    PLENTY,
    TRAINER,
    WORLDS,
    Cluster,
    Planted,
    kind_of,
    plan_of,
)

SOON = 1.0  # seconds past the deadline within which an abort is told
DOWN = ("Begin", "Data", "Verify", "Decide")
UP = ("Ballots", "Present")
PROCESS = ("kill", "kill after", "freeze", "freeze after", "restart", "restart after", "freeze for a while")
WIRE = ("lose", "cut from here", "delay", "delay past the deadline", "twice")
PAYLOAD = ("flip a bit", "cut short", "other epoch", "other bucket")
OPERATIONS = ("room", "pause", "inspect", "land", "digest", "allocate", "copy", "committed", "resume")


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong.

    Attributes:
        kind: of `PROCESS`, `WIRE`, `PAYLOAD`, ``raise``, or ``other plan``: it was made with other kernel layouts.
        rank: at which (the trainer is 0).
        at: the message that it happens at (for a message: on its way to `rank`), or the operation that raises.
        number: which of these, from 1.
    """

    kind: str
    rank: int
    at: str
    number: int


@dataclass(frozen=True)
class Case:
    world: str
    layout: str
    mode: Mode
    rooms: tuple[bool, ...]
    faults: tuple[Fault, ...]


def plant(cluster: Cluster, fault: Fault) -> None:
    """Arrange for the fault to happen."""
    count = 0

    def here(message: Message | None, to: int) -> bool:
        nonlocal count
        if to == fault.rank and kind_of(message) == fault.at:
            count += 1
            return count == fault.number
        return False

    if fault.kind == "other plan":
        cluster.start_rank(fault.rank, epoch=0, layout=next(name for name in LAYOUTS if name != cluster.layout))
        cluster.fault_happened()
        return
    if fault.kind == "raise":

        def fail(operation: str, number: int) -> None:
            if operation == fault.at and number == fault.number:
                cluster.fault_happened()
                raise Planted(f"planted in {operation}")

        before = cluster.faults[fault.rank].at

        def both(operation: str, number: int) -> None:
            before(operation, number)
            fail(operation, number)

        cluster.faults[fault.rank].at = both
        return
    if fault.kind in PROCESS:
        after, fate = cluster.net.after, cluster.net.fate

        def strike() -> None:
            cluster.fault_happened()
            if fault.kind.startswith("freeze"):
                cluster.net.freeze(fault.rank)
                if "while" in fault.kind:
                    cluster.net.thaw_at(fault.rank, cluster.net.now + DEADLINE * 1.25)
                return
            cluster.net.kill(fault.rank)
            if fault.kind.startswith("restart"):
                if fault.rank == TRAINER:
                    cluster.trainer = cluster.start_trainer(record=MemoryRecord())
                else:
                    cluster.start_rank(fault.rank, epoch=-1)

        def on_arrival(source: int, to: int, message: Message) -> Iterable[tuple[float, Message]] | None:
            if "after" not in fault.kind and here(message, to):
                strike()
            return fate(source, to, message) if fate is not None else None

        def on_handled(address: int, message: Message | None) -> None:
            if after is not None:
                after(address, message)
            if ("after" in fault.kind or message is None) and here(message, address):
                strike()

        cluster.net.fate, cluster.net.after = on_arrival, on_handled
        return
    fate = cluster.net.fate
    cut = False

    def on_the_way(source: int, to: int, message: Message) -> Iterable[tuple[float, Message]] | None:
        nonlocal cut
        if here(message, to):
            cluster.fault_happened()
            if fault.kind == "lose":
                return []
            if fault.kind == "cut from here":
                cut = True
            if fault.kind == "delay":
                return [(DEADLINE / 2, message)]
            if fault.kind == "delay past the deadline":
                return [(DEADLINE * 1.5, message)]
            if fault.kind == "twice":
                return [(0.0, message), (DEADLINE / 8, message)]
            if isinstance(message, Data):
                return [(0.0, spoilt(message, fault.kind, cluster))]
        if cut and to == fault.rank and kind_of(message) == fault.at:
            return []
        return fate(source, to, message) if fate is not None else None

    cluster.net.fate = on_the_way


def spoilt(data: Data, kind: str, cluster: Cluster) -> Data:
    payload = data.payload.clone()
    if kind == "flip a bit":
        piece = cluster.plan.buckets[data.bucket].pieces[-1]
        payload[piece.at] ^= 1  # not in a gap of the alignment, where it would change nothing
        return replace(data, payload=payload)
    if kind == "cut short":
        return replace(data, payload=payload[:-1])
    if kind == "other epoch":
        return replace(data, epoch=data.epoch + 1)
    return replace(data, bucket=(data.bucket + 1) % len(cluster.plan.buckets))


def judge(cluster: Cluster, case: Case, epoch: int) -> None:
    """What holds beyond `Cluster.check` where a single thing went wrong."""
    outcome, struck = cluster.trainer.outcome, cluster.fault_at is not None
    (fault,) = case.faults
    if not struck:
        cluster.check_new_everywhere(epoch)
        return
    if fault.rank == TRAINER and fault.kind not in WIRE:
        # Only a rank that had said yes may be in doubt; the others went back by themselves.
        for rank in cluster.up():
            participant = cluster.ranks[rank]
            assert participant.may_serve or "did not learn" in participant.reason or case.mode is Mode.OFF
        return
    assert outcome is not None, "the trainer never came to an end"
    if not outcome.everywhere:
        assert f"rank {fault.rank}" in outcome.reason or fault.rank == TRAINER, f"does not name {fault}: {outcome}"
    if not outcome.committed:
        assert cluster.fault_at is not None and cluster.aborted_at is not None
        assert cluster.aborted_at <= cluster.fault_at + DEADLINE + SOON, "told too late"
    for rank in cluster.up():
        participant = cluster.ranks[rank]
        if rank == fault.rank or (case.mode is Mode.OFF and not outcome.committed):
            continue
        assert participant.may_serve, f"rank {rank} has no part in {fault} and is {participant.reason}"
        assert participant.epoch == (epoch if outcome.committed else 0)
    # What goes wrong before the decision leaves even the rank at fault with its old weights, unless it went away.
    if not outcome.committed and case.mode is not Mode.OFF and fault.kind in (*WIRE, *PAYLOAD, "raise", "other plan"):
        participant = cluster.ranks[fault.rank] if fault.rank != TRAINER else None
        going_back = fault.kind == "raise" and fault.at == "resume"
        assert participant is None or participant.may_serve or going_back, f"{fault}: {participant.reason}"


def run(case: Case) -> Cluster:
    rooms = {rank: PLENTY if plenty else HOST_ONLY for rank, plenty in enumerate(case.rooms, 1)}
    cluster = Cluster(case.world, case.layout, rooms=rooms if case.mode is Mode.AUTO else None)
    for fault in case.faults:
        plant(cluster, fault)
    cluster.update(1, 1, mode=case.mode)
    return cluster


@st.composite
def faults(draw: st.DrawFn, world: str, layout: str) -> Fault:
    ranks = sorted(WORLDS[world][1])
    buckets = len(plan_of(world, layout).buckets)
    family = draw(st.sampled_from(["process", "wire", "payload", "raise", "trainer", "trainer's wire", "other plan"]))
    if family == "other plan":
        return Fault(family, draw(st.sampled_from(ranks)), "", 1)
    if family == "raise":
        at = draw(st.sampled_from(OPERATIONS))
        return Fault(
            "raise", draw(st.sampled_from(ranks)), at, draw(st.integers(1, 3)) if at in ("land", "digest") else 1
        )
    if family == "trainer":
        kind = draw(st.sampled_from(PROCESS))
        at = draw(st.sampled_from(["Ballots", "tick"]))
        return Fault(kind, TRAINER, at, draw(st.integers(1, 3 if at == "Ballots" else buckets + 2)))
    if family == "trainer's wire":
        return Fault(draw(st.sampled_from(WIRE)), TRAINER, "Ballots", draw(st.integers(1, 4)))
    rank = draw(st.sampled_from(ranks))
    if family == "payload":
        mine = len(plan_of(world, layout).buckets_for(rank))
        return Fault(draw(st.sampled_from(PAYLOAD)), rank, "Data", draw(st.integers(1, mine)))
    at = draw(st.sampled_from([*DOWN, "Ballots"]))
    number = draw(st.integers(1, len(plan_of(world, layout).buckets_for(rank)))) if at == "Data" else 1
    number = draw(st.integers(1, 6)) if at == "Ballots" else number
    return Fault(draw(st.sampled_from(PROCESS if family == "process" else WIRE)), rank, at, number)


@st.composite
def cases(draw: st.DrawFn, count: int = 1) -> Case:
    world = draw(st.sampled_from(list(WORLDS)))
    layout = draw(st.sampled_from(list(LAYOUTS)))
    return Case(
        world,
        layout,
        draw(st.sampled_from([Mode.SHADOW, Mode.UNDO, Mode.AUTO, Mode.OFF])),
        tuple(draw(st.lists(st.booleans(), min_size=5, max_size=5))),
        tuple(draw(faults(world, layout)) for _ in range(count)),
    )


SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large]


@settings(max_examples=1400, suppress_health_check=SLOW)
@given(cases())
def test_one_fault_anywhere(case: Case) -> None:
    cluster = run(case)
    cluster.check(1)
    judge(cluster, case, 1)
    cluster.recover()


@settings(max_examples=300, suppress_health_check=SLOW)
@given(cases(count=2))
def test_two_faults_at_once(case: Case) -> None:
    cluster = run(case)
    cluster.check(1)
    cluster.recover()


@settings(max_examples=100, suppress_health_check=SLOW)
@given(cases(), st.floats(0, 0.003))
def test_two_trainers_and_a_fault(case: Case, later: float) -> None:
    rooms = {rank: PLENTY if plenty else HOST_ONLY for rank, plenty in enumerate(case.rooms, 1)}
    cluster = Cluster(case.world, case.layout, rooms=rooms)
    for fault in case.faults:
        plant(cluster, fault)
    other = cluster.start_trainer(OTHER_TRAINER)
    cluster.begin(1, 1, mode=case.mode)
    cluster.net.run(lambda: False, later)
    cluster.begin(1, 1, trainer=other, mode=case.mode)
    cluster.settle(12 * DEADLINE)
    cluster.check(1)
    cluster.recover()


@settings(max_examples=50, suppress_health_check=SLOW)
@given(cases(), st.integers(0, 30))
def test_the_trainers_tensors_break_on_the_way(case: Case, at: int) -> None:
    """A generator that raises, a shard that cannot be gathered: told to everybody by the trainer, who keeps on."""
    cluster = Cluster(case.world, case.layout)
    cluster.begin(1, 1, mode=case.mode)
    sources = cluster.trainer._sources
    assert sources is not None
    pack = sources.pack

    def failing(bucket: object, buffer: torch.Tensor) -> None:
        if bucket is cluster.plan.buckets[at % len(cluster.plan.buckets)]:
            raise Planted("a shard is gone")
        pack(bucket, buffer)  # type: ignore[arg-type]

    sources.pack = failing  # type: ignore[method-assign, assignment]
    cluster.settle()
    outcome = cluster.trainer.outcome
    assert outcome is not None and not outcome.committed and "a shard is gone" in outcome.reason
    cluster.check(1)
    if case.mode is not Mode.OFF:
        assert all(rank.may_serve and rank.epoch == 0 for rank in cluster.ranks.values())
    cluster.recover()


EVERYWHERE = [
    (world, rank, kind, at, number)
    for world in ("tp2", "two engines of tp2")
    for rank in WORLDS[world][1]
    for kind in ("kill", "kill after", "freeze", "freeze after")
    for at in DOWN
    for number in (range(1, len(plan_of(world, "swapped halves").buckets_for(rank)) + 1) if at == "Data" else (1,))
]


@pytest.mark.parametrize("mode", [Mode.SHADOW, Mode.UNDO], ids=lambda mode: mode.value)
def test_every_message_of_every_rank(mode: Mode) -> None:
    """Not drawn but counted out: a kill and a hang before and after each message that a rank gets."""
    for world, rank, kind, at, number in EVERYWHERE:
        case = Case(world, "swapped halves", mode, (True,) * 5, (Fault(kind, rank, at, number),))
        cluster = run(case)
        assert cluster.fault_at is not None, case
        cluster.check(1)
        judge(cluster, case, 1)
        cluster.recover()


@pytest.mark.parametrize("mode", [Mode.SHADOW, Mode.UNDO, Mode.OFF], ids=lambda mode: mode.value)
@pytest.mark.parametrize("world", ["tp2", "two engines of tp2", "pp2 tp2 and a replica"])
def test_the_trainer_dies_when_some_know_the_decision(world: str, mode: Mode) -> None:
    """A rank that said yes and was not told must not take silence for an abort: its peer has the new weights."""
    for untold in list(WORLDS[world][1])[1:]:
        cluster = Cluster(world, "swapped halves")

        def fate(source: int, to: int, message: Message, c: Cluster = cluster, lost: int = untold) -> list | None:  # type: ignore[type-arg]
            if kind_of(message) != "Decide":
                return None
            c.net.kill(TRAINER)
            return [] if to == lost else None

        cluster.net.fate = fate
        cluster.update(1, 1, mode=mode)
        assert cluster.ranks[1].epoch == 1 and cluster.ranks[1].may_serve
        doubting = cluster.ranks[untold]
        assert doubting.phase is Phase.FAILED and "did not learn the decision" in doubting.reason
        assert not cluster.hooks[untold].running
        cluster.check(1)
        cluster.recover()


def test_a_rank_that_cannot_carry_out_the_commit_serves_nothing() -> None:
    cluster = Cluster("tp2", "swapped halves")
    plant(cluster, Fault("raise", 2, "copy", 1))
    cluster.update(1, 1, mode=Mode.SHADOW)
    outcome = cluster.trainer.outcome
    assert outcome is not None and outcome.committed and not outcome.everywhere
    assert "rank 2: could not carry out the commit of epoch 1: Planted: planted in copy" in outcome.reason
    assert cluster.ranks[1].epoch == 1 and cluster.ranks[1].may_serve
    assert cluster.ranks[2].phase is Phase.FAILED and not cluster.ranks[2].may_serve
    assert engine_state(cluster.ranks.values()).epoch is None
    cluster.check(1)
    cluster.recover()


def test_a_lost_bucket_is_named_with_its_tensors() -> None:
    cluster = Cluster("one rank", "vllm")
    plant(cluster, Fault("lose", 1, "Data", 1))
    cluster.update(1, 1)
    assert cluster.trainer.outcome is not None
    assert "rank 1: bucket 0 never came: embed" in cluster.trainer.outcome.reason


def test_bits_that_change_on_the_way_are_named_with_their_bucket() -> None:
    cluster = Cluster("one rank", "transposed, padded")
    plant(cluster, Fault("flip a bit", 1, "Data", 1))
    cluster.update(1, 1)
    assert cluster.trainer.outcome is not None
    assert "rank 1: what is stored of bucket 0 is not what was sent: embed" in cluster.trainer.outcome.reason


def test_there_are_enough_cases() -> None:
    drawn = 1000 + 250 + 100 + 50
    assert drawn + 2 * len(EVERYWHERE) >= 1500, len(EVERYWHERE)


def test_a_trainer_that_starts_again_with_its_record_resolves_a_doubt(tmp_path: Path) -> None:
    """Killed right after it wrote the decision, before it told anybody: a new trainer reads it and answers."""
    path = tmp_path / "decisions"
    cluster = Cluster("tp2", "vllm", record=FileRecord(path))
    write = cluster.record.write

    def write_and_die(decision: object) -> None:
        write(decision)  # type: ignore[arg-type]
        cluster.net.kill(TRAINER)

    cluster.record.write = write_and_die  # type: ignore[method-assign, assignment]
    cluster.begin(1, 1)
    cluster.settle(DEADLINE / 2)
    assert {rank.phase for rank in cluster.ranks.values()} == {Phase.PREPARED}
    assert not any(rank.may_serve for rank in cluster.ranks.values())
    cluster.trainer = cluster.start_trainer(record=FileRecord(path))
    cluster.settle()
    assert all(rank.may_serve and rank.epoch == 1 for rank in cluster.ranks.values())
    cluster.check(1)


def test_a_trainer_that_starts_again_without_a_decision_aborts(tmp_path: Path) -> None:
    path = tmp_path / "decisions"
    cluster = Cluster("tp2", "vllm", record=FileRecord(path))
    plant(cluster, Fault("kill", TRAINER, "Ballots", 2))
    cluster.begin(1, 1)
    cluster.settle(DEADLINE / 2)
    assert {rank.phase for rank in cluster.ranks.values()} == {Phase.PREPARED}
    cluster.trainer = cluster.start_trainer(record=FileRecord(path))
    cluster.net.fate = None
    cluster.settle()
    assert all(rank.may_serve and rank.epoch == 0 for rank in cluster.ranks.values())
    cluster.check(1)


def test_a_decision_that_cannot_be_recorded_is_not_a_commit() -> None:
    cluster = Cluster("tp2", "vllm")

    def full(decision: object) -> None:
        raise OSError("no space left on device")

    cluster.record.write = full  # type: ignore[method-assign, assignment]
    cluster.update(1, 1)
    outcome = cluster.trainer.outcome
    assert outcome is not None and not outcome.committed
    assert "rank 0 (the trainer): the decision could not be recorded: OSError: no space left" in outcome.reason
    assert all(rank.may_serve and rank.epoch == 0 for rank in cluster.ranks.values())

"""vLLM's own groups on record, and the words of a collective that fails; two real processes over gloo, no engine."""

from __future__ import annotations

import os
import signal
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch

from hardpoint.communicator.ledger import Identity, Progress
from hardpoint.communicator.presence import Presence, whereabouts
from hardpoint.errors import CommunicatorError, DeadlineExceeded, RankLost
from hardpoint_vllm.parallel import exchange, group_watch
from hardpoint_vllm.parallel.group_watch import Form, GroupWatch
from hardpoint_vllm.parallel.watched import Watched, WatchedRagged
from support.ranks import RankPool


class Stock:
    """What `Watched` stands before: a device communicator of vLLM's."""

    def __init__(self, error: Exception | None = None) -> None:
        self.ranks, self.rank_in_group, self.world_size = [0, 2], 1, 2
        self.unique_name, self.device_group, self.error = "tp:0", None, error
        self.destroyed = False

    def _work(self, value: Any) -> Any:
        if self.error is not None:
            raise self.error
        return value

    def all_reduce(self, input_: Any) -> Any:
        return self._work(input_)

    def all_gather(self, input_: Any, dim: int = -1) -> Any:
        return self._work((input_, dim))

    def reduce_scatter(self, input_: Any, dim: int = -1) -> Any:
        return self._work((input_, dim))

    def gather(self, input_: Any, dst: int = 0, dim: int = -1) -> Any:
        return self._work((input_, dst, dim))

    def all_gatherv(self, input_: Any, dim: int = 0, sizes: Any = None) -> Any:
        return self._work((input_, sizes))

    def reduce_scatterv(self, input_: Any, dim: int = -1, sizes: Any = None) -> Any:
        return self._work((input_, sizes))

    def destroy(self) -> None:
        self.destroyed = True


class Host(Watched, Stock):
    blocking = True


class Device(WatchedRagged, Stock):
    pass


def test_on_a_device_nothing_is_recorded_unless_records_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HARDPOINT_RECORDS", raising=False)
    group, tensor = Device(), torch.ones(2)
    assert group.all_reduce(tensor) is tensor
    assert group.all_gatherv(tensor, sizes=[2, 2]) == (tensor, [2, 2])
    assert "group_watch" not in vars(group)


def test_every_collective_is_on_record_and_answers_as_before(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HARDPOINT_RECORDS", str(tmp_path))
    group, tensor = Device(), torch.ones(3, 4, dtype=torch.bfloat16)
    assert group.all_reduce(tensor) is tensor
    assert group.all_gather(tensor, 0) == (tensor, 0)
    assert group.reduce_scatter(tensor, dim=1) == (tensor, 1)
    assert group.gather(tensor, 1, dim=0) == (tensor, 1, 0)
    assert group.all_gatherv([tensor, tensor], sizes=[3, 5])[1] == [3, 5]
    assert group.reduce_scatterv(tensor, 0, [1, 2]) == (tensor, [1, 2])
    calls = group.group_watch.recorder.calls()
    assert [(call["op"], call["form"]) for call in calls] == [
        ("all_reduce", "bfloat16 [3, 4]"),
        ("all_gather", "bfloat16 [3, 4]"),
        ("reduce_scatter", "bfloat16 [3, 4]"),
        ("gather", "bfloat16 [3, 4]"),
        ("all_gatherv", "bfloat16 [*, 4]"),
        ("reduce_scatterv", "bfloat16 [*, 4]"),
    ]
    assert {call["state"] for call in calls} == {"issued"}
    record = group.group_watch.recorder.as_record("asked")
    assert (record["group"], record["rank"], record["world_size"]) == ("vllm tp:0 of ranks 0-2", 1, 2)
    group.destroy()
    assert group.destroyed
    assert group_watch._recorders == []


def test_on_host_memory_a_call_that_came_back_is_done() -> None:
    group = Host()
    group.all_reduce(torch.ones(2))
    assert [call["state"] for call in group.group_watch.recorder.calls()] == ["done"]
    group.destroy()


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("Timed out waiting 5000ms", DeadlineExceeded),
        ("Connection closed by peer", CommunicatorError),
    ],
)
def test_a_failure_says_which_call_of_which_group(said: str, kind: type[CommunicatorError]) -> None:
    group = Host(RuntimeError(said))
    with pytest.raises(
        kind, match=r"all_reduce float32 \[2\] \(call 0 of vllm tp:0 of ranks 0-2\), on rank 2.*" + said
    ):
        group.all_reduce(torch.ones(2))
    assert group.group_watch.recorder.calls()[0]["state"] == "failed"
    group.destroy()


def test_our_own_errors_pass() -> None:
    group = Host(RankLost("it died", op="all_reduce", sequence=3, missing=(1,), deadline=1.0))
    with pytest.raises(RankLost, match=r"^it died$"):
        group.all_reduce(torch.ones(2))
    group.destroy()


def seen(call: str, *, inside: bool = True, recent: tuple[str, ...] = ()) -> Progress:
    return Progress(1, 4, call, inside, dict(enumerate(recent)), None, False)


def test_whereabouts_tell_the_dead_the_silent_and_the_absent_from_those_who_came() -> None:
    gone = Identity(2**22 + 11, Identity.here().host, "here")
    progress = {1: seen("A"), 2: seen("B"), 3: seen("B", recent=("A", "B")), 4: seen("A"), 5: seen("A", inside=False)}
    found = whereabouts("A", [1, 2, 3, 4, 5], progress, {1: gone} | {4: Identity.here()}, {4: 9.0}, 0.25)
    assert found.dead == (1,)
    assert found.missing == (1, 2, 4)
    assert "rank 1 (pid" in found.sentences[1]
    assert "has died; it is in A" in found.sentences[1]
    assert found.sentences[2] == "rank 2 is not in it; it is in B"
    assert "has been silent for 9.0 s" in found.sentences[4]
    assert 3 not in found.sentences, "it has been in that call and is further on"


def _in_a_group(store: Any, rank: int, world: int, fault: str) -> str:
    import torch.distributed as dist

    dist.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=timedelta(seconds=6))
    seat = Presence(store, rank, world)
    watch = GroupWatch("g", range(world), rank, "gloo", True, seat)
    tensor = torch.ones(2)
    for _ in range(3):
        watch.run("all_reduce", Form(tensor), lambda: dist.all_reduce(tensor))
    time.sleep(1.0)  # every rank has been seen by every other
    if rank == world - 1 and fault == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if rank == world - 1 and fault == "elsewhere":
        seat.enter("a long computation")
        time.sleep(11)
        return "came back"
    try:
        watch.run("all_reduce", Form(tensor), lambda: dist.all_reduce(tensor))
    except CommunicatorError as error:
        return f"{type(error).__name__} {getattr(error, 'missing', None)}: {error}"
    return "nothing"


@pytest.mark.parametrize(
    ("fault", "kind", "words"),
    [("kill", "RankLost (1,)", "rank 1 (pid"), ("elsewhere", "DeadlineExceeded (1,)", "it is in a long computation")],
)
def test_a_collective_of_a_real_group_names_who_is_not_in_it(fault: str, kind: str, words: str) -> None:
    pool = RankPool(2)
    try:
        said = str(pool.run(2, _in_a_group, fault, deadline=60.0)[0].unwrap())
    finally:
        pool.close()
    assert said.startswith(kind), said
    assert words in said
    assert "call 3 of g" in said


class Group:
    def __init__(self, rank: int, size: int) -> None:
        self._rank, self._size = rank, size

    def rank(self) -> int:
        return self._rank

    def size(self) -> int:
        return self._size


@pytest.mark.parametrize("size", [2, 3])
def test_engines_name_the_absent_one_by_elimination(size: int) -> None:
    def stock(dp_group: Any, has_unfinished: bool) -> bool:
        raise RuntimeError("Timed out waiting 6000ms for recv operation to complete")

    wrapped = exchange._static_state("has_unfinished_dp", stock)
    with pytest.raises(DeadlineExceeded) as caught:
        wrapped(Group(0, size), True)
    if size == 2:
        assert caught.value.missing == (1,)
        assert "engine 1 did not come" in str(caught.value)
    else:
        assert caught.value.missing == ()
        assert "one of engines [1, 2] did not come" in str(caught.value)

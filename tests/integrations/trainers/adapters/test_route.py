"""`Route`: every shape in which trainers and engines meet, and that no error leaves either side waiting."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from hardpoint.errors import SyncError
from hardpoint.sync import SyncOutcome, UpdateAborted
from hardpoint_trainers import WeightPublisher, checkpoint_tensors
from hardpoint_trainers.adapters.route import Route
from hardpoint_trainers.sharded import CheckpointStream
from support.colocated import ReceivingEngine, train_colocated
from support.ranks import run_ranks
from support.sync_processes import gloo
from support.trainer_models import tiny_trainer_moe


@contextmanager
def _route(*engines: ReceivingEngine, deadline: float = 10.0) -> Iterator[Route]:
    publisher = WeightPublisher(receivers=len(engines), communicator=gloo, deadline=deadline, path="whole")
    route = Route(publisher, [(engine, 1 + n) for n, engine in enumerate(engines)], deadline=deadline)
    try:
        yield route
    finally:
        route.close()
        for engine in engines:
            engine.close()


def _module() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Linear(4, 3)


def test_two_engines_get_every_update_and_join_once() -> None:
    engines = ReceivingEngine(), ReceivingEngine()
    module = _module()
    seen: list[SyncOutcome | None] = []
    with _route(*engines) as route:
        route.after.append(seen.append)
        for epoch in (1, 2):
            with torch.no_grad():
                module.weight.fill_(epoch)
            assert route.send(CheckpointStream(module))
            assert route.epoch == epoch
            for engine in engines:
                assert torch.equal(engine.live["weight"], module.weight)
    assert [engine.calls for engine in engines] == [["join", *["start", "update", "finish"] * 2]] * 2
    assert [outcome.epoch for outcome in seen if outcome] == [1, 2]


def test_a_refusal_is_told_once_and_the_next_update_is_everywhere() -> None:
    engines = ReceivingEngine(), ReceivingEngine()
    module = _module()
    with _route(*engines) as route:
        route.send(CheckpointStream(module))
        old = {name: tensor.clone() for name, tensor in engines[0].live.items()}
        engines[1].refuse = "layer 3 is not mine"
        with torch.no_grad():
            module.weight.zero_()
        with pytest.raises(UpdateAborted, match="layer 3 is not mine"):
            route.send(CheckpointStream(module))
        assert route.epoch == 1
        assert all(torch.equal(engine.live[name], old[name]) for engine in engines for name in old)
        engines[1].refuse = ""
        route.send(CheckpointStream(module))
        assert all(torch.equal(engine.live["weight"], module.weight) for engine in engines)
        assert "join" not in engines[0].calls[1:]


def test_an_engine_that_fails_before_it_receives_is_named_within_the_deadline() -> None:
    engine = ReceivingEngine(deadline=2.0)
    with _route(engine, deadline=2.0) as route:
        route.send(CheckpointStream(_module()))
        engine.fail["update"] = RuntimeError("out of memory")
        began = time.monotonic()
        with pytest.raises(SyncError, match="rank 1"):
            route.send(CheckpointStream(_module()))
        assert time.monotonic() - began < 12
        route.send(CheckpointStream(_module()))  # meets it anew, under another name
        assert engine.calls.count("join") == 2


def test_an_engine_that_cannot_join_says_why() -> None:
    engine = ReceivingEngine(deadline=1.0)
    engine.fail["join"] = SyncError("no such engine")
    with _route(engine, deadline=1.0) as route, pytest.raises(SyncError, match="no such engine"):
        route.connect()


def test_a_rank_without_a_publisher_and_without_peers_is_refused() -> None:
    with pytest.raises(SyncError, match="no publisher"):
        Route(None, ()).connect()


@pytest.mark.parametrize("layout", ["fully_shard", "replicated"])
def test_colocated_trainers_of_two_ranks(layout: str) -> None:
    first, second = (result.unwrap() for result in run_ranks(2, train_colocated, layout, deadline=60.0))
    assert first["said"][0] == first["said"][2] == "committed"
    assert second["said"][0] == second["said"][2] == "followed"
    assert "no room" in first["said"][1]
    assert "no room" in second["said"][1]
    expected = checkpoint_tensors(tiny_trainer_moe())
    for rank in (first, second):
        assert rank["epoch"] == 2
        assert rank["live"].keys() == expected.keys()
        assert all(torch.equal(rank["live"][name], expected[name] * 4) for name in expected)

"""verl's own checkpoint-engine interface, driven as `CheckpointEngineManager` drives it, against the real package."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from hardpoint.errors import SyncError
from hardpoint.sync import UpdateAborted
from support.sync_processes import gloo

base = pytest.importorskip(
    "verl.checkpoint_engine.base", reason="verl is not installed here; `make trainers` runs this"
)

from hardpoint_trainers.adapters.verl import HardpointCheckpointEngine  # noqa: E402


def _engines(actors: int, rollouts: int, **options: Any) -> tuple[list[Any], list[Any]]:
    def make(master: bool) -> Any:
        made = base.CheckpointEngineRegistry.new(
            "hardpoint",
            bucket_size=4096,
            **({"is_master": True} if master else {}),
            communicator=gloo,
            deadline=5.0,
            start_deadline=5.0,
            **options,
        )
        assert isinstance(made, HardpointCheckpointEngine)
        return made

    return [make(n == 0) for n in range(actors)], [make(False) for _ in range(rollouts)]


def _all(calls: list[Callable[[], Any]]) -> list[Any]:
    """Every call in a thread of its own; what came out, errors included."""
    found: list[Any] = [None] * len(calls)

    def run(n: int) -> None:
        try:
            found[n] = calls[n]()
        except Exception as error:  # noqa: BLE001 - the test looks at it
            found[n] = error

    threads = [threading.Thread(target=run, args=(n,), daemon=True) for n in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(40)
        assert not thread.is_alive()
    return found


def _meet(actors: list[Any], rollouts: list[Any]) -> None:
    everybody = [*actors, *rollouts]
    metadata = [one.prepare() for one in everybody]
    actor, rollout = HardpointCheckpointEngine.build_topology(len(actors), len(rollouts), metadata)
    assert all(len(values) == len(actors) for values in actor.values())
    assert all(len(values) == len(rollouts) for values in rollout.values())

    def join(engine: Any, arguments: dict[str, list[Any]], n: int) -> Callable[[], Any]:
        return lambda: engine.init_process_group(**{name: values[n] for name, values in arguments.items()})

    calls = [join(one, actor, n) for n, one in enumerate(actors)] + [
        join(one, rollout, n) for n, one in enumerate(rollouts)
    ]
    assert [one for one in _all(calls) if one is not None] == []


def _weights(version: int, count: int = 4) -> Iterator[tuple[str, torch.Tensor]]:
    for n in range(count):
        yield f"layer.{n}", torch.full((30, 20), float(version * 10 + n))


def _update(actors: list[Any], rollouts: list[Any], version: int, count: int = 4) -> list[Any]:
    async def take(engine: Any) -> dict[str, torch.Tensor]:
        return {name: tensor async for name, tensor in engine.receive_weights(global_steps=version)}

    def send(engine: Any) -> Callable[[], Any]:
        return lambda: asyncio.run(engine.send_weights(_weights(version, count), global_steps=version))

    def receive(engine: Any) -> Callable[[], Any]:
        return lambda: asyncio.run(take(engine))

    return _all([*(send(one) for one in actors), *(receive(one) for one in rollouts)])


def test_it_has_the_methods_of_verls_interface_with_their_parameters() -> None:
    for name, method in inspect.getmembers(base.CheckpointEngine, inspect.isfunction):
        if name.startswith("_"):
            continue
        theirs = list(inspect.signature(method).parameters)
        ours = list(inspect.signature(getattr(HardpointCheckpointEngine, name)).parameters)
        if "kwargs" not in theirs:
            assert ours[: len(theirs)] == theirs, name
    assert not inspect.isabstract(HardpointCheckpointEngine)


def test_updates_reach_every_rollout_over_one_group() -> None:
    actors, rollouts = _engines(2, 2)
    for version in (1, 2, 3):
        _meet(actors, rollouts)
        sent, helped, *received = _update(actors, rollouts, version)
        assert sent["hardpoint/bytes"] == 4 * 30 * 20 * 4
        assert helped == {}
        for tensors in received:
            assert list(tensors) == [f"layer.{n}" for n in range(4)]
            assert all(torch.all(tensor == version * 10 + n) for n, tensor in enumerate(tensors.values()))
        for one in (*actors, *rollouts):
            one.finalize()
    assert actors[0].prepare()["name"] == "verl-0"


def test_an_update_that_differs_from_the_first_gives_no_rollout_a_tensor() -> None:
    actors, rollouts = _engines(1, 2)
    _meet(actors, rollouts)
    _update(actors, rollouts, 1)
    _meet(actors, rollouts)
    ended = _update(actors, rollouts, 2, count=3)
    assert isinstance(ended[0], (SyncError, UpdateAborted))
    assert "layer.3" in str(ended[0])
    assert all(isinstance(one, UpdateAborted) for one in ended[1:])
    _meet(actors, rollouts)
    sent, *received = _update(actors, rollouts, 3)
    assert sent["hardpoint/bytes"]
    assert all(torch.all(tensors["layer.1"] == 31) for tensors in received)


def test_a_rollout_that_is_gone_is_named_and_the_others_meet_anew() -> None:
    actors, rollouts = _engines(1, 2)
    _meet(actors, rollouts)
    _update(actors, rollouts, 1)
    ended = _update(actors, rollouts[:1], 2)
    assert isinstance(ended[0], UpdateAborted)
    assert "rank 2" in str(ended[0])
    assert isinstance(ended[1], UpdateAborted)
    _meet(actors, rollouts)
    assert actors[0].prepare()["name"] == "verl-1"
    sent, *received = _update(actors, rollouts, 3)
    assert sent["hardpoint/bytes"]
    assert all(torch.all(tensors["layer.2"] == 32) for tensors in received)

"""The group of dispatch and combine: a meeting before each gather and scatter, where the backend's rule asks for it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from hardpoint.communicator import Rendezvous
from hardpoint.dp.moe_communicator import MeetFirst, moe_communicator
from hardpoint_sim.backend import build


class Group:
    """Notes what is called."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: self.calls.append(name)


def test_ranks_meet_before_each_gather_and_scatter_and_nothing_else() -> None:
    inner: Any = Group()
    group, x = MeetFirst(inner, lambda: False), Any
    group.all_gather(x, x)  # type: ignore[arg-type]
    group.all_gather_ragged(x, x, [1])  # type: ignore[arg-type]
    group.reduce_scatter(x, x)  # type: ignore[arg-type]
    group.reduce_scatter_ragged(x, x, [1])  # type: ignore[arg-type]
    group.all_reduce(x)  # type: ignore[arg-type]
    group.broadcast(x, src=0)  # type: ignore[arg-type]
    moe = ["all_gather", "all_gather_ragged", "reduce_scatter", "reduce_scatter_ragged"]
    assert inner.calls == [name for each in moe for name in ("barrier", each)] + ["all_reduce", "broadcast"]


def test_nobody_waits_inside_a_capture() -> None:
    inner: Any = Group()
    MeetFirst(inner, lambda: True).all_gather(None, None)  # type: ignore[arg-type]
    assert inner.calls == ["all_gather"]


@pytest.mark.parametrize("barrier", [True, False])
def test_the_rule_of_the_backend_decides(barrier: bool) -> None:
    backend = build({})
    opened: list[Rendezvous] = []

    def factory(rendezvous: Rendezvous) -> Any:
        opened.append(rendezvous)
        return Group()

    rule = replace(backend.dp_rule, barrier_before_moe=barrier)
    store: Any = None
    group = moe_communicator(replace(backend, communicator=factory, dp_rule=rule), Rendezvous(store, 0, 2, "experts"))
    assert isinstance(group, MeetFirst) == barrier
    assert [each.name for each in opened] == ["moe/experts"]

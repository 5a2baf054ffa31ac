"""The order of a stream's lanes, on the strict simulator: streams run late and in any order, memory is poisoned.

Trainer and receiver share a process and take turns: what one puts on the wire, the other finds there.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from hardpoint import Backend
from hardpoint.errors import SyncError
from hardpoint.sync.plan import Sources, Storages
from hardpoint.sync.stream import StreamReceiver, StreamSender, Undo, bind_commit, stamp_of
from hardpoint_sim.backend import build
from support.stream_ranks import Case, bits, digests_of, model, plan_of


class Tape:
    """A link that keeps what is sent, in the stream in which it is sent, for who receives."""

    def __init__(self) -> None:
        self.messages: list[torch.Tensor] = []
        self.taken = 0

    def send(self, payload: torch.Tensor, audience: tuple[int, ...], deadline: float, /) -> None:
        self.messages.append(payload.clone())

    def receive(self, payload: torch.Tensor, audience: tuple[int, ...], deadline: float, /) -> None:
        payload.copy_(self.messages[self.taken])  # which outlives the late copy
        self.taken += 1

    def check(self) -> None:
        """Nothing fails here."""

    def close(self) -> None:
        """Nothing is held."""


@pytest.fixture(params=range(2))
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    yield build({"devices": 2, "seed": request.param})


def put(backend: Backend, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.to(backend.device.torch_device(1), copy=True) for name, tensor in tensors.items()}


@pytest.mark.parametrize(
    "case",
    [
        Case("one receiver", least=64, bucket_bytes=768),
        Case("one receiver", order="w31", axes="[E,K,N]", padded=6),
        Case("one receiver", least=1 << 30, mode="undo"),
    ],
    ids=str,
)
def test_late_streams_change_nothing(backend: Backend, case: Case) -> None:
    plan, wire, device = plan_of(case), Tape(), backend.device
    live = Storages(plan, 1, put(backend, {
        of.parameter: torch.full(of.shape, 3, dtype=getattr(torch, of.dtype)) for of in plan.destinations_for(1)
    }))  # fmt: skip
    before = {name: bits(tensor.cpu()) for name, tensor in live.named.items()}
    target = live.like() if case.mode == "shadow" else live
    undo = Undo(live, device, index=1) if case.mode == "undo" else None
    options: Any = {"index": 1, "kernels": backend.box_kernels, "least": case.least}
    sender = StreamSender(plan, wire, device, buffer_bytes=512, **options)
    receiver = StreamReceiver(plan, 1, wire, device, buffer_bytes=512, **options)
    receiver.prepare(target)
    tensors = put(backend, model(case).tensors(0))
    sender.prepare(Sources(plan, tensors))
    for version in range(2):
        with device.use_stream(device.stream(1)):  # the caller's weights are late work of a stream of its own
            for name, tensor in model(case).tensors(version).items():
                tensors[name].copy_(tensor.to(tensors[name].device))
            stamp = stamp_of("session", version, plan.digest)
            assert sender.send(stamp, deadline=30.0) == digests_of(plan, model(case).tensors(version))
            digests = receiver.receive(stamp, deadline=30.0, in_place=target is live, keeper=undo)
        assert tuple(digests[bucket.index] for bucket in plan.buckets) == digests_of(plan, model(case).tensors(version))
        if undo is not None and version == 0:
            undo.restore()
            assert {name: bits(tensor.cpu()) for name, tensor in live.named.items()} == before
    target.clear_padding()
    if target is not live:
        bind_commit(backend.box_kernels, live, target)()
    expected = model(case).expected(model(case).tensors(1), plan_coordinates(case))
    assert {name: bits(tensor.cpu()) for name, tensor in live.named.items()} == {
        name: bits(tensor) for name, tensor in expected.items()
    }


def plan_coordinates(case: Case) -> Any:
    from support.stream_ranks import WORLDS

    return WORLDS[case.world][1]


def test_a_stream_that_is_not_over_by_its_deadline_is_an_error(backend: Backend) -> None:
    plan, wire = plan_of(Case("one receiver")), Tape()
    sender = StreamSender(plan, wire, backend.device, index=1)
    with pytest.raises(SyncError, match="call prepare"):
        sender.send(stamp_of("session", 0, plan.digest), deadline=1.0)

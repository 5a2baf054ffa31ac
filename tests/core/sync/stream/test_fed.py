"""Streams of tensors that are made one at a time: same messages, bounded memory, and nobody waits for nothing."""

from __future__ import annotations

import random
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
import torch

from hardpoint import Backend
from hardpoint.device import HostDevice
from hardpoint.errors import SyncError
from hardpoint.sync.plan import Coordinates, Offer, Storages, SyncPlan, make_plan
from hardpoint.sync.stream import FedSender, Feed, StreamReceiver, feed_plan, stamp_of
from hardpoint_sim.backend import build
from support.stream_ranks import WORLDS, Case, bits, digests_of, model, plan_of
from support.threads_tape import Tape

CASES = [
    Case("one receiver", least=64, bucket_bytes=768),
    Case("one receiver", order="w31", axes="[E,K,N]", padded=6, bucket_bytes=192),
    Case("one receiver", order="interleaved", tied=True),
]


def made(tensors: dict[str, torch.Tensor], most_alive: list[int], device: Any = None) -> Iterator[Any]:
    """Each tensor when its turn comes; counts how many are alive then."""
    alive: list[weakref.ref[torch.Tensor]] = []
    for name, tensor in tensors.items():
        most_alive.append(sum(one() is not None for one in alive))
        one = tensor.clone() if device is None else tensor.to(device, copy=True)
        alive.append(weakref.ref(one))
        yield name, one
        del one


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("seed", [None, 0, 1])
def test_a_fed_stream_is_the_stream_of_the_whole_tensors(case: Case, seed: int | None) -> None:
    """Also where streams run late and in any order (the simulator): no buffer is filled before it has been read."""
    backend: Backend | None = None if seed is None else build({"devices": 2, "seed": seed})
    device: Any = HostDevice() if backend is None else backend.device
    index = 0 if backend is None else 1
    where = device.torch_device(index)
    plan, wire = plan_of(case), Tape()
    route = feed_plan(plan)
    kernels = None if backend is None else backend.box_kernels
    receiver = StreamReceiver(plan, 1, wire, device, index=index, least=case.least, kernels=kernels)
    live = {
        of.parameter: torch.full(of.shape, 3, dtype=getattr(torch, of.dtype)).to(where)
        for of in plan.destinations_for(1)
    }
    target = Storages(plan, 1, live)
    receiver.prepare(target)
    for version in range(2):
        tensors, alive = model(case).tensors(version), list[int]()
        feed = Feed(route, device, index)
        sender = FedSender(feed, wire, device, index=index, least=case.least, kernels=kernels)
        stamp = stamp_of("session", version, plan.digest)
        with ThreadPoolExecutor(1) as pool:
            sent = pool.submit(sender.send, stamp, deadline=20.0)
            with device.use_stream(device.stream(index)):
                feed.run(made(tensors, alive, where))
            assert sent.result(20.0) == digests_of(plan, tensors)
        assert len(alive) == len(tensors) and max(alive) <= 1
        digests = receiver.receive(stamp, deadline=20.0)
        assert tuple(digests[bucket.index] for bucket in plan.buckets) == digests_of(plan, tensors)
    target.clear_padding()
    device.synchronize(index)
    expected = model(case).expected(model(case).tensors(1), WORLDS[case.world][1])
    assert {name: bits(of.cpu()) for name, of in target.named.items()} == {
        name: bits(of) for name, of in expected.items()
    }


def test_few_buckets_are_open_in_a_checkpoints_own_order_and_another_order_is_refused_before_anything_moves() -> None:
    case = Case("one receiver", bucket_bytes=256)
    plan, tensors = plan_of(case), model(case).tensors()
    route = feed_plan(plan)
    assert len(plan.buckets) > 3 * route.buffers
    assert route.nbytes <= route.buffers * plan.bucket_bytes
    shuffled = list(tensors)
    random.Random(0).shuffle(shuffled)
    other = _planned(case, {name: tensors[name] for name in shuffled})
    with pytest.raises(SyncError, match=r"open at once .*as a mapping"):
        feed_plan(other, most_bytes=route.nbytes)


def _planned(case: Case, tensors: dict[str, torch.Tensor]) -> SyncPlan:
    spec = model(case).spec()
    receivers = spec.receivers({1: Coordinates()})
    return make_plan(Offer.of(tensors), receivers, ignored=spec.ignored, bucket_bytes=case.bucket_bytes)


class Streaming:
    """A feed and its sender in a thread."""

    def __init__(self, case: Case, deadline: float = 10.0) -> None:
        self.tensors = model(case).tensors()
        self.plan = plan_of(case)
        self.feed = Feed(feed_plan(self.plan), HostDevice())
        sender = FedSender(self.feed, Tape(), HostDevice())
        self.ended: Future[Any] = Future()

        def send() -> None:
            try:
                self.ended.set_result(sender.send(stamp_of("s", 1, self.plan.digest), deadline=deadline))
            except SyncError as error:
                self.ended.set_exception(error)

        threading.Thread(target=send, daemon=True).start()


def test_what_making_a_tensor_raises_ends_the_stream_and_reaches_the_caller() -> None:
    it = Streaming(Case("one receiver"))

    def broken() -> Iterator[Any]:
        yield next(iter(it.tensors.items()))
        raise KeyError("w1")

    with pytest.raises(KeyError):
        it.feed.run(broken())
    with pytest.raises(SyncError, match="the trainer's tensors: KeyError: 'w1'"):
        it.ended.result(5.0)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda pairs: pairs[:-1], "the tensors ended before it"),
        (lambda pairs: [*pairs, ("more", torch.zeros(1))], "Tensor more came after the last one"),
        (lambda pairs: [pairs[1], pairs[0], *pairs[2:]], "Expected tensor .* next"),
        (lambda pairs: [(pairs[0][0], pairs[0][1][:1]), *pairs[1:]], "is announced as"),
        (lambda pairs: [(pairs[0][0], pairs[0][1].double()), *pairs[1:]], "is announced as .*float64"),
    ],
)
def test_tensors_that_are_not_as_announced_are_refused_by_name(change: Any, said: str) -> None:
    it = Streaming(Case("one receiver"))
    with pytest.raises(SyncError, match=said):
        it.feed.run(iter(change(list(it.tensors.items()))))


def test_a_trainer_that_hangs_ends_the_stream_at_its_deadline_and_an_ended_update_lets_the_trainer_go() -> None:
    it = Streaming(Case("one receiver"), deadline=0.3)
    first = next(iter(it.tensors.items()))

    def slow() -> Iterator[Any]:
        yield first
        assert isinstance(it.ended.exception(5.0), SyncError)
        it.feed.close()  # as whoever drives the update does
        yield from list(it.tensors.items())[1:]

    began = time.monotonic()
    it.feed.run(slow())  # returns: nobody takes what it packs any more
    assert time.monotonic() - began < 4
    with pytest.raises(SyncError, match="did not hand over its tensors by the deadline"):
        it.ended.result(0)


def test_an_update_that_ends_before_its_stream_asks_for_no_tensor() -> None:
    feed = Feed(feed_plan(plan_of(Case("one receiver"))), HostDevice())
    feed.close()
    feed.run(iter_that_must_not_be_walked())


def iter_that_must_not_be_walked() -> Iterator[Any]:
    raise AssertionError("a tensor was made for nothing")
    yield

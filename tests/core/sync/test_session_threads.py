"""Sender and receivers against each other, each in a thread, with faults at every message. No processes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hardpoint.errors import SyncError
from hardpoint.sync import Manifest, Progress, Received, Receiver, Sender, SyncOutcome, TensorSpec, UpdateAborted
from support.threads_communicator import Hub, ThreadsCommunicator

Tensors = dict[str, torch.Tensor]
Tamper = Callable[[int, torch.Tensor], None]
MANIFEST_MESSAGES = 2  # header and manifest go before the buckets


def tensors_of(seed: int = 0) -> Tensors:
    """Eleven tensors of odd sizes, one that spans buckets, one scalar, one without elements."""
    random = torch.Generator().manual_seed(seed)
    plain = {f"layer.{n}.weight": torch.randn(3 + n, 5, generator=random).bfloat16() for n in range(8)}
    return {
        **plain,
        "long": torch.randn(97, 3, generator=random),
        "scalar": torch.tensor(2.5),
        "empty": torch.empty(0, 4),
    }


@dataclass
class Run:
    """What an update came to on every rank."""

    sent: SyncOutcome | BaseException
    received: list[Received | BaseException]
    seconds: float
    progress: list[Progress] = field(default_factory=list)

    def outcomes(self) -> list[SyncOutcome]:
        ends = [self.sent, *self.received]
        return [end.outcome if isinstance(end, Received) else end for end in ends if not isinstance(end, BaseException)]


def run(
    send: Callable[[Sender], SyncOutcome],
    *,
    receivers: int = 2,
    deadline: float = 10.0,
    tamper: dict[int, Tamper] | None = None,
    make_receiver: Callable[[ThreadsCommunicator], Receiver] = Receiver,
) -> Run:
    """One update between threads. `tamper[rank]` sees, and may change or raise at, every message of that rank."""
    hub = Hub(receivers + 1)
    ranks = [
        ThreadsCommunicator(hub, rank, deadline=deadline, on_broadcast=(tamper or {}).get(rank))
        for rank in range(receivers + 1)
    ]
    started = time.monotonic()
    with ThreadPoolExecutor(receivers + 1) as pool:
        sending = pool.submit(lambda: send(Sender(ranks[0])))
        receiving = [pool.submit(lambda r=rank: make_receiver(r).receive()) for rank in ranks[1:]]
        return Run(_end(sending), [_end(one) for one in receiving], time.monotonic() - started)


def _end(future: Future[object]) -> object:  # type: ignore[misc]
    error = future.exception()
    return error if error is not None else future.result()


def messages(manifest: Manifest) -> int:
    """Number of messages of a complete update."""
    from hardpoint.sync.buckets import plan_buckets

    buckets = plan_buckets([spec.nbytes for spec in manifest.tensors], manifest.bucket_bytes)
    return MANIFEST_MESSAGES + len(buckets) + 1


def assert_aborted(result: Run) -> None:
    assert result.outcomes()
    assert not any(outcome.committed for outcome in result.outcomes())
    assert all(not end.tensors for end in result.received if isinstance(end, Received))


@given(
    sizes=st.lists(st.integers(0, 300), max_size=8),
    bucket=st.integers(1, 6),
    receivers=st.integers(1, 3),
)
@settings(max_examples=40, deadline=None)
def test_what_arrives_is_what_was_sent(sizes: list[int], bucket: int, receivers: int) -> None:
    tensors = {f"t{n}": torch.randint(0, 256, (size,), dtype=torch.uint8) for n, size in enumerate(sizes)}
    manifest = Manifest.of(3, tensors, bucket * 64)
    result = run(lambda sender: sender.send(manifest, tensors), receivers=receivers)
    assert all(outcome.committed for outcome in result.outcomes())
    for end in result.received:
        assert isinstance(end, Received)
        assert end.manifest == manifest
        assert end.tensors.keys() == tensors.keys()
        assert all(torch.equal(end.tensors[name], tensors[name]) for name in tensors)


def test_generator_of_views_and_odd_strides_arrives() -> None:
    tensors = {"view": torch.arange(24.0).view(4, 6).t(), "grad": torch.ones(3, requires_grad=True)}
    manifest = Manifest.of(0, tensors, 64)
    result = run(lambda sender: sender.send(manifest, iter(tensors.items())))
    for end in result.received:
        assert isinstance(end, Received)
        assert torch.equal(end.tensors["view"], tensors["view"])


def test_progress_is_told_on_the_way_and_ends_at_all() -> None:
    tensors, seen = tensors_of(), []
    manifest = Manifest.of(1, tensors, 128)
    run(lambda sender: sender.send(manifest, tensors, seen.append))
    assert [p.bytes_done for p in seen] == sorted(p.bytes_done for p in seen)
    assert seen[-1].bytes_done == seen[-1].bytes_total == manifest.total_bytes
    assert seen[-1].buckets_done == seen[-1].buckets_total == len(seen)


def test_sender_holds_two_buckets_and_one_tensor() -> None:
    alive: set[int] = set()

    def one_at_a_time() -> Iterator[tuple[str, torch.Tensor]]:
        for n in range(20):
            tensor = torch.full((64,), float(n))
            alive.add(n)
            assert len(alive) == 1
            yield f"t{n}", tensor
            alive.clear()

    manifest = Manifest(0, tuple(TensorSpec(f"t{n}", (64,), "float32") for n in range(20)), 128)
    assert all(o.committed for o in run(lambda sender: sender.send(manifest, one_at_a_time())).outcomes())


FAULTY = {
    "missing": (lambda t: {k: v for k, v in t.items() if k != "long"}, "long .*in the manifest but not given"),
    "extra": (lambda t: {**t, "more": torch.zeros(1)}, "more is given but not in the manifest"),
    "shape": (lambda t: {**t, "long": torch.zeros(97, 2)}, r"long is announced as float32\[97, 3\], found .*\[97, 2\]"),
    "dtype": (lambda t: {**t, "long": t["long"].bfloat16()}, r"long is announced .* found bfloat16"),
    "ended": (lambda t: list(t.items())[:-4], "the tensors ended before it"),
    "order": (lambda t: list(t.items())[::-1], "Expected tensor layer.0.weight"),
    "over": (lambda t: [*t.items(), ("more", torch.zeros(1))], "more came after the last"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTY)
def test_tensors_that_do_not_fit_the_manifest_end_the_update_for_all(fault: str) -> None:
    change, sentence = FAULTY[fault]
    tensors = tensors_of()
    manifest = Manifest.of(1, tensors, 128)
    result = run(lambda sender: sender.send(manifest, change(dict(tensors))))
    assert isinstance(result.sent, SyncError)
    assert_aborted(result)
    with pytest.raises(SyncError, match=sentence):
        raise result.sent
    for end in result.received:
        assert isinstance(end, Received)
        assert "rank 0 (the sender)" in end.outcome.reason
        assert end.outcome.objections.keys() == {0}
    assert result.seconds < 5


class Boom(Exception):
    """A trainer's own error."""


@pytest.mark.parametrize("tensor", range(11))
def test_sender_that_raises_at_any_tensor_ends_all_with_its_reason(tensor: int) -> None:
    tensors = tensors_of()

    def breaking() -> Iterator[tuple[str, torch.Tensor]]:
        for index, pair in enumerate(tensors.items()):
            if index == tensor:
                raise Boom(f"the optimiser lost {pair[0]}")
            yield pair

    result = run(lambda sender: sender.send(Manifest.of(1, tensors, 128), breaking()))
    assert isinstance(result.sent, Boom)
    assert_aborted(result)
    assert all("Boom: the optimiser lost" in outcome.reason for outcome in result.outcomes())
    assert result.seconds < 5


def test_next_update_over_the_same_group_succeeds_after_every_polite_abort() -> None:
    hub = Hub(2)
    ranks = [ThreadsCommunicator(hub, rank) for rank in range(2)]
    tensors = tensors_of()
    sender, receiver = Sender(ranks[0]), Receiver(ranks[1])
    with ThreadPoolExecutor(1) as pool:
        for epoch, broken in enumerate([False, True, True, False, True, False], start=1):
            receiving = pool.submit(receiver.receive)
            sent = {**tensors, "more": torch.zeros(1)} if broken else tensors
            try:
                outcome = sender.send(Manifest.of(epoch, tensors, 128), sent)
            except SyncError:
                assert broken
            else:
                assert outcome.committed and not broken
            assert receiving.result().outcome.committed is not broken


@pytest.mark.parametrize("victim", [1, 2])
@pytest.mark.parametrize("message", range(2, 14))
def test_a_damaged_message_is_noticed_wherever_it_is(message: int, victim: int) -> None:
    tensors = tensors_of()
    manifest = Manifest.of(1, tensors, 128)
    last = messages(manifest) - 1
    index = min(message, last)

    def flip(number: int, tensor: torch.Tensor) -> None:
        if number == index:
            tensor[-1] ^= 1  # payload: the end of a tensor, or of the digests

    result = run(lambda sender: sender.send(manifest, tensors), tamper={victim: flip})
    assert_aborted(result)
    assert all(outcome.objections.keys() == {victim} for outcome in result.outcomes())
    found = result.received[victim - 1]
    assert isinstance(found, Received)
    assert len(found.outcome.tensors) == 1
    assert found.outcome.tensors[0] in found.outcome.reason


@pytest.mark.parametrize("message", range(16))
def test_a_damaged_header_is_noticed_wherever_it_is(message: int) -> None:
    tensors = tensors_of()
    manifest = Manifest.of(1, tensors, 128)
    index = min(message, messages(manifest) - 1)

    def flip(number: int, tensor: torch.Tensor) -> None:
        if number == index:
            tensor[9] ^= 1

    result = run(lambda sender: sender.send(manifest, tensors), tamper={1: flip})
    assert_aborted(result)
    assert all(outcome.objections.keys() == {1} for outcome in result.outcomes())
    assert all("refused" in outcome.reason for outcome in result.outcomes())


def test_receiver_refuses_a_manifest_before_any_tensor_moves() -> None:
    tensors, moved = tensors_of(), []

    def refuse(manifest: Manifest) -> None:
        raise SyncError(f"model has no {manifest.tensors[0].name}")

    def watch(number: int, tensor: torch.Tensor) -> None:
        moved.append(number)

    result = run(
        lambda sender: sender.send(Manifest.of(1, tensors, 128), tensors),
        make_receiver=lambda rank: Receiver(rank, accept=refuse),
        tamper={1: watch},
    )
    assert_aborted(result)
    assert max(moved) < MANIFEST_MESSAGES
    assert all(outcome.step == "begin" for outcome in result.outcomes())
    assert all("model has no layer.0.weight" in outcome.reason for outcome in result.outcomes())


def test_own_errors_of_a_receiver_reach_its_caller_and_the_others_are_told() -> None:
    tensors = tensors_of()

    def broken(manifest: Manifest) -> None:
        raise Boom("no model here")

    result = run(
        lambda sender: sender.send(Manifest.of(1, tensors, 128), tensors),
        make_receiver=lambda rank: Receiver(rank, accept=broken if rank.rank == 1 else None),
    )
    assert isinstance(result.received[0], Boom)
    assert_aborted(result)
    assert all("rank 1: Boom: no model here" in outcome.reason for outcome in result.outcomes())


@pytest.mark.parametrize("epoch", [0, 4, 5])
def test_replayed_epoch_is_refused(epoch: int) -> None:
    tensors = tensors_of()
    result = run(
        lambda sender: sender.send(Manifest.of(epoch, tensors, 128), tensors),
        make_receiver=lambda rank: Receiver(rank, committed_epoch=5),
    )
    assert_aborted(result)
    assert all("epoch 5 is already committed" in outcome.reason for outcome in result.outcomes())


@pytest.mark.parametrize("message", range(0, 14, 2))
@pytest.mark.parametrize("lost", [0, 1])
def test_a_rank_that_vanishes_is_named_within_the_deadline(message: int, lost: int) -> None:
    tensors = tensors_of()
    manifest = Manifest.of(1, tensors, 128)
    index = min(message, messages(manifest) - 1)
    over = threading.Event()

    def vanish(number: int, tensor: torch.Tensor) -> None:
        if number == index:
            over.wait(10)
            raise Boom("gone")

    hub = Hub(3)
    ranks = [
        ThreadsCommunicator(hub, rank, deadline=0.3, on_broadcast=vanish if rank == lost else None) for rank in range(3)
    ]
    started = time.monotonic()
    with ThreadPoolExecutor(3) as pool:
        calls: list[Callable[[], object]] = [
            lambda: Sender(ranks[0]).send(manifest, tensors),
            lambda: Receiver(ranks[1]).receive(),
            lambda: Receiver(ranks[2]).receive(),
        ]
        ends = [pool.submit(call) for call in calls]
        survivors = [ends[rank].result(5) for rank in range(3) if rank != lost]
        seconds = time.monotonic() - started
        over.set()
    for end in survivors:
        outcome = end.outcome if isinstance(end, Received) else end
        assert isinstance(outcome, SyncOutcome)
        assert not outcome.committed
        assert lost in outcome.missing
        assert f"rank {lost}" in outcome.reason
    assert seconds < 0.3 + 1


def test_aborted_outcome_raises_as_a_sentence() -> None:
    outcome = SyncOutcome(False, 4, "commit", "rank 2: 1 of 9 tensors differ from what was sent: w")
    with pytest.raises(UpdateAborted, match="epoch 4 aborted at commit: rank 2: 1 of 9") as error:
        outcome.raise_if_aborted()
    assert error.value.outcome is outcome
    assert not outcome


def test_each_end_runs_on_its_own_rank() -> None:
    hub = Hub(2)
    with pytest.raises(SyncError, match="use a Receiver here"):
        Sender(ThreadsCommunicator(hub, 1))
    with pytest.raises(SyncError, match="a Receiver runs on the other ranks"):
        Receiver(ThreadsCommunicator(hub, 0))

"""`WeightPublisher` on path ``plan``, its default: whole tensors, and tensors that are made one at a time."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from hardpoint.errors import SyncError
from hardpoint.sync import TensorSpec, UpdateAborted
from hardpoint_trainers import WeightPublisher
from support.planned_receiver import PlannedReceiver
from support.sync_processes import gloo

NAMES = tuple(f"layer.{n}.weight" for n in range(6))


def tensors(version: float) -> dict[str, torch.Tensor]:
    return {name: torch.full((5, 30 + n), version + n) for n, name in enumerate(NAMES)}


def specs(version: float = 0.0) -> list[TensorSpec]:
    return [TensorSpec.of(name, tensor) for name, tensor in tensors(version).items()]


@contextmanager
def served() -> Iterator[tuple[WeightPublisher, PlannedReceiver]]:
    with WeightPublisher(communicator=gloo, bucket_bytes=2048, deadline=10.0) as publisher:
        receiver = PlannedReceiver(publisher.init_info(), tensors(0.0))
        try:
            yield publisher, receiver
        finally:
            receiver.close()


def holds(receiver: PlannedReceiver, version: float) -> bool:
    return all(torch.equal(receiver.live[name], tensor) for name, tensor in tensors(version).items())


def test_the_default_is_the_plan_and_engines_are_told() -> None:
    with WeightPublisher(communicator=gloo) as publisher:
        assert publisher.init_info()["path"] == "plan"


def test_mappings_lists_generators_and_callables_give_the_same_weights() -> None:
    class Stream:
        specs = tuple(specs())

        def __iter__(self) -> Iterator[Any]:
            yield from tensors(6.0).items()

    with served() as (publisher, receiver):
        publisher.publish(tensors(1.0))
        assert holds(receiver, 1.0)
        publisher.publish(list(tensors(2.0).items()))
        assert holds(receiver, 2.0)
        publisher.publish(iter(tensors(3.0).items()), manifest=specs())
        assert holds(receiver, 3.0)
        publisher.publish((pair for pair in tensors(4.0).items()), manifest=specs())
        assert holds(receiver, 4.0)
        publisher.publish(lambda: iter(tensors(5.0).items()))
        assert holds(receiver, 5.0)
        outcome = publisher.publish(Stream())
        assert holds(receiver, 6.0)
        assert (outcome.committed, publisher.epoch, receiver.participant.epoch) == (True, 6, 6)


def test_tensors_are_made_in_the_callers_thread_and_progress_is_told() -> None:
    threads, seen = set[int](), list[int]()

    def made() -> Iterator[Any]:
        for name, tensor in tensors(1.0).items():
            threads.add(threading.get_ident())
            yield name, tensor

    with served() as (publisher, receiver):
        publisher.publish(made(), manifest=specs(), progress=lambda at: seen.append(at.buckets_done))
        assert holds(receiver, 1.0)
    assert threads == {threading.get_ident()}
    assert seen == list(range(1, len(seen) + 1)) and len(seen) > 1


def test_what_is_held_of_a_stream_is_at_most_one_bucket_and_a_wild_order_is_refused() -> None:
    """Tensors that are far smaller than any bucket: in a wild order every bucket waits for one of the last."""
    rows = {f"rows.{n}.weight": torch.full((4, 8), float(n)) for n in range(1000)}
    with WeightPublisher(communicator=gloo, bucket_bytes=1 << 16, deadline=10.0) as publisher:
        receiver = PlannedReceiver(publisher.init_info(), {name: torch.zeros(4, 8) for name in rows})
        try:
            publisher.publish(iter(rows.items()), manifest=[TensorSpec.of(name, of) for name, of in rows.items()])
            sender = publisher._planned
            assert sender is not None and sender._fed is not None
            assert sender._fed[1].nbytes <= 1 << 16
            assert all(torch.equal(receiver.live[name], of) for name, of in rows.items())
            wild = sorted(rows, key=lambda name: hash_of(name))
            with pytest.raises(UpdateAborted, match=r"bytes may be held.*as a mapping"):
                publisher.publish(
                    ((name, rows[name]) for name in wild), manifest=[TensorSpec.of(name, rows[name]) for name in wild]
                )
            assert publisher.publish({name: rows[name] for name in wild}).committed
        finally:
            receiver.close()


def hash_of(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def test_a_generator_without_a_manifest_is_refused_in_a_sentence_and_not_walked() -> None:
    walked = []

    def made() -> Iterator[Any]:
        walked.append(1)
        yield from tensors(1.0).items()

    with served() as (publisher, receiver):
        with pytest.raises(SyncError, match=r"generator makes its tensors as it is walked.*manifest=.*callable"):
            publisher.publish(made())
        assert not walked
        publisher.publish(tensors(2.0))
        assert holds(receiver, 2.0)


def test_a_trainer_that_breaks_off_raises_its_own_error_and_the_next_update_is_taken() -> None:
    def broken() -> Iterator[Any]:
        yield from list(tensors(1.0).items())[:4]
        raise KeyError("layer.4.weight")

    with served() as (publisher, receiver):
        with pytest.raises(KeyError):
            publisher.publish(broken(), manifest=specs())
        assert holds(receiver, 0.0)
        assert "KeyError: 'layer.4.weight'" in receiver.endings[-1].reason
        assert publisher.epoch == 0
        publisher.publish(iter(tensors(2.0).items()), manifest=specs())
        assert holds(receiver, 2.0)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda pairs: pairs[:-1], "the tensors ended before it"),
        (lambda pairs: [pairs[0], pairs[0], *pairs[1:]], r"Expected tensor layer\.1\.weight.* next"),
        (lambda pairs: [(pairs[0][0], pairs[0][1][:2]), *pairs[1:]], "layer.0.weight is announced as"),
    ],
)
def test_a_stream_that_is_not_what_was_announced_is_refused_by_name(change: Any, said: str) -> None:
    with served() as (publisher, receiver):
        with pytest.raises(SyncError, match=said):
            publisher.publish(iter(change(list(tensors(1.0).items()))), manifest=specs())
        assert holds(receiver, 0.0)


def test_an_announcement_that_does_not_fit_is_refused_before_a_tensor_is_made() -> None:
    def made() -> Iterator[Any]:
        raise AssertionError("a tensor was made for nothing")
        yield

    with served() as (publisher, receiver):
        with pytest.raises(UpdateAborted, match=r"layer\.5\.weight"):
            publisher.publish(made(), manifest=specs()[:-1])
        with pytest.raises(SyncError, match=r"layer\.0\.weight is announced twice"):
            publisher.publish(made(), manifest=[specs()[0], *specs()])
        assert holds(receiver, 0.0)


def test_a_mapping_that_is_not_its_manifest_is_refused_by_name() -> None:
    with served() as (publisher, _):
        publisher.publish(tensors(1.0), manifest=specs())
        with pytest.raises(SyncError, match=r"layer\.5\.weight.* in the manifest but not given"):
            publisher.publish({name: of for name, of in tensors(1.0).items() if name != NAMES[5]}, manifest=specs())


def test_a_float_that_receivers_keep_wider_is_widened_while_it_streams() -> None:
    with served() as (publisher, receiver):
        narrow = {name: tensor.bfloat16() for name, tensor in tensors(1.0).items()}
        publisher.publish(
            iter(narrow.items()), manifest=[TensorSpec.of(name, tensor) for name, tensor in narrow.items()]
        )
        assert holds(receiver, 1.0)

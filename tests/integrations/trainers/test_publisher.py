"""`WeightPublisher` on path ``whole``, against plain receivers in other processes, over gloo."""

from __future__ import annotations

import socket
import time

import pytest
import torch

from hardpoint.errors import SyncError
from hardpoint.sync import TensorSpec, UpdateAborted
from hardpoint_trainers import WeightPublisher
from support.sync_processes import gloo, receiving_process


def _publisher(**options: object) -> WeightPublisher:
    return WeightPublisher(communicator=gloo, bucket_bytes=128, path="whole", **{"deadline": 10.0, **options})  # type: ignore[arg-type]


def test_each_publish_commits_and_the_epoch_grows() -> None:
    with _publisher() as publisher, receiving_process(publisher.init_info(), 3) as pipe:
        for epoch in (1, 2, 3):
            outcome = publisher.publish({"w": torch.full((40,), float(epoch)), "b": torch.arange(3)})
            assert outcome.committed
            assert publisher.epoch == outcome.epoch == epoch
            assert pipe.poll(10)
            assert pipe.recv() == (True, "", {"w": [float(epoch)] * 40, "b": [0, 1, 2]})


def test_generator_with_specs_is_streamed() -> None:
    def made() -> object:
        for n in range(5):
            yield f"w{n}", torch.full((30,), float(n))

    specs = [TensorSpec(f"w{n}", (30,), "float32") for n in range(5)]
    with _publisher() as publisher, receiving_process(publisher.init_info(), 1) as pipe:
        publisher.publish(made(), manifest=specs)  # type: ignore[arg-type]
        assert pipe.poll(10)
        assert pipe.recv()[2]["w4"] == [4.0] * 30


def test_refused_update_raises_and_the_next_one_commits() -> None:
    with _publisher() as publisher, receiving_process(publisher.init_info(), 3) as pipe:
        publisher.publish({"w": torch.ones(3)}, epoch=7)
        with pytest.raises(UpdateAborted, match="epoch 7 is already committed") as refusal:
            publisher.publish({"w": torch.zeros(3)}, epoch=7)
        assert refusal.value.outcome.objections.keys() == {1}
        assert publisher.epoch == 7
        publisher.publish({"w": torch.zeros(3)})
        assert [pipe.recv()[0] for _ in range(3) if pipe.poll(10)] == [True, False, True]


def test_own_error_of_the_trainer_is_raised_and_the_receiver_told() -> None:
    def broken() -> object:
        yield "w0", torch.ones(3)
        raise KeyError("w1")

    specs = [TensorSpec(f"w{n}", (3,), "float32") for n in range(2)]
    with _publisher() as publisher, receiving_process(publisher.init_info(), 1) as pipe:
        with pytest.raises(KeyError):
            publisher.publish(broken(), manifest=specs)  # type: ignore[arg-type]
        assert pipe.poll(10)
        committed, reason, tensors = pipe.recv()
        assert not committed and not tensors
        assert "KeyError: 'w1'" in reason


def test_receiver_that_never_comes_is_a_sentence_and_one_that_comes_later_is_served() -> None:
    with _publisher(deadline=1.0) as publisher:
        started = time.monotonic()
        with pytest.raises(SyncError, match=r"Not all of the 1 receivers came to 127\.0\.0\.1:\d+ within 1 s"):
            publisher.publish({"w": torch.ones(3)})
        assert time.monotonic() - started < 3
        with receiving_process(publisher.init_info(), 1) as pipe:
            publisher.connect(deadline=10.0)
            publisher.publish({"w": torch.ones(3)}, deadline=10.0)
            assert pipe.poll(10)
            assert pipe.recv()[0]


def test_receiver_that_died_is_named_and_a_new_one_is_served() -> None:
    with _publisher(deadline=5.0) as publisher:
        with receiving_process(publisher.init_info(), 5) as pipe:
            publisher.publish({"w": torch.ones(3)})
            assert pipe.poll(10)
        with pytest.raises(UpdateAborted, match="rank 1") as lost:
            publisher.publish({"w": torch.zeros(3)})
        assert lost.value.outcome.missing == (1,)
        with receiving_process(publisher.init_info(), 1) as pipe:
            publisher.connect(deadline=10.0)
            publisher.publish({"w": torch.zeros(3)})
            assert pipe.poll(10)
            assert pipe.recv()[2] == {"w": [0.0] * 3}


def test_address_in_use_is_a_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(SyncError, match="Cannot listen on 127"):
        _publisher(port=taken.getsockname()[1])


def test_only_loopback_is_listened_on() -> None:
    with _publisher() as publisher:
        host, port = publisher.address
        assert host == "127.0.0.1"
        with socket.create_connection((host, port), 5):
            pass
        with pytest.raises(OSError), socket.create_connection(("127.0.0.2", port), 1):
            pass


def test_same_name_twice_and_no_receivers_are_refused() -> None:
    with pytest.raises(SyncError, match="at least one receiver"):
        _publisher(receivers=0)
    with (
        _publisher() as publisher,
        receiving_process(publisher.init_info(), 1),
        pytest.raises(SyncError, match="w is given twice"),
    ):
        publisher.publish([("w", torch.ones(1)), ("w", torch.ones(1))])

"""What of the adapters can be tested without the frameworks: who sends, who receives, and what is remembered."""

from __future__ import annotations

import pytest
import torch

from hardpoint.errors import SyncError
from hardpoint.sync import TensorSpec
from hardpoint_trainers.adapters.meeting import OUTSIDE, topology
from hardpoint_trainers.adapters.remembered import Remembered


def test_topology_is_one_sender_and_all_rollouts() -> None:
    place = {"host": "h", "port": 1, "name": "n"}
    actor, rollout = topology(3, 2, [place, {}, {}, {}, {}])
    assert actor["rank"] == [0, OUTSIDE, OUTSIDE]
    assert rollout["rank"] == [1, 2]
    assert set(actor["world_size"] + rollout["world_size"]) == {3}
    assert all(one == place for one in actor["meeting"] + rollout["meeting"])


@pytest.mark.parametrize("metadata", [[{}, {}], [{}, {"port": 1}], [{"port": 1}, {"port": 2}]])
def test_a_meeting_that_nobody_or_another_serves_is_refused(metadata: list[dict[str, int]]) -> None:
    with pytest.raises(SyncError, match="Expected the first actor worker to serve"):
        topology(1, 1, metadata)


def test_the_first_round_is_kept_and_the_next_ones_stream() -> None:
    remembered = Remembered()
    specs, first = remembered.round([("a", torch.ones(2)), ("b", torch.zeros(1, dtype=torch.int8))])
    assert specs == (TensorSpec("a", (2,), "float32"), TensorSpec("b", (1,), "int8"))
    assert {name: tensor.tolist() for name, tensor in first} == {"a": [1, 1], "b": [0]}
    asked: list[str] = []

    def later():  # type: ignore[no-untyped-def]
        for name in ("a", "b"):
            asked.append(name)
            yield name, torch.ones(1)

    again, pairs = remembered.round(later())
    assert again == specs
    assert asked == []
    next(pairs)
    assert asked == ["a"]


def test_what_is_kept_is_a_copy_of_the_weights_of_now() -> None:
    weight = torch.ones(2)
    _, pairs = Remembered().round([("a", weight)])
    weight.zero_()
    assert next(pairs)[1].tolist() == [1, 1]


def test_the_same_name_twice_is_refused() -> None:
    with pytest.raises(SyncError, match="a is given twice"):
        Remembered().round([("a", torch.ones(1)), ("a", torch.ones(1))])

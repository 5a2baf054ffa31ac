"""Weight updates between real processes over gloo, with faults at every bucket."""

from __future__ import annotations

import pytest

from hardpoint.sync import Manifest
from hardpoint.sync.buckets import plan_buckets
from support.sync_processes import BUCKET, DEADLINE, Fault, run_update, weights

BUCKETS = len(plan_buckets([spec.nbytes for spec in Manifest.of(0, weights(0)).tensors], BUCKET))


@pytest.mark.parametrize("world_size", [2, 3])
def test_updates_arrive_one_after_the_other(world_size: int) -> None:
    ends = run_update(world_size, epochs=3)
    assert all(end is not None and end.right and end.outcome["committed"] for end in ends), ends


@pytest.mark.parametrize("bucket", range(BUCKETS))
def test_sender_killed_at_any_bucket_is_named_within_the_deadline(bucket: int) -> None:
    dead, *receivers = run_update(3, Fault("kill", 0, bucket), epochs=2)
    assert dead is None
    for end in receivers:
        assert end is not None
        assert not end.outcome["committed"]
        assert 0 in end.outcome["missing"], end
        assert "rank 0 (the sender)" in end.outcome["reason"]
        assert end.seconds < DEADLINE + 1


@pytest.mark.parametrize("bucket", [0, BUCKETS - 1])
def test_killed_receiver_is_named_and_nobody_commits(bucket: int) -> None:
    sender, other, dead = run_update(3, Fault("kill", 2, bucket), epochs=2)
    assert dead is None
    for end in (sender, other):
        assert end is not None
        assert not end.outcome["committed"]
        assert 2 in end.outcome["missing"], end
        assert end.seconds < DEADLINE + 1


@pytest.mark.parametrize("rank", [0, 1])
def test_hanging_rank_is_named_within_the_deadline(rank: int) -> None:
    ends = run_update(3, Fault("hang", rank, 2), survivors_only=True)
    for other, end in enumerate(ends):
        if other == rank:
            continue
        assert end is not None
        assert not end.outcome["committed"]
        assert rank in end.outcome["missing"], end
        assert end.seconds < DEADLINE + 1


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_rank_that_raises_ends_the_update_for_all_with_its_reason(rank: int) -> None:
    ends = run_update(3, Fault("raise", rank, 1))
    for other, end in enumerate(ends):
        assert end is not None
        if other == rank:
            assert end.error == "ValueError: planted"
        else:
            assert not end.outcome["committed"]
            assert end.outcome["objections"] == {rank: "ValueError: planted"}
            assert end.seconds < DEADLINE  # told, not found out


@pytest.mark.parametrize("bucket", [0, 3])
def test_damaged_bucket_is_found_by_digest_and_named_everywhere(bucket: int) -> None:
    ends = run_update(3, Fault("corrupt", 2, bucket))
    for end in ends:
        assert end is not None
        assert not end.outcome["committed"]
        assert end.outcome["objections"].keys() == {2}
        assert "layer." in end.outcome["reason"]
    assert ends[2] is not None
    assert len(ends[2].outcome["tensors"]) == 1


def test_rank_with_another_manifest_is_found_before_any_tensor_moves() -> None:
    for end in run_update(3, Fault("other-manifest", 1)):
        assert end is not None
        assert not end.outcome["committed"]
        assert end.outcome["step"] == "begin"
        assert 1 in end.outcome["objections"]

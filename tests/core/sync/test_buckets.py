from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardpoint.errors import SyncError
from hardpoint.sync.buckets import plan_buckets

sizes_lists = st.lists(st.integers(0, 700), max_size=12)
alignments = st.sampled_from([1, 4, 16, 64])


@given(sizes_lists, alignments, st.integers(1, 8))
def test_every_byte_lies_in_exactly_one_place(sizes: list[int], alignment: int, multiple: int) -> None:
    capacity = alignment * multiple
    written = {(tensor, byte): 0 for tensor, size in enumerate(sizes) for byte in range(size)}
    for bucket in plan_buckets(sizes, capacity, alignment):
        taken: set[int] = set()
        for piece in bucket.pieces:
            for byte in range(piece.tensor_offset, piece.tensor_offset + piece.nbytes):
                written[piece.tensor, byte] += 1
            places = range(piece.bucket_offset, piece.bucket_offset + piece.nbytes)
            assert taken.isdisjoint(places)
            taken.update(places)
            assert piece.bucket_offset % alignment == 0
            assert piece.nbytes > 0
        assert max(taken) + 1 == bucket.nbytes <= capacity
    assert all(count == 1 for count in written.values())


@given(sizes_lists, alignments, st.integers(1, 8))
def test_pieces_come_in_the_order_of_the_tensors(sizes: list[int], alignment: int, multiple: int) -> None:
    buckets = plan_buckets(sizes, alignment * multiple, alignment)
    order = [(piece.tensor, piece.tensor_offset) for bucket in buckets for piece in bucket.pieces]
    assert order == sorted(order)
    assert [bucket.index for bucket in buckets] == list(range(len(buckets)))


@given(sizes_lists, st.integers(1, 8))
def test_no_bucket_is_left_emptier_than_alignment_asks(sizes: list[int], multiple: int) -> None:
    capacity = 64 * multiple
    for bucket in plan_buckets(sizes, capacity)[:-1]:
        assert capacity - bucket.nbytes < 64


def test_nothing_to_send_takes_no_bucket() -> None:
    assert plan_buckets([], 64) == ()
    assert plan_buckets([0, 0], 64) == ()


@pytest.mark.parametrize(("sizes", "capacity"), [([-1], 64), ([1], 0), ([1], 63), ([1], 100)])
def test_nonsense_is_refused(sizes: list[int], capacity: int) -> None:
    with pytest.raises(SyncError):
        plan_buckets(sizes, capacity)

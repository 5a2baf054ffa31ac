"""Values of every collective, on worlds of 1 to 4 real processes over gloo."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hardpoint.errors import CommunicatorError, DeadlineExceeded
from support.gloo import open_gloo
from support.ranks import RankPool

WORLDS = (1, 2, 3, 4)
DTYPES = ("float32", "bfloat16", "int64", "bool", "int16", "uint32", "float8_e4m3fn", "complex64")


def _pattern(rank: int, rows: int, dtype: torch.dtype) -> torch.Tensor:
    """Bytes that tell rank, row and column apart, as any dtype, ``[rows, 4]``."""
    size = torch.empty(0, dtype=dtype).element_size()
    raw = (torch.arange(rows * 4 * size) * 7 + rank * 31 + 1) % 251
    raw = raw % 2 if dtype == torch.bool else raw
    return raw.to(torch.uint8).view(dtype).reshape(rows, 4)


def _same(left: torch.Tensor, right: torch.Tensor) -> bool:
    return torch.equal(left.contiguous().view(torch.uint8), right.contiguous().view(torch.uint8))


def _moves(store: Any, rank: int, world: int) -> None:
    comm = open_gloo(store, rank, world)
    for name in DTYPES:
        dtype = getattr(torch, name)
        for src in range(world):
            tensor = _pattern(rank, 3, dtype)
            comm.broadcast(tensor, src=src)
            assert _same(tensor, _pattern(src, 3, dtype)), (name, src)
        output = torch.empty((2 * world, 4), dtype=dtype)
        comm.all_gather(output, _pattern(rank, 2, dtype))
        assert _same(output, torch.cat([_pattern(peer, 2, dtype) for peer in range(world)])), name
    scalar = torch.tensor(rank, dtype=torch.int16)
    comm.broadcast(scalar, src=world - 1)
    assert scalar.item() == world - 1
    comm.broadcast(torch.empty((0, 4)), src=0)
    comm.close()
    comm.close()
    with pytest.raises(CommunicatorError, match="closed"):
        comm.barrier()


@pytest.mark.parametrize("world", WORLDS)
def test_data_moves_bit_exact_in_every_dtype(pool: RankPool, world: int) -> None:
    for result in pool.run(world, _moves):
        result.unwrap()


def _ragged(store: Any, rank: int, world: int, plans: list[list[int]]) -> None:
    comm = open_gloo(store, rank, world)
    for counts in plans:
        rows = sum(counts)
        for name in ("float32", "int16"):
            dtype = getattr(torch, name)
            output = torch.empty((rows, 4), dtype=dtype)
            comm.all_gather_ragged(output, _pattern(rank, counts[rank], dtype), counts)
            assert _same(output, torch.cat([_pattern(peer, counts[peer], dtype) for peer in range(world)])), counts
        kept = torch.full((counts[rank], 2), -1.0)
        comm.reduce_scatter_ragged(kept, torch.arange(rows * 2.0).reshape(rows, 2) * (rank + 1), counts)
        start = sum(counts[:rank])
        factor = sum(range(1, world + 1))
        expected = torch.arange(rows * 2.0).reshape(rows, 2)[start : start + counts[rank]] * factor
        assert torch.equal(kept, expected), counts
    comm.close()


@settings(max_examples=4, deadline=None)
@given(data=st.data())
@pytest.mark.parametrize("world", (1, 2, 3, 4))
def test_ragged_counts_with_zero_rows(pool: RankPool, world: int, data: st.DataObject) -> None:
    counts = st.lists(st.integers(0, 5), min_size=world, max_size=world)
    plans = [*data.draw(st.lists(counts, min_size=5, max_size=5)), [0] * world, [0] * (world - 1) + [3]]
    for result in pool.run(world, _ragged, plans):
        result.unwrap()


def _reduces(store: Any, rank: int, world: int) -> None:
    comm = open_gloo(store, rank, world)
    values = [float(peer + 1) for peer in range(world)]
    product = 1.0
    for value in values:
        product *= value
    expected = {
        "sum": sum(values),
        "avg": sum(values) / world,
        "min": 1.0,
        "max": values[-1],
        "prod": product,
    }
    for op, value in expected.items():
        tensor = torch.full((2, 3), values[rank])
        comm.all_reduce(tensor, op=op)
        assert torch.allclose(tensor, torch.full((2, 3), value)), op
        output = torch.empty(2, 3)
        comm.reduce_scatter(output, torch.full((2 * world, 3), values[rank]), op=op)
        assert torch.allclose(output, torch.full((2, 3), value)), op
    before = comm.sequence
    refused = [
        (lambda: comm.all_reduce(torch.zeros(2, dtype=torch.float8_e4m3fn)), "does not reduce it"),
        (lambda: comm.all_reduce(torch.zeros(2, dtype=torch.bool)), "does not reduce it"),
        (lambda: comm.all_reduce(torch.zeros(2, dtype=torch.int32), op="avg"), "average of integers"),
        (lambda: comm.all_reduce(torch.zeros(2), op="xor"), "gloo offers"),
        (lambda: comm.broadcast(torch.zeros(4, 4).t(), src=0), "not contiguous"),
        (lambda: comm.all_gather([torch.zeros(4)], torch.zeros(4)), "output is a list, expected one tensor"),
        (lambda: comm.broadcast(torch.zeros(2, device="meta"), src=0), "is on meta"),
        (lambda: comm.broadcast(torch.zeros(2), src=world), "ranks are 0 to"),
        (lambda: comm.broadcast(torch.zeros(2), src=0, deadline=0), "finite number"),
        (lambda: comm.all_gather(torch.zeros(world + 1, 2), torch.zeros(1, 2)), "expected tensor"),
        (lambda: comm.all_gather(torch.zeros(world, 2), torch.zeros(1, 2, dtype=torch.int32)), "must be equal"),
        (lambda: comm.all_gather_ragged(torch.zeros(1), torch.zeros(1), [1] * (world + 1)), "one count per rank"),
        (lambda: comm.all_gather_ragged(torch.zeros(1), torch.zeros(1), [-1] * world), "negative"),
    ]
    for attempt, sentence in refused:
        with pytest.raises(CommunicatorError, match=sentence):
            attempt()
    assert comm.sequence == before  # refused before anything moved: the communicator is as good as before
    comm.barrier()
    comm.close()


@pytest.mark.parametrize("world", WORLDS)
def test_reductions_and_refusals(pool: RankPool, world: int) -> None:
    for result in pool.run(world, _reduces):
        result.unwrap()


def _beside_default_group(store: Any, rank: int, world: int) -> tuple[bool, bool]:
    import torch.distributed as dist

    comm = open_gloo(store, rank, world)
    comm.barrier()
    before = dist.is_initialized()
    dist.init_process_group("gloo", store=dist.PrefixStore("trainer", store), rank=rank, world_size=world)
    tensor = torch.ones(1)
    dist.all_reduce(tensor)
    comm.all_reduce(tensor)
    assert tensor.item() == world * world
    comm.close()
    dist.all_reduce(tensor)
    after = dist.is_initialized()
    dist.destroy_process_group()
    return before, after


def test_default_group_is_neither_needed_nor_disturbed(pool: RankPool) -> None:
    for result in pool.run(2, _beside_default_group):
        assert result.unwrap() == (False, True)


def _join(store: Any, rank: int, world: int, came: int) -> Any:
    if rank >= came:
        return None
    try:
        open_gloo(store, rank, world, deadline=1.0)
    except DeadlineExceeded as error:
        return error
    return "joined"


def test_ranks_that_never_come_are_named(pool: RankPool) -> None:
    results = pool.run(4, _join, 2)
    for result in results[:2]:
        error = result.unwrap()
        assert isinstance(error, DeadlineExceeded)
        assert error.missing == (2, 3)
        assert "rank(s) 0, 1 came" in str(error)
        assert result.seconds < 2.0


def _twice(store: Any, rank: int, world: int) -> str:
    first = open_gloo(store, rank, world)
    try:
        open_gloo(store, rank, world)
    except CommunicatorError as error:
        return str(error)
    finally:
        first.close()
    return ""


def test_name_taken_twice_is_refused(pool: RankPool) -> None:
    assert all("already taken" in result.unwrap() for result in pool.run(2, _twice))


def test_world_of_one_asks_no_store() -> None:
    comm = open_gloo(None, 0, 1)
    tensor = torch.arange(3.0)
    comm.broadcast(tensor, src=0)
    assert comm.vote(True, "step").unanimous
    assert comm.sequence == 2
    assert "hardpoint-ledger-0" not in {thread.name for thread in __import__("threading").enumerate()}
    assert sys.modules["torch.distributed"].is_initialized() is False
    comm.close()

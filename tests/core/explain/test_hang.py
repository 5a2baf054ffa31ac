"""`explain_hang`: where the ranks part, and how."""

from __future__ import annotations

from typing import Any

import pytest

from hardpoint.explain import explain_hang
from hardpoint.explain.hang import Record, read_record
from hardpoint.probe.report import UnreadableReport

BARRIER, GATHER, REDUCE = ("barrier", ""), ("all_gather", "float32 [26, 16]"), ("all_reduce", "sum of float32 [4]")


def record(rank: int, *calls: tuple[str, str], world: int = 2, first: int = 0, last: str = "done") -> Record:
    """A record with `calls` numbered from `first`; the last one is in state `last`."""
    return read_record(data(rank, *calls, world=world, first=first, last=last), f"rank {rank}")


def data(rank: int, *calls: tuple[str, str], world: int = 2, first: int = 0, last: str = "done") -> dict[str, Any]:
    return {
        "schema": 1,
        "kind": "flight-record",
        "group": "ep:0",
        "rank": rank,
        "world_size": world,
        "pid": 100 + rank,
        "host": "h",
        "written": 50.0,
        "why": "asked",
        "calls": [
            {
                "sequence": first + number,
                "op": op,
                "form": form,
                "state": last if number == len(calls) - 1 else "done",
                "entered": 20.0 + number,
            }
            for number, (op, form) in enumerate(calls)
        ],
        "threads": {"MainThread": ["/serve/loop.py:10 run", f"/serve/rank{rank}.py:7 wait_for_work"]},
    }


def title(*records: Record) -> str:
    (origin,) = explain_hang(records).origins
    return origin.title


def test_a_rank_that_stays_out_is_named_with_its_place() -> None:
    found = explain_hang([record(0, BARRIER, GATHER, last="failed"), record(1, BARRIER)])
    (origin,) = found.origins
    assert origin.title == (
        "rank 1 of 'ep:0' did not come to call 1, all_gather float32 [26, 16], in which rank 0 waits"
    )
    assert "its main thread is at /serve/rank1.py:7 wait_for_work" in origin.evidence[0]
    assert "last made call 0, barrier (done)" in origin.evidence[0]
    assert origin.evidence[1] == "rank 0 entered it 29.0 s before the last record was written"


def test_shapes_that_differ() -> None:
    other = ("all_gather", "float32 [30, 16]")
    assert title(record(0, BARRIER, GATHER), record(1, BARRIER, other)) == (
        "ranks of 'ep:0' disagree about call 1: shape: float32 [26, 16] on rank 0, float32 [30, 16] on rank 1"
    )


def test_dtypes_and_ops_that_differ() -> None:
    other = ("all_gather", "bfloat16 [26, 16]")
    assert "dtype: float32 [26, 16] on rank 0, bfloat16 [26, 16] on rank 1" in title(
        record(0, GATHER), record(1, other)
    )
    assert "op: all_gather on rank 0, all_reduce on rank 1" in title(record(0, GATHER), record(1, REDUCE))


def test_calls_the_other_way_round() -> None:
    assert "order: ranks 0 and 1 make all_gather float32 [26, 16] and all_reduce" in title(
        record(0, BARRIER, GATHER, REDUCE), record(1, BARRIER, REDUCE, GATHER)
    )


@pytest.mark.parametrize("idle", [0, 1])
def test_a_rank_that_left_a_call_out(idle: int) -> None:
    took_part, left_out = (BARRIER, GATHER, REDUCE), (BARRIER, REDUCE)
    records = [record(rank, *(left_out if rank == idle else took_part)) for rank in (0, 1)]
    assert f"order: rank {idle} left out all_gather float32 [26, 16], which rank {1 - idle} makes first" in title(
        *records
    )


def test_a_ring_that_has_gone_round_is_no_absence() -> None:
    found = explain_hang([record(0, GATHER, GATHER, first=6), record(1, GATHER, first=7)])
    assert found.origins == ()
    assert found.summary == "No group in which the ranks part."


def test_a_rank_without_a_record_is_said() -> None:
    found = explain_hang([record(0, BARRIER, GATHER, world=3, last="failed"), record(1, BARRIER, GATHER, world=3)])
    assert "without a record: rank 2" in found.origins[0].title
    assert any(line.startswith("No record of rank 2") for line in found.unproven)


def test_a_record_that_may_be_of_an_earlier_run_is_said() -> None:
    old = read_record(data(1, BARRIER) | {"written": 50.0 - 86400.0}, "rank 1")
    found = explain_hang([record(0, BARRIER, GATHER), old])
    assert any("86400 s apart, that of rank 1 (pid 101) first" in line for line in found.unproven)
    fresh = explain_hang([record(0, BARRIER, GATHER), record(1, BARRIER)])
    assert not any("apart" in line for line in fresh.unproven)


def test_the_newest_record_of_a_rank_counts() -> None:
    old = read_record(data(1, BARRIER) | {"written": 10.0}, "old")
    assert explain_hang([record(0, BARRIER, GATHER), record(1, BARRIER, GATHER), old]).origins == ()


@pytest.mark.parametrize(
    "change", [{"kind": "nan-report"}, {"schema": 2}, {"calls": [{}]}, {"calls": 3}, {"rank": None}, {"threads": []}]
)
def test_what_is_no_record_is_refused_by_name(change: dict[str, Any]) -> None:
    with pytest.raises(UnreadableReport, match=r"here\.json"):
        read_record(data(0, BARRIER) | change, "here.json")

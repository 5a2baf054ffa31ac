"""The flight recorder: what it keeps, when it writes, and that all ranks write when one fails."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from hardpoint.communicator import RECORDS, FlightRecorder
from hardpoint.communicator.recorder import DONE, FAILED
from hardpoint.errors import CollectiveMismatch, CommunicatorError, DeadlineExceeded
from support.gloo import open_gloo
from support.ranks import RankPool


def test_the_ring_keeps_the_last_calls_in_order() -> None:
    recorder = FlightRecorder("group", 0, 2, capacity=3)
    for sequence in range(5):
        recorder.enter(sequence, "barrier", "")
        recorder.mark(sequence, DONE)
    recorder.mark(1, FAILED)  # long gone: nothing happens
    calls = recorder.calls()
    assert [call["sequence"] for call in calls] == [2, 3, 4]
    assert {call["state"] for call in calls} == {DONE}
    assert all(call["seconds"] >= 0 for call in calls)


def test_a_record_is_one_file_per_rank_with_calls_and_threads(tmp_path: Path) -> None:
    recorder = FlightRecorder("ep:0/of two", 1, 2, library="gloo")
    recorder.enter(7, "all_gather", "float32 [26, 16]")
    first = recorder.write(tmp_path / "records", "asked")
    assert recorder.write(tmp_path / "records", "asked again") == first
    record = json.loads(first.read_text())
    assert (record["group"], record["rank"], record["why"]) == ("ep:0/of two", 1, "asked again")
    assert record["calls"][0] | {"entered": 0} == {
        "sequence": 7,
        "op": "all_gather",
        "form": "float32 [26, 16]",
        "stream": None,
        "state": "entered",
        "entered": 0,
        "seconds": None,
        "reason": "",
    }
    assert any("test_recorder.py" in frame for frame in record["threads"]["MainThread"])


def test_without_a_folder_the_sentence_says_how_to_get_a_record(tmp_path: Path) -> None:
    recorder = FlightRecorder("group", 0, 2)
    assert RECORDS in recorder.write_if_asked("why", {})
    file = tmp_path / "file"
    file.write_text("")
    assert "No record could be written" in recorder.write_if_asked("why", {RECORDS: str(file / "below")})


def _one_stays_out(store: Any, rank: int, world: int, folder: str) -> str:
    os.environ[RECORDS] = folder
    try:
        comm = open_gloo(store, rank, world, name="records")
        comm.barrier()
        if rank == 1:
            stay_out()
            comm.close()
            return ""
        with pytest.raises(DeadlineExceeded) as caught:
            comm.all_gather(torch.empty(2 * world, 3), torch.ones(2, 3), deadline=1.0)
        comm.close()
        return str(caught.value)
    finally:
        del os.environ[RECORDS]


def stay_out() -> None:
    """Where the record has to say that rank 1 is."""
    time.sleep(5.0)


def test_the_rank_that_stays_out_writes_where_it_is_too(pool: RankPool, tmp_path: Path) -> None:
    said = pool.run(2, _one_stays_out, str(tmp_path), deadline=120.0)[0].unwrap()
    assert f"`hardpoint explain hang {tmp_path}`" in said
    records = {record["rank"]: record for record in map(json.loads, (p.read_text() for p in tmp_path.glob("*.json")))}
    assert sorted(records) == [0, 1]
    assert [call["state"] for call in records[0]["calls"]] == [DONE, FAILED]
    assert [call["op"] for call in records[1]["calls"]] == ["barrier"]
    assert records[1]["why"].startswith("rank 0 gave up")
    assert any(frame.endswith(" stay_out") for frame in records[1]["threads"]["MainThread"])


def _exchange(store: Any, rank: int, world: int) -> None:
    comm = open_gloo(store, rank, world)
    for name in ("float32", "int16"):
        dtype = getattr(torch, name)
        # Rank r sends r + p rows to rank p, the value says from whom to whom; 0 to 0 is no row at all.
        sent = [rank + peer for peer in range(world)]
        tensor = torch.cat([torch.full((rank + peer, 3), 10 * rank + peer, dtype=dtype) for peer in range(world)])
        output = torch.empty((sum(sent), 3), dtype=dtype)
        comm.all_to_all(output, tensor, sent, sent)
        expected = [torch.full((rank + peer, 3), 10 * peer + rank, dtype=dtype) for peer in range(world)]
        assert torch.equal(output, torch.cat(expected)), name
    with pytest.raises(CommunicatorError, match="expected tensor"):
        comm.all_to_all(torch.empty(1, 3), torch.empty(9, 3), [1] * world, [1] * world)
    if world > 1:
        received = [1] * world if rank else [2, *[1] * (world - 1)]
        with pytest.raises(CollectiveMismatch, match="rank 0 sends rank 0 1 rows, which expects 2"):
            comm.all_to_all(torch.empty(sum(received), 3), torch.empty(world, 3), [1] * world, received, deadline=5.0)
    comm.close()


@pytest.mark.parametrize("world", (1, 2, 3))
def test_all_to_all_moves_rows_of_any_count_and_names_a_misfit(pool: RankPool, world: int) -> None:
    for result in pool.run(world, _exchange):
        result.unwrap()

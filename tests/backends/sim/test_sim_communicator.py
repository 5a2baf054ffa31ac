"""Collectives between processes carry real values, in stream order."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from hardpoint.communicator import Communicator, Rendezvous
from hardpoint.errors import CaptureRefused, CommunicatorError, DeviceError
from hardpoint_sim.backend import build
from hardpoint_sim.errors import UnmappedAccess
from support import sim_ranks
from support.ranks import RankPool


@pytest.fixture(scope="module")
def pool() -> Iterator[RankPool]:
    made = RankPool(2)
    try:
        yield made
    finally:
        made.close()


@pytest.mark.parametrize("seed", [0, 3])
def test_every_collective_carries_its_values(pool: RankPool, seed: int) -> None:
    first, second = (result.unwrap() for result in pool.run(2, sim_ranks.values, seed))
    assert first["broadcast"] == second["broadcast"] == [2.0, 2.0]
    assert first["all_reduce"] == second["all_reduce"] == [3.0, 3.0]
    assert first["all_gather"] == second["all_gather"] == [1.0, 1.0, 2.0, 2.0]
    assert first["all_gather_ragged"] == second["all_gather_ragged"] == [0.0, 0.0, 0.0]
    assert (first["reduce_scatter"], second["reduce_scatter"]) == ([1.0], [3.0])
    assert (first["reduce_scatter_ragged"], second["reduce_scatter_ragged"]) == ([3.0] * 3, [])


def test_torch_distributed_itself_carries_values(pool: RankPool) -> None:
    assert [result.unwrap() for result in pool.run(2, sim_ranks.plain_torch)] == [[12.0, 12.0]] * 2


def test_streams_that_nobody_waits_for_send_and_show_garbage(pool: RankPool) -> None:
    for result in pool.run(2, sim_ranks.wrong_streams):
        unready, early = result.unwrap()
        assert unready != [4.0, 4.0]
        assert early == [1.0, 1.0]


def test_a_collective_cut_off_by_its_deadline_leaves_poison(pool: RankPool) -> None:
    text, poisoned = pool.run(2, sim_ranks.one_rank_stays_away)[0].unwrap()
    assert "all_reduce" in text
    assert poisoned


@pytest.fixture
def alone() -> Communicator:
    return build({}).communicator(Rendezvous(torch.distributed.HashStore(), 0, 1, device_index=1))


def test_it_conforms_to_the_protocol(alone: Communicator) -> None:
    assert isinstance(alone, Communicator)
    assert (alone.rank, alone.world_size, alone.sequence) == (0, 1, 0)


def test_tensors_elsewhere_are_refused_with_both_places(alone: Communicator) -> None:
    for tensor in (torch.ones(2), torch.ones(2, device="sim:0")):
        with pytest.raises(
            CommunicatorError, match=f"a tensor is on {tensor.device}, this communicator works on sim:1"
        ):
            alone.all_reduce(tensor)
    with pytest.raises(CommunicatorError, match="is not contiguous"):
        alone.all_reduce(torch.ones(2, 3, device="sim:1").t())
    with pytest.raises(DeviceError, match="there is no device sim:9"):
        build({}).communicator(Rendezvous(torch.distributed.HashStore(), 0, 1, device_index=9))


def test_a_capture_refuses_collectives() -> None:
    backend = build({})
    communicator = backend.communicator(Rendezvous(torch.distributed.HashStore(), 0, 1))
    x = torch.ones(2, device="sim:0")
    with pytest.raises(CaptureRefused, match="all_reduce inside a graph capture"), backend.graphs.capture(0):
        communicator.all_reduce(x)


def test_unmapped_memory_cannot_take_part() -> None:
    backend = build({})
    communicator = backend.communicator(Rendezvous(torch.distributed.HashStore(), 0, 1))
    x = torch.ones(2, device="sim:0")
    backend.memory_map.adopt("weights", {"x": x})
    backend.memory_map.unmap(["weights"])
    with pytest.raises(UnmappedAccess, match="broadcast uses unmapped memory"):
        communicator.broadcast(x, src=0)

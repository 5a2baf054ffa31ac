"""Ranks that share a device reach each other through the host; what they hold is on their device before and after."""

from __future__ import annotations

from typing import Any

import torch

from hardpoint.communicator import Rendezvous
from hardpoint.communicator.host_staged import HostStaged
from hardpoint.communicator.through_host import through_host
from hardpoint.device import HostDevice
from support.ranks import run_ranks


def _broadcast(store: Any, rank: int, world: int) -> list[float]:
    group = through_host(HostDevice())(Rendezvous(store, rank, world, "shared", 20.0))
    assert isinstance(group, HostStaged)
    tensor = torch.full((3,), float(rank + 1))
    group.broadcast(tensor, src=0)
    verdict = group.vote(True, "there")
    group.close()
    assert verdict.unanimous
    return list(tensor.tolist())


def test_two_ranks_on_one_device() -> None:
    assert [one.unwrap() for one in run_ranks(2, _broadcast)] == [[1.0] * 3] * 2

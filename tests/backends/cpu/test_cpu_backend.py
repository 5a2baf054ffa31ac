"""The cpu backend: what its hooks say, what it is made of, and that its claims about gloo are the measured ones."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch

import hardpoint_cpu
from hardpoint import BackendInfo, Communicator, HostDevice, Rendezvous
from hardpoint.communicator import GLOO_DTYPES
from hardpoint.errors import PluginError
from support.gloo import open_gloo
from support.ranks import run_ranks


def test_hooks() -> None:
    info = hardpoint_cpu.hardpoint_info()
    assert isinstance(info, BackendInfo)
    assert (info.name, info.device_type, info.priority) == ("cpu", "cpu", 0)
    assert hardpoint_cpu.hardpoint_probe().available


def test_hooks_import_no_torch() -> None:
    code = "import sys, hardpoint_cpu as c; c.hardpoint_info(); c.hardpoint_probe(); print('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert run.stdout.strip() == "False"


def test_build_and_use() -> None:
    backend = hardpoint_cpu.hardpoint_backend({})
    assert isinstance(backend.device, HostDevice)
    communicator = backend.communicator(Rendezvous(torch.distributed.HashStore(), 0, 1))
    assert isinstance(communicator, Communicator)
    communicator.barrier()
    communicator.close()
    for name in backend.capabilities.dtypes:
        tensor = torch.ones(2, dtype=getattr(torch, name))
        assert torch.equal(tensor * tensor, tensor)


def test_options_are_refused() -> None:
    with pytest.raises(PluginError, match="takes no options, found cores=2"):
        hardpoint_cpu.hardpoint_backend({"cores": "2"})


def _native_broadcasts(store: Any, rank: int, world: int) -> set[str]:
    """Dtypes that gloo itself broadcasts and gathers, asked of the raw process group."""
    communicator = open_gloo(store, rank, world)
    group = communicator._session.group
    assert group is not None
    carried = set()
    names = {str(value).removeprefix("torch.") for value in vars(torch).values() if isinstance(value, torch.dtype)}
    for name in sorted(names):
        try:
            tensor = torch.zeros(16, dtype=torch.uint8).view(getattr(torch, name))
            group._allgather_base(torch.cat([tensor, tensor]), tensor).wait()
        except (RuntimeError, TypeError):  # "Invalid scalar type": not carried; or no such dtype on the host
            continue
        carried.add(name)
    communicator.close()
    return carried


def test_claimed_dtypes_are_the_ones_that_gloo_carries() -> None:
    for result in run_ranks(2, _native_broadcasts):
        assert result.unwrap() == GLOO_DTYPES


def test_sleep_is_claimed_where_pages_can_be_given_back() -> None:
    assert hardpoint_cpu.hardpoint_backend({}).capabilities.sleep == sys.platform.startswith("linux")

"""The store of the votes is reached by the workers alone, which are on this machine."""

from __future__ import annotations

import socket
from types import SimpleNamespace

import pytest

from hardpoint_vllm.sleep.core import Roll


def test_the_store_of_the_votes_listens_on_loopback_alone() -> None:
    """Torch by itself would listen on every address; 127.0.0.2 stands for another one of this machine."""
    roll = Roll(SimpleNamespace(parallel_config=SimpleNamespace(nnodes=1, distributed_executor_backend="mp")))
    host, _, port = roll._address().rpartition(":")
    assert host == "127.0.0.1"
    socket.create_connection((host, int(port)), timeout=5).close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", int(port)), timeout=5)
    assert roll._address() == f"{host}:{port}"

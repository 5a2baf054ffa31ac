"""Where trainer and engines meet: a torch TCPStore that listens on one address, loopback by default."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from hardpoint.errors import SyncError

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Meeting:
    """A store and the address that the other ranks join it at. It ends with the process that serves it."""

    store: Store
    host: str
    port: int


def serve_store(host: str = LOOPBACK, port: int = 0, *, deadline: float = 60.0) -> Meeting:
    """Serve a store on `host` alone (torch by itself listens on every address); port 0 takes a free one.

    Raises:
        SyncError: the address is taken or not of this machine.
    """
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    try:
        listener = socket.create_server((host, port), family=_family(host))
    except OSError as error:
        raise SyncError(
            f"Cannot listen on {host}:{port} for the engines: {error.strerror or error}. "
            "Choose another port, or 0 for a free one."
        ) from error
    bound = int(listener.getsockname()[1])
    store = TCPStore(
        host,
        bound,
        is_master=True,
        wait_for_workers=False,
        timeout=timedelta(seconds=deadline),
        master_listen_fd=listener.detach(),
    )
    return Meeting(store, host, bound)


def join_store(host: str, port: int, *, deadline: float = 60.0) -> Meeting:
    """Connect to the store that another rank serves, waiting up to `deadline` seconds for it to be there.

    Raises:
        SyncError: nobody serves it within the deadline.
    """
    from torch.distributed import DistError, TCPStore  # type: ignore[attr-defined]

    try:
        store = TCPStore(host, port, is_master=False, wait_for_workers=False, timeout=timedelta(seconds=deadline))
    except (DistError, RuntimeError, OSError) as error:
        raise SyncError(
            f"Nobody serves the rendezvous at {host}:{port} (waited {deadline:g} s). Start the trainer's "
            "WeightPublisher first, and give the engine the host and port that it prints."
        ) from error
    return Meeting(store, host, port)


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET

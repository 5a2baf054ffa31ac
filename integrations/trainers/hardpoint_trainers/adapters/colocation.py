"""Trainer and engine on one device: no native library takes it twice in one group, so they go through the host."""

from __future__ import annotations

from typing import Any

import torch

from hardpoint.communicator import CommunicatorFactory
from hardpoint.errors import SyncError


def colocated(
    device: torch.device | str, path: str, chosen: CommunicatorFactory | None
) -> tuple[CommunicatorFactory | None, dict[str, Any]]:
    """The publisher's communicator, and the terms that the engines need to have the same one.

    On the CPU, or with a communicator that the user has `chosen` for both sides, nothing is special.

    Raises:
        SyncError: path ``plan`` on an accelerator: its data plane is the native library's.
    """
    if torch.device(device).type == "cpu" or chosen is not None:
        return chosen, {}
    if path != "whole":
        raise SyncError(
            f"Colocated on {device}, sender and worker share a device, which the data plane of path {path!r} does not "
            "take twice. Use path='whole'."
        )
    from hardpoint import get_backend
    from hardpoint.communicator.through_host import through_host

    return through_host(get_backend().device), {"transport": "host"}

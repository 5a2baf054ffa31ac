"""Trainer and engine on one device: no native library takes it twice in one group, so they go through the host."""

from __future__ import annotations

from typing import Any

import torch

from hardpoint.communicator import CommunicatorFactory


def colocated(
    device: torch.device | str, chosen: CommunicatorFactory | None
) -> tuple[CommunicatorFactory | None, dict[str, Any]]:
    """The publisher's communicator, and the terms that the engines need to have the same one.

    On the CPU, or with a communicator that the user has `chosen` for both sides, nothing is special.
    """
    if torch.device(device).type == "cpu" or chosen is not None:
        return chosen, {}
    from hardpoint import get_backend
    from hardpoint.communicator.through_host import through_host

    return through_host(get_backend().device), {"transport": "host"}

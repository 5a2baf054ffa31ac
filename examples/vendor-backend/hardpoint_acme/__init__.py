"""ACME One: the hooks of the plugin, and nothing else.

This module is imported whenever somebody lists backends, on machines that have no ACME card too. So it imports
hardpoint and the standard library only: no torch, and above all not your SDK.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hardpoint import Backend, BackendInfo, Probe, hookimpl


@hookimpl
def hardpoint_info() -> BackendInfo:
    """Static facts. Asked before anything is probed."""
    return BackendInfo(
        name="acme",  # the same as the entry point
        device_type="cpu",  # yours: the torch device type that your torch extension registers
        priority=-5,  # yours: 50 or so. Negative means that HARDPOINT_BACKEND=auto never takes it: this is an example
        summary="ACME One, an example of a vendor's backend that computes on the host",
    )


@hookimpl
def hardpoint_probe() -> Probe:
    """Whether a card is here. Look at files, environment variables or a management library: never create a device
    context, since vLLM forks after this was asked."""
    from hardpoint_acme.driver import find_cards

    cards = find_cards()
    if not cards:
        return Probe(False, "no ACME One card is visible: ACME_VISIBLE_CARDS is set and empty")
    return Probe(True, f"{len(cards)} ACME One card(s), driver 1.0 (pretended, on the host)", len(cards))


@hookimpl
def hardpoint_backend(options: Mapping[str, Any]) -> Backend:
    """Called once, on the chosen plugin alone. Now your SDK may be imported."""
    from hardpoint_acme.backend import build

    return build(options)

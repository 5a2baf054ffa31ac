"""Rows of the table of overrides for what `metrics` and `control` replace. Nothing is imported to ask."""

from __future__ import annotations

import sys
from typing import Any

from hardpoint.overrides import Override
from hardpoint_vllm.control import install
from hardpoint_vllm.metrics.watch import FRONT_ENDS
from hardpoint_vllm.patching import is_wrapped
from hardpoint_vllm.versions import SUPPORTED


def rows() -> list[Override]:
    """One per function that is wrapped."""
    found = [
        _row(
            module,
            f"{name}.collective_rpc",
            "metrics.watch",
            "what is scraped is the front end's, and vLLM counts calls, not updates, bytes, aborts or versions",
            "adds numbers, changes nothing; acts on the weight-transfer calls of engines that use hardpoint's",
        )
        for module, name in FRONT_ENDS.items()
    ]
    module, name = install.place()
    if module in sys.modules:  # in servers alone: elsewhere nobody imports it
        found.append(
            _row(
                module,
                name,
                "control.install",
                "vLLM's API key does not guard the endpoints that change weights, pause, sleep or run RPCs",
                "adds a middleware to servers that use hardpoint's weight transfer: loopback, or the token",
            )
        )
    return found


def _row(module: str, target: str, owner: str, reason: str, note: str) -> Override:
    holder: Any = sys.modules.get(module)
    path = target.split(".")
    for part in path[:-1]:
        holder = getattr(holder, part, None)
    return Override(
        target=f"{module}:{target}",
        kind="patch",
        owner=f"hardpoint_vllm.{owner}",
        reason=reason,
        versions=SUPPORTED,
        installed=holder is not None and is_wrapped(holder, path[-1]),
        note=note,
    )

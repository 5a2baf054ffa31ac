"""What users may set about sleeping, from the environment: seconds, and what becomes of requests."""

from __future__ import annotations

import os

from hardpoint.errors import HardpointError

STEP_SECONDS = "HARDPOINT_SLEEP_STEP_SECONDS"
DRAIN_SECONDS = "HARDPOINT_SLEEP_DRAIN_SECONDS"
REQUESTS = "HARDPOINT_SLEEP_REQUESTS"
KEEP_COPIES = "HARDPOINT_SLEEP_KEEP_COPIES"


def step_seconds() -> float:
    """How long the steps of one rank may take between two votes; default 120 s, for copies of large models."""
    return _seconds(STEP_SECONDS, 120.0)


def drain_seconds() -> float:
    """How long running requests may take to finish before ``/sleep?mode=wait`` is given up; default 300 s."""
    return _seconds(DRAIN_SECONDS, 300.0)


def refuses_requests() -> bool:
    """A request to a sleeping engine is answered at once with an error (``refuse``) instead of waiting (``wait``)."""
    word = os.environ.get(REQUESTS, "wait").strip().lower() or "wait"
    if word not in ("wait", "refuse"):
        raise HardpointError(f"{REQUESTS}={word!r}: expected 'wait' (vLLM's way) or 'refuse'.")
    return word == "refuse"


def keeps_copies() -> bool:
    """Saved weights stay in host memory after a wake (``on``), so that unchanged ones need not be saved again."""
    word = os.environ.get(KEEP_COPIES, "off").strip().lower() or "off"
    if word not in ("on", "off"):
        raise HardpointError(f"{KEEP_COPIES}={word!r}: expected 'on' or 'off'.")
    return word == "on"


def _seconds(name: str, default: float) -> float:
    text = os.environ.get(name, "").strip()
    try:
        seconds = float(text) if text else default
    except ValueError:
        seconds = 0.0
    if not 0.0 < seconds < float("inf"):
        raise HardpointError(f"{name}={text!r}: expected a number of seconds above 0.")
    return seconds

"""Installing and removing the guard. Idempotent; one guard per process."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass

from hardpoint.guard.device import under_tensors_device
from hardpoint.guard.first_load import FirstLoad

log = logging.getLogger("hardpoint.guard")


@dataclass(frozen=True)
class GuardStatus:
    """What `doctor` shows: whether the guard is installed, for which device type, and how strict it is."""

    installed: bool
    device_type: str | None = None
    strict: bool = False
    reason: str = ""


@dataclass(frozen=True)
class _Installed:
    status: GuardStatus
    undo: Callable[[], None]


_lock = threading.Lock()
_installed: list[_Installed] = []  # empty or one: the guard is process-wide by nature


def status() -> GuardStatus:
    """Whether the guard is installed."""
    return _installed[0].status if _installed else GuardStatus(False)


def install(device_type: str = "cuda", *, strict: bool | None = None) -> GuardStatus:
    """Wrap `JITFunction.run` and `Autotuner.run` for launches on `device_type`.

    ``HARDPOINT_GUARD`` decides where `strict` is None: ``off`` installs nothing, ``strict`` checks all arguments at
    every launch (otherwise at a form's first load) and refuses every first load inside a capture.
    """
    wish = os.environ.get("HARDPOINT_GUARD", "on").strip().lower() or "on"
    if wish not in ("on", "off", "strict"):
        raise ValueError(f"Expected HARDPOINT_GUARD to be on, off or strict, found {wish!r}.")
    if wish == "off":
        return GuardStatus(False, reason="HARDPOINT_GUARD=off")
    severe = wish == "strict" if strict is None else strict
    with _lock:
        if _installed:
            return _installed[0].status
        try:
            from triton import knobs
            from triton.runtime.autotuner import Autotuner
            from triton.runtime.jit import JITFunction
        except ImportError as error:
            return GuardStatus(False, reason=f"Triton cannot be imported: {error}")
        from hardpoint.launcher.triton import host

        try:
            current, exchange, capturing = host.runtime_calls(device_type)
            originals = [(owner, owner.run) for owner in (JITFunction, Autotuner)]
            chain = knobs.runtime.kernel_load_start_hook
            chain.add  # noqa: B018 - is looked up before anything is changed
        except AttributeError as error:
            log.warning("The guard is not installed: this Triton or torch lacks what it stands on (%s).", error)
            return GuardStatus(False, reason=f"this Triton or torch lacks what the guard stands on: {error}")
        ours = []
        for owner, original in originals:
            ours.append(under_tensors_device(original, current, exchange, severe, device_type))
            owner.run = ours[-1]
        hook = FirstLoad(
            ours[0].__code__, capturing, (lambda: False) if severe else _tolerated(device_type), device_type
        )
        chain.add(hook)

        def undo() -> None:
            for (owner, original), wrapper in zip(originals, ours, strict=True):
                if owner.run is wrapper:
                    owner.run = original
                else:  # somebody wrapped it after us: theirs stays, and ours under it
                    log.warning(
                        "%s.run was wrapped by %s after the guard: the guard's device check stays underneath until "
                        "that is taken off.",
                        owner.__name__,
                        getattr(owner.run, "__module__", "others"),
                    )
            chain.remove(hook)

        state = GuardStatus(True, device_type, severe)
        _installed.append(_Installed(state, undo))
    log.info(
        "Triton launches on %s run under their tensors' device (guard%s).", device_type, ", strict" if severe else ""
    )
    return state


def remove() -> None:
    """Put Triton's own functions back. Does nothing if the guard is not installed."""
    with _lock:
        if _installed:
            _installed.pop().undo()


def _tolerated(device_type: str) -> Callable[[], bool]:
    from hardpoint.launcher.triton.cold_load import driver_loads_in_capture

    return driver_loads_in_capture if device_type == "cuda" else lambda: False

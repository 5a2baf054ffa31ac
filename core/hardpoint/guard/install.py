"""Installing and removing the guard. Idempotent; one guard per process."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hardpoint.guard.device import under_tensors_device
from hardpoint.guard.first_load import FirstLoad

log = logging.getLogger("hardpoint.guard")

# CUDA driver API version from which a module load inside a capture was seen to work in every capture mode
# (H100, driver 580, 2026-11-22). Older drivers were not seen; some are known to refuse (vllm#36587).
LOADS_IN_CAPTURE_FROM = 13000


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
        from hardpoint.launcher.triton.host import runtime_calls

        current, exchange, capturing = runtime_calls(device_type)
        doors = [(JITFunction, "run"), (Autotuner, "run")]
        originals = [(owner, name, getattr(owner, name)) for owner, name in doors]
        for owner, name, original in originals:
            setattr(owner, name, under_tensors_device(original, current, exchange, severe, device_type))
        code = JITFunction.run.__code__
        hook = FirstLoad(code, capturing, (lambda: False) if severe else _tolerated(device_type), device_type)
        _add(knobs.runtime, hook)

        def undo() -> None:
            for owner, name, original in originals:
                setattr(owner, name, original)
            _drop(knobs.runtime, hook)

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
    def answer() -> bool:
        if device_type != "cuda":
            return False
        import torch

        version = torch._C._cuda_getDriverVersion()  # type: ignore[attr-defined]  # only in CUDA builds
        return int(version) >= LOADS_IN_CAPTURE_FROM

    return answer


def _add(runtime: Any, hook: FirstLoad) -> None:
    runtime.kernel_load_start_hook.add(hook)


def _drop(runtime: Any, hook: FirstLoad) -> None:
    runtime.kernel_load_start_hook.remove(hook)

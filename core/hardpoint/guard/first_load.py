"""What is checked when Triton loads a compiled form onto a device for the first time, just before its first launch.

Triton calls `kernel_load_start_hook` there (triton/compiler/compiler.py, `CompiledKernel._init_handles`). The check
costs nothing on later launches. The arguments of the launch under way are read from the frame of the guarded ``run``:
keeping them anywhere else would keep tensors alive.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any

from hardpoint.errors import CaptureRefused
from hardpoint.guard.device import _name, _named, check_all

log = logging.getLogger("hardpoint.guard")


class FirstLoad:
    """The hook. One object per installation, so that it can be found and removed.

    Args:
        code: code object of the guarded ``run``.
        capturing: the current stream is being captured.
        tolerated: the driver loads modules inside a capture.
        device_type: torch device type.
    """

    def __init__(
        self, code: CodeType, capturing: Callable[[], bool], tolerated: Callable[[], bool], device_type: str
    ) -> None:
        self._code = code
        self._capturing = capturing
        self._tolerated = tolerated
        self._device_type = device_type

    def __call__(self, module: Any, function: Any, name: str, metadata_group: Any, hash: str) -> None:
        found = self._launch()
        if found is not None:
            kernel, args, kwargs = found
            check_all(_name(kernel), _named(kernel, args, kwargs), self._device_type)
        if not self._capturing():
            return
        called = _name(found[0]) if found is not None else name
        text = f"{called} (specialisation {hash[:12]}) is loaded for the first time inside a graph capture"
        if self._tolerated():
            log.warning("%s; this driver allows it, older ones do not. Launch it once before the capture.", text)
            return
        raise CaptureRefused(
            f"{text}, which this driver refuses, and leaving the kernel out would record a wrong graph: launch it once "
            "with the same kinds of arguments before the capture, or call launcher.preload for it."
        )

    def _launch(self) -> tuple[Any, tuple[Any, ...], dict[str, Any]] | None:
        """Kernel and arguments of the innermost guarded launch on this thread's stack."""
        frame: FrameType | None = sys._getframe(2)
        while frame is not None:
            if frame.f_code is self._code:
                return frame.f_locals["self"], frame.f_locals["args"], frame.f_locals["kwargs"]
            frame = frame.f_back
        return None

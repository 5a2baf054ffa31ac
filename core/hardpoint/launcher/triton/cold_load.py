"""Loading a kernel while a graph is being captured: refused as a rule, done where the driver is known to accept it.

A module load is not part of what is captured, so it is right wherever the driver allows it; whether it does depends on
the driver alone (vllm#36587). H100 with driver 580 (CUDA 13) accepts it in every capture mode (measured 2026-11-22).
"""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

LOADS_IN_CAPTURE_FROM = 13000  # CUDA driver API version, as cuDriverGetVersion gives it
_RELAXED = 2  # CU_STREAM_CAPTURE_MODE_RELAXED, cuda.h


@dataclass(frozen=True)
class ColdLoad:
    """Permission to load in a capture.

    Attributes:
        allowed: the driver at hand is known to accept it.
        relaxed: a context in which this thread's capture mode is relaxed; compiling and loading run inside it.
    """

    allowed: Callable[[], bool]
    relaxed: Callable[[], AbstractContextManager[None]]


def driver_version() -> int | None:
    """Version of the CUDA API that the driver offers, 13000 for 13.0; None without a driver. Makes no context."""
    try:
        library = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    version = ctypes.c_int()
    return version.value if library.cuDriverGetVersion(ctypes.byref(version)) == 0 else None


def driver_loads_in_capture() -> bool:
    """The CUDA driver is one that was seen to load modules inside a capture."""
    version = driver_version()
    return version is not None and version >= LOADS_IN_CAPTURE_FROM


def cuda_cold_load() -> ColdLoad:
    """For NVIDIA GPUs: by the driver's version, under ``cuThreadExchangeStreamCaptureMode(relaxed)``."""
    return ColdLoad(driver_loads_in_capture, _relaxed)


@contextmanager
def _relaxed() -> Iterator[None]:
    exchange = ctypes.CDLL("libcuda.so.1").cuThreadExchangeStreamCaptureMode
    mode = ctypes.c_int(_RELAXED)
    if exchange(ctypes.byref(mode)) != 0:
        raise OSError("cuThreadExchangeStreamCaptureMode(relaxed) failed: this driver cannot relax a capture")
    # Compiling makes garbage, and a collection may destroy a graph or an event, which ends the capture under way.
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        exchange(ctypes.byref(mode))  # `mode` holds what was set before
        if collecting:
            gc.enable()

"""What NVML says of the GPUs, asked through ctypes: no CUDA context is made, so it may be asked before a fork."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import cache
from typing import Any

_LIBRARY = "libnvidia-ml.so.1"
_LENGTH = 96  # NVML_DEVICE_UUID_V2_BUFFER_SIZE


@dataclass(frozen=True)
class Gpu:
    """One physical GPU.

    Attributes:
        index: NVML's, which is nvidia-smi's: in the order of the PCI bus.
        uuid: ``GPU-...``.
        compute: compute capability, for example ``(9, 0)``.
        mig: UUIDs of its MIG devices, ``MIG-...``; empty unless it is partitioned.
    """

    index: int
    uuid: str
    compute: tuple[int, int]
    mig: tuple[str, ...] = ()


@cache
def gpus() -> tuple[Gpu, ...]:
    """All GPUs of the machine, also those that ``CUDA_VISIBLE_DEVICES`` hides; empty where NVML does not answer."""
    try:
        library = ctypes.CDLL(_LIBRARY)
    except OSError:
        return ()
    if library.nvmlInit_v2() != 0:
        return ()
    count = ctypes.c_uint()
    if library.nvmlDeviceGetCount_v2(ctypes.byref(count)) != 0:
        return ()
    return tuple(gpu for index in range(count.value) if (gpu := _gpu(library, index)) is not None)


def _gpu(library: Any, index: int) -> Gpu | None:
    handle, major, minor = ctypes.c_void_p(), ctypes.c_int(), ctypes.c_int()
    if library.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(handle)) != 0:
        return None
    uuid = _uuid(library, handle)
    known = library.nvmlDeviceGetCudaComputeCapability(handle, ctypes.byref(major), ctypes.byref(minor)) == 0
    if uuid is None or not known:
        return None
    return Gpu(index, uuid, (major.value, minor.value), _mig(library, handle))


def _mig(library: Any, handle: ctypes.c_void_p) -> tuple[str, ...]:
    most = ctypes.c_uint()
    if library.nvmlDeviceGetMaxMigDeviceCount(handle, ctypes.byref(most)) != 0:
        return ()
    found = []
    for index in range(most.value):
        part = ctypes.c_void_p()
        if library.nvmlDeviceGetMigDeviceHandleByIndex(handle, index, ctypes.byref(part)) != 0:
            continue
        uuid = _uuid(library, part)
        if uuid is not None:
            found.append(uuid)
    return tuple(found)


def _uuid(library: Any, handle: ctypes.c_void_p) -> str | None:
    text = ctypes.create_string_buffer(_LENGTH)
    if library.nvmlDeviceGetUUID(handle, text, _LENGTH) != 0:
        return None
    return text.value.decode()

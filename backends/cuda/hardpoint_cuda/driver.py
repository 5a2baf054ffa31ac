"""`CudaDriver`: the calls of libcuda that reserve addresses and put memory behind them, through ctypes.

The driver itself, and no library: torch_memory_saver ends the process where a resume finds no memory, so nothing could
be rolled back, and it gives no single allocation away; a C extension of our own would have to be built for every CUDA.
These functions have kept their signatures since CUDA 10.2 (cuda.h, "Virtual Memory Management").

None of them was run on a device yet.
"""

from __future__ import annotations

import ctypes
from typing import Any, Protocol

from hardpoint.errors import DeviceError

_LIBRARY = "libcuda.so.1"
_PINNED, _ON_DEVICE, _READ_WRITE, _MINIMUM = 1, 1, 3, 0
_OUT_OF_MEMORY = 2


class MemoryDriver(Protocol):
    """Sizes are multiples of `granularity`. DeviceError if the driver refuses, OutOfMemory (a RuntimeError) if full."""

    def granularity(self, device_index: int) -> int: ...

    def reserve(self, nbytes: int) -> int:
        """An address range; nothing is behind it."""
        ...

    def free_address(self, address: int, nbytes: int) -> None:
        """Give the range up; nothing may be mapped there."""
        ...

    def create(self, nbytes: int, device_index: int) -> int:
        """A handle of memory on the device."""
        ...

    def release(self, handle: int) -> None:
        """The memory goes back to the device when no range is mapped to it any more."""
        ...

    def map(self, address: int, nbytes: int, handle: int) -> None: ...

    def allow(self, address: int, nbytes: int, device_index: int) -> None:
        """Let the device read and write a range that is mapped."""
        ...

    def unmap(self, address: int, nbytes: int) -> None: ...


class OutOfMemory(RuntimeError):
    """The device has no memory of that size."""


class _Location(ctypes.Structure):
    _fields_ = (("type", ctypes.c_int), ("id", ctypes.c_int))


class _Flags(ctypes.Structure):
    _fields_ = (
        ("compressionType", ctypes.c_ubyte),
        ("gpuDirectRDMACapable", ctypes.c_ubyte),
        ("usage", ctypes.c_ushort),
        ("reserved", ctypes.c_ubyte * 4),
    )


class Properties(ctypes.Structure):
    """``CUmemAllocationProp``, 32 bytes."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("requestedHandleTypes", ctypes.c_int),
        ("location", _Location),
        ("win32HandleMetaData", ctypes.c_void_p),
        ("allocFlags", _Flags),
    )


class Access(ctypes.Structure):
    """``CUmemAccessDesc``, 12 bytes."""

    _fields_ = (("location", _Location), ("flags", ctypes.c_int))


class CudaDriver:
    """libcuda of this process. Importing and making it touches no device; the first call may."""

    def __init__(self, library: Any = None) -> None:
        """`library`: instead of libcuda. DeviceError if there is none."""
        try:
            self._cuda = library if library is not None else ctypes.CDLL(_LIBRARY)
        except OSError as error:
            raise DeviceError(f"{_LIBRARY} cannot be loaded ({error}): sleep on CUDA needs the driver") from error

    def granularity(self, device_index: int) -> int:
        size = ctypes.c_size_t()
        properties = _properties(device_index)
        self._call("cuMemGetAllocationGranularity", ctypes.byref(size), ctypes.byref(properties), _MINIMUM)
        return size.value

    def reserve(self, nbytes: int) -> int:
        address = ctypes.c_uint64()
        size, zero = ctypes.c_size_t(nbytes), ctypes.c_uint64(0)
        self._call("cuMemAddressReserve", ctypes.byref(address), size, ctypes.c_size_t(0), zero, zero)
        return address.value

    def free_address(self, address: int, nbytes: int) -> None:
        self._call("cuMemAddressFree", ctypes.c_uint64(address), ctypes.c_size_t(nbytes))

    def create(self, nbytes: int, device_index: int) -> int:
        handle, properties = ctypes.c_uint64(), _properties(device_index)
        size, zero = ctypes.c_size_t(nbytes), ctypes.c_uint64(0)
        self._call("cuMemCreate", ctypes.byref(handle), size, ctypes.byref(properties), zero)
        return handle.value

    def release(self, handle: int) -> None:
        self._call("cuMemRelease", ctypes.c_uint64(handle))

    def map(self, address: int, nbytes: int, handle: int) -> None:
        where, size, zero = ctypes.c_uint64(address), ctypes.c_size_t(nbytes), ctypes.c_uint64(0)
        self._call("cuMemMap", where, size, ctypes.c_size_t(0), ctypes.c_uint64(handle), zero)

    def allow(self, address: int, nbytes: int, device_index: int) -> None:
        access = Access(_Location(_ON_DEVICE, device_index), _READ_WRITE)
        where, size = ctypes.c_uint64(address), ctypes.c_size_t(nbytes)
        self._call("cuMemSetAccess", where, size, ctypes.byref(access), ctypes.c_size_t(1))

    def unmap(self, address: int, nbytes: int) -> None:
        self._call("cuMemUnmap", ctypes.c_uint64(address), ctypes.c_size_t(nbytes))

    def _call(self, name: str, *arguments: Any) -> None:
        code = getattr(self._cuda, name)(*arguments)
        if code == _OUT_OF_MEMORY:
            raise OutOfMemory(f"{name}: the device has no memory of that size (CUDA_ERROR_OUT_OF_MEMORY)")
        if code != 0:
            text = ctypes.c_char_p()
            self._cuda.cuGetErrorString(code, ctypes.byref(text))
            raise DeviceError(f"{name} failed with {code}: {(text.value or b'no text').decode()}")


def _properties(device_index: int) -> Properties:
    return Properties(type=_PINNED, location=_Location(_ON_DEVICE, device_index))

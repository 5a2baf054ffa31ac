"""Host memory by address: give its pages back, poison it, read and write it as bytes."""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
from typing import TYPE_CHECKING

from hardpoint.errors import LifecycleError

if TYPE_CHECKING:
    import torch

PAGE = mmap.PAGESIZE
POISON = 0xFF  # NaN in every torch float type, -1 or the largest value in the integer types
_MADV_DONTNEED = 4
_libc = ctypes.CDLL(None, use_errno=True)


def bytes_of(storage: torch.UntypedStorage) -> memoryview:
    """The storage as writable bytes; valid while the storage lives."""
    size = storage.nbytes()
    return memoryview((ctypes.c_ubyte * size).from_address(storage.data_ptr())).cast("B") if size else memoryview(b"")


def release(storage: torch.UntypedStorage, what: str) -> None:
    """Give the pages that lie wholly inside the storage back to the system; its address stays.

    The kernel answers later reads with zeros, so the first page and the ends, which stay resident, are filled with
    NaN: whoever reads a whole tensor notices. LifecycleError, naming `what`, where the system cannot do it.
    """
    if not sys.platform.startswith("linux"):
        raise LifecycleError(f"{what}: host memory can be given back on Linux only (madvise), this is {sys.platform}")
    address, size = storage.data_ptr(), storage.nbytes()
    first, last = -(-address // PAGE) * PAGE, (address + size) // PAGE * PAGE
    if last - first > PAGE:
        if _libc.madvise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), _MADV_DONTNEED) != 0:
            reason = os.strerror(ctypes.get_errno())
            raise LifecycleError(f"{what}: the system did not take back {last - first} bytes at {first:#x}: {reason}")
        ctypes.memset(address, POISON, first + PAGE - address)
        ctypes.memset(last, POISON, address + size - last)
    else:
        ctypes.memset(address, POISON, size)


def clear(storage: torch.UntypedStorage) -> None:
    """Write zeros where `release` wrote NaN; the pages between read as zero already and stay with the system."""
    address, size = storage.data_ptr(), storage.nbytes()
    first, last = -(-address // PAGE) * PAGE, (address + size) // PAGE * PAGE
    if last - first > PAGE:
        ctypes.memset(address, 0, first + PAGE - address)
        ctypes.memset(last, 0, address + size - last)
    else:
        ctypes.memset(address, 0, size)


def resident(storage: torch.UntypedStorage) -> int:
    """Bytes of the pages wholly inside the storage, but the first, that are in memory now (Linux, ``mincore``).

    After `release` it is 0: measured, not assumed. OSError where the system does not say.
    """
    address, size = storage.data_ptr(), storage.nbytes()
    first, last = -(-address // PAGE) * PAGE + PAGE, (address + size) // PAGE * PAGE
    if last <= first:
        return 0
    pages = (ctypes.c_ubyte * ((last - first) // PAGE))()
    if _libc.mincore(ctypes.c_void_p(first), ctypes.c_size_t(last - first), pages) != 0:
        raise OSError(ctypes.get_errno(), f"mincore of {last - first} bytes at {first:#x}")
    return sum(page & 1 for page in bytes(pages)) * PAGE

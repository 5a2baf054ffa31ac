"""Errors of the simulator; each is also the torch or builtin error that a real device raises in the same place."""

from __future__ import annotations

import torch

from hardpoint.errors import DeviceError


class DeviceMix(DeviceError, RuntimeError):
    """Tensors of two devices, or of device and host, in one operation."""


class UnmappedAccess(DeviceError, RuntimeError):
    """Memory that is unmapped was read or written."""


class DeviceFault(DeviceError, RuntimeError):
    """Work failed on the device; raised where the host next waits for it."""


class OutOfMemory(DeviceError, torch.OutOfMemoryError):
    """The budget of a simulated device is spent."""


class InvalidPointer(DeviceError, ValueError):
    """A kernel was launched on a device from which one of its tensors cannot be accessed."""

"""Devices, streams and events: the Protocols, and the two implementations that most backends need."""

from hardpoint.device.host_device import HostDevice, HostEvent, HostStream
from hardpoint.device.identity import visible_devices
from hardpoint.device.protocol import Device, DeviceIdentity, Event, MemoryInfo, Stream
from hardpoint.device.runtime import DeviceRuntime, RuntimeDevice
from hardpoint.device.torch_device import TorchDevice

__all__ = [
    "Device",
    "DeviceIdentity",
    "DeviceRuntime",
    "Event",
    "HostDevice",
    "HostEvent",
    "HostStream",
    "MemoryInfo",
    "RuntimeDevice",
    "Stream",
    "TorchDevice",
    "visible_devices",
]

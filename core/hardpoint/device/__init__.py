"""Devices, streams and events: the Protocols, and the two implementations that most backends need."""

from hardpoint.device.protocol import Device, DeviceIdentity, Event, MemoryInfo, Stream

__all__ = ["Device", "DeviceIdentity", "Event", "MemoryInfo", "Stream"]

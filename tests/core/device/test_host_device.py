"""The host as a device: in order, one index, honest memory."""

from __future__ import annotations

import threading

import pytest
import torch

from hardpoint.device import Device, Event, HostDevice, HostStream, Stream
from hardpoint.errors import DeviceError


def test_conforms_to_the_protocols() -> None:
    device = HostDevice()
    assert isinstance(device, Device)
    assert isinstance(device.stream(), Stream)
    assert isinstance(device.event(), Event)
    assert (device.type, device.count(), device.current()) == ("cpu", 1, 0)
    assert device.torch_device() == torch.device("cpu")


@pytest.mark.parametrize("index", [1, -1, 7])
def test_other_indexes_are_refused(index: int) -> None:
    device = HostDevice()
    for attempt in (device.torch_device, device.stream, device.synchronize, device.memory, device.identity):
        with pytest.raises(DeviceError, match=rf"cpu:{index} does not exist"):
            attempt(index)
    with pytest.raises(DeviceError, match="one device"), device.use(index):
        pass


def test_current_stream_is_per_thread_and_restored_on_error() -> None:
    device = HostDevice()
    default, other = device.current_stream(), device.stream()
    seen = []
    with pytest.raises(ZeroDivisionError), device.use_stream(other):
        assert device.current_stream() is other
        thread = threading.Thread(target=lambda: seen.append(device.current_stream()))
        thread.start()
        thread.join(5)
        raise ZeroDivisionError
    assert seen == [default]
    assert device.current_stream() is default
    with pytest.raises(DeviceError, match="expected a stream of the cpu"), device.use_stream(object()):
        pass


def test_events_tell_milliseconds_and_refuse_what_was_not_recorded() -> None:
    device = HostDevice()
    start, end = device.event(timing=True), device.event(timing=True)
    assert start.query()
    with pytest.raises(DeviceError, match="recorded"):
        start.elapsed_time(end)
    start.record()
    assert HostStream().record_event(end) is end
    assert start.elapsed_time(end) >= 0
    with pytest.raises(DeviceError, match="timing=True"):
        start.elapsed_time(device.event())


def test_memory_follows_what_the_process_holds() -> None:
    device = HostDevice()
    before = device.memory()
    held = torch.ones(64 << 20, dtype=torch.uint8)
    after = device.memory()
    assert after.allocated - before.allocated > 32 << 20
    assert 0 < after.free <= after.total
    del held

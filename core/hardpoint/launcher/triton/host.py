"""The few calls of a device runtime that sit on the launch path, looked up once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch


def runtime_calls(device_type: str) -> tuple[Callable[[], int], Callable[[int], int], Callable[[], bool]]:
    """``(current device, exchange device, capturing)`` of a device type, without creating a context.

    Raises AttributeError naming the call that the device's torch module lacks.
    """
    module = torch.get_device_module(device_type)
    # torch's Python wrappers cost more than the calls: 0.6 us against 0.1 us for the current device on an H100's host.
    current = getattr(torch._C, f"_{device_type}_getDevice", module.current_device)
    exchange = getattr(module, "_exchange_device", None)
    if exchange is None:  # torch_npu 2.11 to 2.14 has none (ci/vendor_api)

        def exchange(index: int) -> int:
            before = int(module.current_device())
            module.set_device(index)
            return before

    return current, exchange, module.is_current_stream_capturing


@dataclass(frozen=True)
class TritonHost:
    """Runtime calls of one device type.

    Attributes:
        type: torch device type.
        current: index of the thread's current device.
        exchange: make an index current and return the one before.
        raw_stream: handle of the thread's current stream on a device.
        count: visible devices.
        capturing: the thread's current stream is being captured into a graph.
    """

    type: str
    current: Callable[[], int]
    exchange: Callable[[int], int]
    raw_stream: Callable[[int], int]
    count: Callable[[], int]
    capturing: Callable[[], bool]

    @classmethod
    def of(cls, device_type: str) -> TritonHost:
        """Look the calls up for ``cuda``, ``xpu`` or another type whose torch module and Triton driver are installed.

        For ``cpu`` they are those of Triton's interpreter: one device, no streams, no captures.
        Raises AttributeError naming the call that the device's torch module lacks.
        """
        import importlib

        if device_type == "cpu":
            return cls("cpu", lambda: 0, lambda index: 0, lambda device: 0, lambda: 1, lambda: False)

        current, exchange, capturing = runtime_calls(device_type)
        driver = importlib.import_module("triton.runtime.driver").driver
        return cls(
            type=device_type,
            current=current,
            exchange=exchange,
            raw_stream=driver.active.get_current_stream,
            count=torch.get_device_module(device_type).device_count,
            capturing=capturing,
        )

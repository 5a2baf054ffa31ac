"""A Triton driver without a GPU: real binder, cache and compiler (sm_90), while loads and launches are only recorded.

`FakeGpu` is put in place of Triton's active driver, so that what the launcher and the guard do to Triton itself is
tested on any machine. Devices, their "current" one per thread, and captures are plain Python.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch

DEVICES = 2


class FakeTensor(torch.Tensor):
    """A host tensor that says it is on ``cuda:index``."""

    index: int

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return torch.device("cuda", self.index)

    def get_device(self) -> int:
        return self.index


def on(index: int, tensor: torch.Tensor) -> FakeTensor:
    """`tensor` as if it were on ``cuda:index``."""
    found = torch.Tensor._make_subclass(FakeTensor, tensor)
    found.index = index
    return found


@dataclass(frozen=True)
class Launch:
    """One recorded launch: function handle, device that was current, grid, and the arguments by position."""

    name: str
    device: int
    loaded_on: int
    grid: tuple[int, int, int]
    arguments: tuple[Any, ...]


@dataclass
class FakeGpu:
    """The parts of a Triton driver that runtime and compiler ask for, over `DEVICES` devices."""

    launches: list[Launch] = field(default_factory=list)
    loads: list[tuple[str, int]] = field(default_factory=list)
    refuse_loads: str = ""
    capturing: bool = False
    _here: threading.local = field(default_factory=threading.local)

    def current(self) -> int:
        return getattr(self._here, "index", 0)

    def exchange(self, index: int) -> int:
        before = self.current()
        self._here.index = index
        return before

    # -- what Triton asks its driver -----------------------------------------------------------------------------

    def get_current_device(self) -> int:
        return self.current()

    def get_current_stream(self, device: int) -> int:
        return 1000 + device

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", 90, 32)

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")

    def get_benchmarker(self) -> Any:
        def bench(call: Any, quantiles: Any = None, **_: Any) -> list[float]:
            call()
            return [1.0, 1.0, 1.0]

        return bench

    @property
    def utils(self) -> Any:
        return SimpleNamespace(
            load_binary=self._load,
            unload_module=lambda module: None,
            get_device_properties=lambda device: {"max_shared_mem": 232448, "multiprocessor_count": 132},
        )

    def _load(self, name: str, kernel: bytes, shared: int, device: int) -> tuple[Any, ...]:
        if self.refuse_loads:
            raise RuntimeError(self.refuse_loads)
        self.loads.append((name, device))
        return (f"module of {name}", SimpleNamespace(name=name, device=device), 32, 0, 1024)

    def launcher_cls(self, src: Any, metadata: Any) -> Any:
        return _Launcher(self, metadata)


class _Launcher:
    """Stands for `CudaLauncher`; `launch` has the order of 3.6's C function."""

    global_scratch_size = profile_scratch_size = 0
    launch_cooperative_grid = launch_pdl = False

    def __init__(self, gpu: FakeGpu, metadata: Any) -> None:
        self._gpu = gpu

    def __call__(
        self, x: int, y: int, z: int, stream: int, function: Any, metadata: Any, launch_metadata: Any, enter: Any,
        leave: Any, *arguments: Any,
    ) -> None:  # fmt: skip
        for hook in (enter, leave):
            if hook is not None:
                hook(launch_metadata)
        self._record(x, y, z, stream, function, arguments)

    def launch(
        self, x: int, y: int, z: int, stream: int, function: Any, cooperative: bool, pdl: bool, scratch: Any,
        profile: Any, metadata: Any, launch_metadata: Any, enter: Any, leave: Any, *arguments: Any,
    ) -> None:  # fmt: skip
        self._record(x, y, z, stream, function, arguments)

    def _record(self, x: int, y: int, z: int, stream: int, function: Any, arguments: tuple[Any, ...]) -> None:
        gpu = self._gpu
        assert stream == gpu.get_current_stream(gpu.current()), "launched on a stream of another device"
        gpu.launches.append(Launch(function.name, gpu.current(), function.device, (x, y, z), arguments))


@contextmanager
def fake_gpu() -> Iterator[FakeGpu]:
    """Triton's active driver is a `FakeGpu` inside the block."""
    from triton.runtime.driver import driver

    gpu = FakeGpu()
    before = driver._active
    driver.set_active(gpu)
    try:
        yield gpu
    finally:
        driver._active = before
        # Newer releases unload a module when its kernel goes, by the driver that is active then: there is none.
        for found in gc.get_objects():
            if type(found).__name__ == "CompiledKernel":
                found.module = None


def host_of(gpu: FakeGpu) -> Any:
    """The launcher's runtime calls, answered by `gpu`."""
    from hardpoint.launcher.triton import TritonHost

    return TritonHost("cuda", gpu.current, gpu.exchange, gpu.get_current_stream, lambda: DEVICES, lambda: gpu.capturing)

"""Devices with a fault, and devices that are different and right."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from hardpoint.backend import Backend
from hardpoint.conformance.mutant import LegalVariant, Mutant
from hardpoint.conformance.mutants import _proxy


def _global_current(backend: Backend) -> Backend:
    shared = {"current": 0}

    @contextlib.contextmanager
    def use(index: int) -> Iterator[None]:
        before = shared["current"]
        with backend.device.use(index):
            shared["current"] = index
            try:
                yield
            finally:
                shared["current"] = before

    return _proxy.device(backend, use=use, current=lambda: shared["current"])


global_current = Mutant(
    "device.global-current",
    "device.current-is-per-thread",
    "device",
    "The current device is one for the process instead of one per thread.",
    _global_current,
)


def _inherited_current(backend: Backend) -> Backend:
    # What a thread pool does that copies its parent's device into each worker.
    last: list[int] = [0]

    @contextlib.contextmanager
    def use(index: int) -> Iterator[None]:
        with backend.device.use(index):
            last[0] = index
            yield

    def current() -> int:
        found = backend.device.current()
        return last[0] if found == 0 and threading.current_thread().name.endswith("helper") else found

    return _proxy.device(backend, use=use, current=current)


inherited_current = Mutant(
    "device.inherited-current",
    "device.current-is-per-thread",
    "device",
    "A new thread starts with the device that its parent uses.",
    _inherited_current,
)


def _not_restored_after_exception(backend: Backend) -> Backend:
    left: dict[str, int | None] = {"current": None}

    @contextlib.contextmanager
    def use(index: int) -> Iterator[None]:
        before = left["current"]
        with backend.device.use(index):
            left["current"] = index
            yield  # no try/finally: an exception leaves the device behind
            left["current"] = before

    def current() -> int:
        return backend.device.current() if left["current"] is None else left["current"]

    return _proxy.device(backend, use=use, current=current)


not_restored_after_exception = Mutant(
    "device.not-restored-after-exception",
    "device.current-is-restored",
    "device",
    "`use` gives the device before back only when its block ends without an exception.",
    _not_restored_after_exception,
)


def _restores_device_zero(backend: Backend) -> Backend:
    state = {"current": 0}

    @contextlib.contextmanager
    def use(index: int) -> Iterator[None]:
        with backend.device.use(index):
            state["current"] = index
            try:
                yield
            finally:
                state["current"] = 0

    return _proxy.device(backend, use=use, current=lambda: state["current"])


restores_device_zero = Mutant(
    "device.restores-device-zero",
    "device.current-is-restored",
    "device",
    "`use` sets device 0 on exit instead of the device that was current before.",
    _restores_device_zero,
)


def _wraps_bad_index(backend: Backend) -> Backend:
    return _proxy.device(backend, use=lambda index: backend.device.use(index % backend.device.count()))


wraps_bad_index = Mutant(
    "device.wraps-bad-index",
    "device.bad-index-is-refused",
    "device",
    "An index that names no device is taken modulo the number of devices.",
    _wraps_bad_index,
)


def _bad_stream_index_means_zero(backend: Backend) -> Backend:
    def stream(index: int | None = None) -> Any:
        known = index is None or 0 <= index < backend.device.count()
        return backend.device.stream(index if known else 0)

    return _proxy.device(backend, stream=stream)


bad_stream_index_means_zero = Mutant(
    "device.bad-stream-index-means-zero",
    "device.bad-index-is-refused",
    "device",
    "A stream of a device that does not exist silently is a stream of device 0.",
    _bad_stream_index_means_zero,
)


def _none_means_zero(backend: Backend) -> Backend:
    return _proxy.device(
        backend, torch_device=lambda index=None: backend.device.torch_device(0 if index is None else index)
    )


none_means_zero = Mutant(
    "device.none-means-zero",
    "device.none-means-current",
    "device",
    "Without an index, `torch_device` names device 0 instead of the current device.",
    _none_means_zero,
)


def _ignores_index(backend: Backend) -> Backend:
    def torch_device(index: int | None = None) -> torch.device:
        backend.device.torch_device(index)  # a bad index is refused as before
        return backend.device.torch_device()

    return _proxy.device(backend, torch_device=torch_device)


ignores_index = Mutant(
    "device.ignores-index",
    "device.memory-lands-where-asked",
    "device",
    "`torch_device(i)` names the current device, so that memory asked for on device i lands on another one.",
    _ignores_index,
)

one_device_for_all = Mutant(
    "device.one-device-for-all",
    "device.devices-do-not-share-memory",
    "device",
    "Every index names the torch device 0: all devices share one memory.",
    lambda backend: _proxy.device(backend, torch_device=lambda index=None: backend.device.torch_device(0)),
)

count_off_by_one = Mutant(
    "device.count-off-by-one",
    "device.names-its-devices",
    "device",
    "`count` includes a device that cannot be named.",
    lambda backend: _proxy.device(
        backend,
        count=lambda: backend.device.count() + 1,
        # The machinery describes every device that is counted; only the name is refused.
        identity=lambda index=None: replace(backend.device.identity(0), logical=index or 0),
        memory=lambda index=None: backend.device.memory(0),
    ),
)

synchronize_does_nothing = Mutant(
    "device.synchronize-does-nothing",
    "device.synchronize-waits-for-all-streams",
    "device",
    "`synchronize` returns at once.",
    lambda backend: _proxy.device(backend, synchronize=lambda index=None: backend.device.torch_device(index) and None),
)

synchronize_waits_for_current_stream = Mutant(
    "device.synchronize-waits-for-current-stream",
    "device.synchronize-waits-for-all-streams",
    "device",
    "`synchronize` waits for the current stream alone, not for the others of the device.",
    lambda backend: _proxy.device(
        backend, synchronize=lambda index=None: backend.device.current_stream(index).synchronize()
    ),
)


def _synchronize_other_device(backend: Backend) -> Backend:
    def synchronize(index: int | None = None) -> None:
        backend.device.identity(index)
        backend.device.synchronize()  # the current device, whatever was asked

    return _proxy.device(backend, synchronize=synchronize)


synchronize_current_device_only = Mutant(
    "device.synchronize-current-device-only",
    "device.synchronize-waits-for-all-streams",
    "device",
    "`synchronize(i)` waits for the current device instead of device i.",
    _synchronize_other_device,
)

memory_in_kibibytes = Mutant(
    "device.memory-in-kibibytes",
    "device.memory-adds-up",
    "device",
    "`memory` answers in KiB instead of bytes.",
    lambda backend: _proxy.device(backend, memory=lambda index=None: _scaled(backend.device.memory(index))),
)


def _scaled(memory: Any) -> Any:
    return replace(
        memory,
        free=memory.free // 1024,
        total=memory.total // 1024,
        allocated=memory.allocated // 1024,
        reserved=memory.reserved // 1024,
    )


free_is_allocated = Mutant(
    "device.memory-never-changes",
    "device.memory-adds-up",
    "device",
    "`memory` answers what was true when the backend was made.",
    lambda backend: (lambda first: _proxy.device(backend, memory=lambda index=None: _known(backend, first, index)))(
        backend.device.memory(0)
    ),
)


def _known(backend: Backend, first: Any, index: int | None) -> Any:
    backend.device.identity(index)
    return first


class _NarrowCopies(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        copied = func in (torch.Tensor.to, torch.Tensor.cpu) and isinstance(result, torch.Tensor)
        return result.float().double() if copied and result.dtype == torch.float64 else result


def _narrows_copies(backend: Backend) -> Backend:
    # Copies are torch's, not a part's. The mode is per thread, and a law has a thread of its own: it ends with the law.
    entered = threading.local()

    def torch_device(index: int | None = None) -> torch.device:
        if not hasattr(entered, "mode"):
            entered.mode = _NarrowCopies()
            entered.mode.__enter__()
        return backend.device.torch_device(index)

    return _proxy.device(backend, torch_device=torch_device)


narrows_copies = Mutant(
    "device.narrows-copies",
    "device.copies-carry-every-bit",
    "device",
    "Copies of 64-bit floats go through 32 bits without a word.",
    _narrows_copies,
)


def _cache_poisons_live_memory(backend: Backend) -> Backend:
    return _proxy.device(backend, empty_cache=lambda: _overwrite_live(backend))


def _overwrite_live(backend: Backend) -> None:
    import gc

    for found in gc.get_objects():
        if type(found).__name__ != "Parameter" and isinstance(found, torch.Tensor) and found.device.type != "cpu":
            found.zero_()


empty_cache_frees_live_memory = Mutant(
    "device.empty-cache-frees-live-memory",
    "device.empty-cache-keeps-live-memory",
    "device",
    "`empty_cache` takes memory that a live tensor stands on.",
    _cache_poisons_live_memory,
)

identity_of_first = Mutant(
    "device.identity-of-first",
    "device.identity-is-stable",
    "device",
    "Every device has the identity of device 0.",
    lambda backend: _proxy.device(
        backend, identity=lambda index=None: replace(backend.device.identity(index), physical="0", uuid=None)
    ),
)

stale_visibility = Mutant(
    "device.stale-visibility",
    "device.identity-is-stable",
    "device",
    "The visibility variable is reported with a value that it does not have.",
    lambda backend: _proxy.device(
        backend,
        identity=lambda index=None: replace(
            backend.device.identity(index), visibility_variable="HARDPOINT_TEST_VISIBLE", visibility_value="3,2"
        ),
    ),
)


def _extra_synchronisation(backend: Backend) -> Backend:
    @contextlib.contextmanager
    def use(index: int) -> Iterator[None]:
        with backend.device.use(index):
            backend.device.synchronize(index)
            yield

    return _proxy.device(backend, use=use)


extra_synchronisation = LegalVariant(
    "device.synchronizes-on-use",
    "device",
    "`use` waits for the device that it makes current: slow, and right.",
    _extra_synchronisation,
    parts=("device", "streams"),
)

unknown_identity = LegalVariant(
    "device.knows-no-identity",
    "device",
    "A vendor that gives neither a physical index nor a uuid may say so.",
    lambda backend: _proxy.device(
        backend, identity=lambda index=None: replace(backend.device.identity(index), physical=None, uuid=None)
    ),
)

reserves_all = LegalVariant(
    "device.reserves-all-memory",
    "device",
    "An allocator that takes the whole device at once reports all of it as reserved.",
    lambda backend: _proxy.device(
        backend,
        memory=lambda index=None: replace(
            backend.device.memory(index), free=0, reserved=backend.device.memory(index).total
        ),
    ),
)

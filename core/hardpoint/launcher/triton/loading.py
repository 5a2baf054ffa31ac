"""Compiling a kernel and loading it on the current device; what can go wrong, as sentences."""

from __future__ import annotations

import copy
from typing import Any

from hardpoint.errors import LaunchRefused
from hardpoint.launcher.triton.kernel import Layers


def compiled_form(layers: Layers, bound: dict[str, Any], options: dict[str, Any], text: str) -> Any:
    """The compiled kernel for these arguments on the current device: from Triton's memory, its disk cache, or made now.

    Raises LaunchRefused naming kernel and specialisation if it does not compile, if an option is unknown, or if
    Triton's cache directory cannot be used.
    """
    try:
        compiled = layers.jit.warmup(*bound.values(), grid=(1,), **options)
        # AsyncCompileMode gives a promise instead of the kernel.
        return compiled.result() if hasattr(compiled, "result") else compiled
    except OSError as error:
        raise LaunchRefused(
            f"{layers.name} cannot be compiled: Triton's cache directory {_cache_directory()} cannot be used"
            f" ({error}): "
            "make it writable or set TRITON_CACHE_DIR to one that is; nothing was launched."
        ) from error
    except Exception as error:
        raise LaunchRefused(
            f"{layers.name} does not compile for {text}: {type(error).__name__}: {error}; nothing was launched."
        ) from error


def load(layers: Layers, compiled: Any, place: str, text: str) -> None:
    """Load on the current device; nothing happens if it is loaded.

    Raises LaunchRefused naming kernel, device and specialisation where the device or its driver cannot take it: too
    much shared memory, too many threads, a driver that lacks what the kernel needs.
    """
    try:
        compiled._init_handles()
    except Exception as error:
        raise LaunchRefused(
            f"{layers.name} compiled for {text} cannot be loaded on {place}: {type(error).__name__}: {error}; nothing "
            "was launched."
        ) from error


def from_another_device(layers: Layers, other: int, device: int, compiled_there: Any) -> Any | None:
    """What `compiled_there` on `other` becomes on `device`: the same code without a handle, made known to Triton.

    Reading the disk cache costs 3 ms for each kernel and device (H100 host, Triton 3.6), a copy next to nothing. A
    module belongs to the device it was loaded on, so the copy begins unloaded. None if the devices are unlike.
    """
    caches = layers.jit.device_caches
    cache, target = caches[other][0], caches[other][2]
    key = next((key for key, kernel in cache.items() if kernel is compiled_there), None)
    if key is None or target != caches[device][2]:
        return None
    if key not in caches[device][0]:
        fresh = copy.copy(compiled_there)
        fresh.module = fresh.function = fresh._run = None
        caches[device][0][key] = fresh
    return caches[device][0][key]


def share_binder(layers: Layers, device: int) -> None:
    """Give `device` the argument binder that another device of the same kind has, in place of generating one.

    Triton generates a binder for each kernel and device; it depends on the kernel and on what is compiled for alone.
    """
    caches = layers.jit.device_caches
    if device in caches or not caches:
        return
    from triton.runtime.driver import driver

    target = driver.active.get_current_target()
    for _, _, of, *rest in list(caches.values()):
        if of == target:
            caches[device] = ({}, {}, of, *rest)
            return


def _cache_directory() -> str:
    from triton import knobs

    return str(knobs.cache.dir)

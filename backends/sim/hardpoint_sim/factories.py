"""``torch.empty(..., device="sim:1")`` and the other operations that make a tensor out of numbers.

They have no tensor argument, so they reach torch's PrivateUse1 dispatch key and not `SimTensor.__torch_dispatch__`.
"""

from __future__ import annotations

import functools
from typing import Any

import torch

from hardpoint_sim import active, copies
from hardpoint_sim.dispatch import compute
from hardpoint_sim.tensor import allocate

_EMPTY = ("empty.memory_format", "empty_strided")
# torch composes the rest (zeros, ones, full, rand, randn, randint ...) of `empty` and an in-place operation.
_COMPUTED = (
    "arange",
    "arange.start",
    "arange.start_step",
    "eye",
    "eye.m",
    "linspace",
    "logspace",
    "randperm",
    "range",
    "range.step",
    "tril_indices",
    "triu_indices",
)


def register() -> Any:
    """Register the kernels; the caller keeps the library alive, since torch drops them with it."""
    library: Any = torch.library.Library("aten", "IMPL")  # type: ignore[no-untyped-call]
    for name in _EMPTY:
        library.impl(name, functools.partial(_empty, _overload(name)), "PrivateUse1")
    for name in _COMPUTED:
        library.impl(name, functools.partial(_computed, _overload(name)), "PrivateUse1")
    # torch.tensor(...) copies its values with the Python key switched off, so `SimTensor` never sees that copy.
    library.impl("_copy_from", _copy_from, "PrivateUse1")
    return library


def _overload(name: str) -> Any:
    packet, _, overload = name.partition(".")
    return getattr(getattr(torch.ops.aten, packet), overload or "default")


def _index(device: Any) -> int:
    engine = active.engine()
    index = None if device is None else torch.device(device).index
    return engine.current() if index is None else engine.state(index).index


def _empty(func: Any, *args: Any, device: Any = None, **kwargs: Any) -> torch.Tensor:
    with torch.inference_mode(False):
        kwargs.pop("pin_memory", None)
        like = func(*args, **kwargs, device=torch.device("meta"))
        return allocate(active.engine(), _index(device), like, str(func))


def _computed(func: Any, *args: Any, device: Any = None, **kwargs: Any) -> Any:
    with torch.inference_mode(False):
        kwargs.pop("pin_memory", None)
        return compute(active.engine(), _index(device), func, args, {**kwargs, "device": device})


def _copy_from(source: torch.Tensor, target: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
    with torch.inference_mode(False):
        return copies.copy_(target, source, non_blocking)

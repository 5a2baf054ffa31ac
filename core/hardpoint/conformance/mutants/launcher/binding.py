"""Bound calls with a fault."""

from __future__ import annotations

from typing import Any

from hardpoint.conformance.mutants._launch import (
    Plain,
    mapped,
)
from hardpoint.conformance.mutants.launcher._plant import plant
from hardpoint.launcher.arguments import named_arguments, tensors_of
from hardpoint.launcher.protocol import BoundKernel


class _BoundKeepsTensors(Plain):
    def bind(self, kernel: Any, *args: Any, **kwargs: Any) -> BoundKernel:
        bound = super().bind(kernel, *args, **kwargs)
        return lambda *_, **__: bound(*args, **kwargs)


bound_keeps_tensors = plant(
    "bound-call-keeps-tensors",
    "bound-calls-fit-or-refuse",
    "A bound call works on the tensors that it was bound with, whatever it is called with.",
    _BoundKeepsTensors,
)


class _BoundKeepsNumbers(Plain):
    def bind(self, kernel: Any, *args: Any, **kwargs: Any) -> BoundKernel:
        bound = super().bind(kernel, *args, **kwargs)

        def stale(*now: Any, **named: Any) -> None:
            bound(*(old if isinstance(old, float) else new for old, new in zip(args, now, strict=False)), **named)

        return stale


bound_keeps_numbers = plant(
    "bound-call-keeps-numbers",
    "bound-calls-fit-or-refuse",
    "A bound call takes new tensors and goes on with the numbers that it was bound with.",
    _BoundKeepsNumbers,
)


class _BoundReinterprets(Plain):
    def bind(self, kernel: Any, *args: Any, **kwargs: Any) -> BoundKernel:
        super().bind(kernel, *args, **kwargs)
        call = self._check(kernel, args, kwargs)
        dtypes = {tensor.dtype for _, tensor in tensors_of(named_arguments(kernel, args, kwargs))}

        def direct(*args: Any, **kwargs: Any) -> None:
            found = self._check(kernel, args, kwargs)
            with self._device.use(found.device):
                one = next(iter(dtypes))
                self.run(call, mapped(args, lambda t: t.view(one)), mapped(kwargs, lambda t: t.view(one)))

        return direct


bound_reinterprets = plant(
    "bound-call-reinterprets",
    "bound-calls-fit-or-refuse",
    "A bound call reads memory of another dtype as the one that it was bound for.",
    _BoundReinterprets,
)


class _BoundIgnoresNames(Plain):
    def bind(self, kernel: Any, *args: Any, **kwargs: Any) -> BoundKernel:
        bound = super().bind(kernel, *args, **kwargs)
        return lambda *args, **kwargs: bound(*args, *kwargs.values())


bound_ignores_names = plant(
    "bound-call-ignores-names",
    "bound-calls-fit-or-refuse",
    "A bound call takes arguments given by name in the order in which they were written.",
    _BoundIgnoresNames,
)


class _BindLaunches(Plain):
    def bind(self, kernel: Any, *args: Any, **kwargs: Any) -> BoundKernel:
        bound = super().bind(kernel, *args, **kwargs)
        bound(*args, **kwargs)
        return bound


bind_launches = plant(
    "bind-launches", "bound-calls-fit-or-refuse", "Bind launches the kernel once to get it compiled.", _BindLaunches
)

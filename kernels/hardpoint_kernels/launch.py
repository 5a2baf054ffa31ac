"""How kernels of this package are launched: by whatever object the caller hands in, Triton's own way by default."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol


class Launcher(Protocol):
    """What `hardpoint`'s kernel launcher offers, as far as it is used here; this package does not import it."""

    def bind(self, kernel: Any, *args: Any, **kwargs: Any) -> Callable[..., None]:
        """The direct call for a kernel and arguments of this kind; each later call takes the same arguments."""
        ...


class PlainLauncher:
    """``kernel[grid](...)`` and nothing else: 25 to 50 us on the host per launch; a bound launch takes 8 to 11."""

    def bind(self, kernel: Any, *args: Any, grid: Any = None, **kwargs: Any) -> Callable[..., None]:
        def call(*again: Any, grid: Any = grid, **named: Any) -> None:
            kernel[grid](*again, **{**kwargs, **named})

        return call


PLAIN = PlainLauncher()


class Binding:
    """One kernel bound once per key; the key is whatever makes two calls alike to the caller.

    The bound call of a real launcher checks dtypes, alignment and device itself, so that a key that is too coarse costs
    time and not correctness.
    """

    def __init__(self, kernel: Any, launcher: Launcher = PLAIN) -> None:
        self._kernel = kernel
        self._launcher = launcher
        self._bound: dict[Any, Callable[..., None]] = {}

    def __call__(self, key: Any, grid: tuple[int, ...], args: tuple[Any, ...], constants: dict[str, Any]) -> None:
        """Launch on `grid`; `constants` are the constexpr parameters and options that belong to `key`."""
        self.bound(key, grid, args, constants)(*args, grid=grid)

    def bound(
        self, key: Any, grid: tuple[int, ...], args: tuple[Any, ...], constants: dict[str, Any]
    ) -> Callable[..., None]:
        """The bound call for `key`, which takes arguments like `args` and a grid."""
        found = self._bound.get(key)
        if found is None:
            found = self._bound[key] = self._launcher.bind(self._kernel, *args, grid=grid, **constants)
        return found

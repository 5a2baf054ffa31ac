"""`KernelLauncher`: bind, launch, preload, explain. The device comes from the tensor arguments, never from the thread.

Laws: a launch runs on the device of its tensors and leaves the caller's current device as it was; tensors on different
devices, or a host tensor among device tensors, are refused by argument name before anything runs; inside a graph
capture a kernel that is not loaded on that device is an error that names kernel, specialisation and the preload call,
and is never skipped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable


@dataclass(frozen=True)
class KernelOffer:
    """A kernel that a plugin offers for an op: where it comes from, and the function to launch."""

    op: str
    provider: str
    function: Callable[..., Any]
    note: str = ""


@dataclass(frozen=True)
class Refusal:
    """Why a plugin does not offer a kernel: a sentence such as "requires head size 128, got 64"."""

    op: str
    provider: str
    reason: str


@dataclass(frozen=True)
class LaunchPlan:
    """What a launch would do, or why it would be refused.

    Attributes:
        kernel: name of the kernel.
        device: torch device string that it would run on, None if refused.
        specialisation: what the compiled form depends on, as text.
        loaded: the compiled form is loaded on that device.
        refusal: a sentence, None if the launch would go ahead.
    """

    kernel: str
    device: str | None
    specialisation: str
    loaded: bool
    refusal: str | None


class BoundKernel(Protocol):
    """A kernel bound to a device and a specialisation; calling it launches with arguments of the same kind."""

    def __call__(self, *args: Any, **kwargs: Any) -> None: ...


@runtime_checkable
class KernelLauncher(Protocol):
    """Launches kernels: what the backend compiles, a Triton function, or a Python function on sim and cpu."""

    def bind(self, kernel: Any, *args: Any, **kwargs: Any) -> BoundKernel:
        """Compile and load for the device and specialisation of these arguments, and return the direct call."""
        ...

    def launch(self, kernel: Any, *args: Any, **kwargs: Any) -> None:
        """Check, then launch. Raises LaunchRefused with a sentence; then nothing was launched."""
        ...

    def preload(self, kernel: Any, *args: Any, devices: Sequence[int] | None = None, **kwargs: Any) -> None:
        """Compile and load on every device in `devices` (None: the one of the arguments) without launching."""
        ...

    def explain(self, kernel: Any, *args: Any, **kwargs: Any) -> LaunchPlan:
        """What `launch` would do with these arguments; runs nothing."""
        ...

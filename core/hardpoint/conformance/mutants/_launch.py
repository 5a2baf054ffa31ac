"""A launcher in small steps, each of which a planted fault can replace, and a place beside streams and captures."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch

from hardpoint.backend import Backend
from hardpoint.launcher.arguments import device_of, kernel_name, named_arguments, refuse_wrong_dtypes, tensors_of
from hardpoint.launcher.python_kernel import facts_of
from hardpoint.launcher.python_launcher import PythonLauncher, _Call
from hardpoint.launcher.specialisation import Specialisation, specialise

T = TypeVar("T")
Arguments = dict[str, Any]


class Plain(PythonLauncher):
    """Core's launcher over the backend's own torch operations. Right as it stands; faults override one step.

    Its kernels start as a vendor's driver starts them, which reads no pointer of a device that is not current.
    """

    def __init__(self, backend: Backend) -> None:
        super().__init__(backend.device, backend.graphs.capturing)
        self.backend = backend

    def place(self, name: str, arguments: Arguments) -> int:
        """Device of the launch."""
        return device_of(name, arguments, self._device.type)

    def dtypes(self, kernel: Any, arguments: Arguments) -> None:
        """Refuse dtypes that the kernel does not declare."""
        refuse_wrong_dtypes(kernel_name(kernel), arguments, facts_of(kernel))

    def key(self, kernel: Any, arguments: Arguments) -> Specialisation:
        """What the compiled form depends on."""
        return specialise(arguments, constants=facts_of(kernel).constants)

    def run(self, call: _Call, args: tuple[Any, ...], kwargs: Arguments) -> None:
        """Start the kernel; the device of the launch is current."""
        start(self.backend, call.kernel, args, kwargs)

    def launch(self, kernel: Any, *args: Any, **kwargs: Any) -> None:
        call = self._check(kernel, args, kwargs)
        with self._device.use(call.device):
            self._load(call)
            self.run(call, args, kwargs)

    def _check(self, kernel: Any, args: tuple[Any, ...], kwargs: Arguments) -> _Call:
        arguments = named_arguments(kernel, args, kwargs)
        index = self.place(kernel_name(kernel), arguments)
        self.dtypes(kernel, arguments)
        return _Call(kernel, index, self.key(kernel, arguments))


def start(backend: Backend, kernel: Any, args: tuple[Any, ...], kwargs: Arguments) -> None:
    """Run the kernel in the current stream. ValueError, in Triton's words, for a pointer of another device."""
    current = backend.device.current()
    for position, (_, tensor) in enumerate(tensors_of(named_arguments(kernel, args, kwargs))):
        if (tensor.device.index or 0) != current:
            raise ValueError(f"Pointer argument (at {position}) cannot be accessed from Triton (cpu tensor?)")
    kernel(*args, **kwargs)


def aside(backend: Backend, index: int, work: Callable[[], T], *, wait: bool = True) -> T:
    """Do `work` on device `index` in a thread of its own: outside the caller's streams and captures.

    With `wait` the device is waited for as well.
    """
    result: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            with backend.device.use(index):
                result.append(work())
                if wait:
                    backend.device.synchronize(index)
        except BaseException as error:  # noqa: BLE001 - raised again where it belongs
            errors.append(error)

    thread = threading.Thread(target=run, name="aside", daemon=True)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return result[0]


def default_stream(backend: Backend, index: int) -> Any:
    """The stream that a thread which chose none works on."""
    return aside(backend, index, lambda: backend.device.current_stream(index), wait=False)


def mapped(value: Any, change: Callable[[torch.Tensor], Any]) -> Any:
    """`value` with every tensor in it changed, also inside lists, tuples and dicts."""
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, (list, tuple)):
        return type(value)(mapped(item, change) for item in value)
    if isinstance(value, dict):
        return {key: mapped(item, change) for key, item in value.items()}
    return value


@contextlib.contextmanager
def left_current(backend: Backend, index: int, kept: list[Any], when: Callable[[bool], bool]) -> Iterator[None]:
    """`use(index)` that is not undone where `when(failed)`; `kept` holds what would undo it when collected."""
    entered = backend.device.use(index)
    entered.__enter__()
    failed = True
    try:
        yield
        failed = False
    finally:
        if when(failed):
            kept.append(entered)
        else:
            entered.__exit__(None, None, None)

"""Launching through ``kernel[grid]`` and nothing else: for Triton releases whose internals are unknown, and for the
interpreter. Slower, and held to the same rules: what is loaded where is counted here, since Triton is not asked.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch

from hardpoint.errors import CaptureRefused, LaunchRefused
from hardpoint.launcher.specialisation import Specialisation, specialise
from hardpoint.launcher.triton.arguments import options_of
from hardpoint.launcher.triton.host import TritonHost
from hardpoint.launcher.triton.kernel import Layers


class PlainLaunches:
    """Launches of one `TritonLauncher` by Triton's public door; every call runs under the device of the launch."""

    def __init__(self, host: TritonHost) -> None:
        self._host = host
        self._loaded: set[tuple[int, int, Specialisation]] = set()

    def launch(
        self,
        layers: Layers,
        kernel: Any,
        arguments: dict[str, Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        grid: Any,
    ) -> None:
        """``kernel[grid](*args, **kwargs)``. CaptureRefused for a form not launched or preloaded here before."""
        if layers.interpreted:
            refuse_what_the_interpreter_gets_wrong(layers, arguments)
        key = self._key(layers, arguments, kwargs)
        if key not in self._loaded and self._host.capturing():
            raise CaptureRefused(cold_in_capture(layers, self._host, key[1], str(key[2])))
        kernel[grid](*args, **kwargs)
        self._loaded.add(key)

    def load(
        self, layers: Layers, kernel: Any, arguments: dict[str, Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        """Compile and load on the current device. LaunchRefused if it cannot be."""
        key = self._key(layers, arguments, kwargs)
        if key in self._loaded:
            return
        if self._host.capturing():
            raise CaptureRefused(cold_in_capture(layers, self._host, key[1], str(key[2])))
        if not layers.interpreted:
            try:
                made = kernel.warmup(*args, grid=(1,), **kwargs)
                for compiled in made if isinstance(made, list) else [made]:
                    compiled[
                        (1, 1, 1)
                    ]  # the runner of a compiled kernel; making it loads the kernel, calling it launches
            except Exception as error:
                raise LaunchRefused(
                    f"{layers.name} cannot be compiled and loaded on {self._host.type}:{key[1]} for {key[2]}: "
                    f"{type(error).__name__}: {error}; nothing was launched."
                ) from error
        self._loaded.add(key)

    def specialisation(
        self, layers: Layers, arguments: dict[str, Any], kwargs: dict[str, Any]
    ) -> tuple[Specialisation, bool]:
        """What a launch would need, and whether it is loaded on the current device."""
        key = self._key(layers, arguments, kwargs)
        return key[2], key in self._loaded

    def _key(
        self, layers: Layers, arguments: dict[str, Any], kwargs: dict[str, Any]
    ) -> tuple[int, int, Specialisation]:
        constants = [parameter.name for parameter in layers.parameters if "constexpr" in str(parameter.annotation)]
        form = specialise(arguments, constants=constants, options=options_of(layers, kwargs))
        return id(layers.jit), self._host.current(), form


def cold_in_capture(layers: Layers, host: TritonHost, device: int, text: str) -> str:
    """The sentence for a kernel that is not loaded where a graph is being captured."""
    short = layers.name.rpartition(".")[2]
    return (
        f"{layers.name} is not loaded on {host.type}:{device} for {text}, and a graph is being captured. "
        "Loading now is refused by some drivers, and leaving the kernel out would record a wrong graph: call "
        f"launcher.preload({short}, <the same arguments>, devices=[{device}]) before the capture."
    )


def refuse_what_the_interpreter_gets_wrong(layers: Layers, arguments: dict[str, Any]) -> None:
    """Refuse ``tl.dot`` over bf16 tensors: Triton's interpreter (3.6 to 3.9) multiplies their bit patterns.

    It stores bf16 as uint16, and `create_dot` does not know: the error is of the order of 1e9, and nothing says so.
    """
    half = [name for name, value in arguments.items() if getattr(value, "dtype", None) is torch.bfloat16]
    if half and ".dot(" in inspect.getsource(layers.jit.fn):
        raise LaunchRefused(
            f"{layers.name} uses tl.dot, and {', '.join(half)} {'is' if len(half) == 1 else 'are'} bf16: Triton's "
            "interpreter multiplies bf16 bit patterns there and gives wrong numbers without a word. Test it with "
            "float16 or float32 tensors; nothing was launched."
        )

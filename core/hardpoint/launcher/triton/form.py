"""A compiled form, loaded on one device, and the two ways to enter it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hardpoint.launcher.triton.generate import DirectLaunch, direct_call, three
from hardpoint.launcher.triton.guards import Guard
from hardpoint.launcher.triton.host import TritonHost
from hardpoint.launcher.triton.kernel import Layers, heuristics_of, tuned_names


@dataclass(frozen=True)
class Form:
    """A compiled form on a device.

    It holds the compiled kernel for good: Triton 3.7 and newer unload a module with its last handle, and a module that
    goes away while a graph is being captured kills the capture (sglang#35427).

    Attributes:
        layers: the kernel.
        compiled: Triton's compiled kernel, loaded.
        device: index it is loaded on.
        specialisation: for people.
        guards: one per parameter.
        options: launch options it was compiled with.
        bindable: the direct call may be used; else every launch goes through Triton.
        entry: how to enter it.
    """

    layers: Layers
    compiled: Any
    device: int
    specialisation: str
    guards: tuple[Guard, ...]
    options: dict[str, Any]
    bindable: bool
    entry: DirectLaunch

    def run(self, grid: tuple[int, ...], stream: int, values: tuple[Any, ...]) -> None:
        """Launch with arguments that are known to fit, by Triton's own launcher object, on the current device."""
        function, metadata = self.compiled.function, self.compiled.packed_metadata
        self.compiled.run(*three(grid), stream, function, metadata, None, None, None, *values)

    def direct(
        self,
        grid: tuple[int, ...] | None,
        host: TritonHost,
        miss: Callable[..., None],
        hooks: Any,
        *,
        keep_constants: bool,
    ) -> Callable[..., None]:
        """Generate the guarded direct call; with `keep_constants` a call may leave bound constants out."""
        heuristics = heuristics_of(self.layers.wrappers)
        omittable = set(heuristics) | tuned_names(self.layers)
        if keep_constants:
            omittable |= {guard.name for guard in self.guards if guard.kind == "constant"}
        return direct_call(
            self.layers.parameters,
            self.guards,
            self.device,
            None if grid is None else three(grid),
            self.entry,
            host,
            miss,
            hooks,
            heuristics,
            frozenset(omittable),
        )

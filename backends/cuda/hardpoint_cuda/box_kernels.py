"""`CudaBoxKernels`: core's `BoxKernels` by the Triton kernels of `hardpoint_kernels.layout`, through the launcher."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from hardpoint.launcher.triton import TritonLauncher

if TYPE_CHECKING:
    import torch

    from hardpoint.sync.stream import Launch
    from hardpoint_kernels.layout import Call

# Multiprocessors that a launch takes, of the 132 of an H100: enough for the pace of the wire; the kernels of NCCL need
# the rest. Measured by benchmarks/weight_sync.py.
PROGRAMS = 32
_ALL = 1 << 20  # as many as there are tiles


class CudaBoxKernels:
    """Tables on the device at `copy` and `digest`, one launch or a few afterwards, each on its tensors' device.

    Args:
        launcher: of the backend.
        programs: bound on the programs of a launch that is not alone on the device.
    """

    def __init__(self, launcher: TritonLauncher, programs: int = PROGRAMS) -> None:
        self._launcher = launcher
        self._programs = programs

    def copy(self, pairs: Sequence[tuple[torch.Tensor, torch.Tensor]], /, *, alone: bool = False) -> Launch:
        """See `BoxKernels.copy`."""
        from hardpoint_kernels.layout import copy_calls

        return self._bound(copy_calls(pairs, programs=_ALL if alone else self._programs))

    def digest(self, boxes: Sequence[tuple[int, torch.Tensor]], sums: torch.Tensor, nbytes: int, /) -> Launch:
        """See `BoxKernels.digest`."""
        from hardpoint.sync.digest import multipliers
        from hardpoint_kernels.layout import digest_calls

        factors = multipliers(sums.device)
        return self._bound(digest_calls(boxes, sums, nbytes, factors, programs=self._programs))

    def _bound(self, calls: Iterable[Call]) -> Launch:
        bound = [
            (self._launcher.bind(call.kernel, *call.args, grid=call.grid, **call.constants), call) for call in calls
        ]

        def launch() -> None:
            for direct, call in bound:
                direct(*call.args)

        return launch

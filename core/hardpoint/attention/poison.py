"""`poisoned_memory`: inside it every buffer that torch hands out uninitialised holds NaN, on any device.

For tests: whoever reads a row that nobody wrote then fails, instead of passing on what an allocator left. Only
allocations asked for from Python are seen, in the thread that entered it; those inside a compiled operator are not (a
backend's own `AttentionBuffers.poisoned()` and the simulator cover theirs).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from hardpoint.attention.reference import poison_value

_UNINITIALISED: frozenset[object] = frozenset(
    {
        torch.empty,
        torch.empty_like,
        torch.empty_strided,
        torch.empty_permuted,
        torch.Tensor.new_empty,
        torch.Tensor.new_empty_strided,
    }
)


class poisoned_memory(TorchFunctionMode):
    """``with poisoned_memory():`` what is empty is NaN (integers: their largest value; bool: True)."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        if func in _UNINITIALISED and isinstance(made, torch.Tensor) and made.device.type != "meta":
            made.fill_(poison_value(made.dtype))
        return made

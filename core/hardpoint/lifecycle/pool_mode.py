"""`PoolMode`: notice what a thread allocates inside a ``with`` block, on a device without pools of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class PoolMode(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves it untyped
    """Hand every tensor that an operation makes to `seen`; tensors that only come back from one are left out.

    Made outside of torch's dispatcher (``torch.from_numpy``, a C++ extension) they are not noticed.
    """

    def __init__(self, seen: Callable[[torch.Tensor], None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._seen = seen

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        before = {_storage(value) for value in tree_leaves((args, kwargs or {})) if isinstance(value, torch.Tensor)}
        for value in tree_leaves(result):
            if isinstance(value, torch.Tensor) and _storage(value) not in before:
                self._seen(value)
        return result


def _storage(tensor: torch.Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)

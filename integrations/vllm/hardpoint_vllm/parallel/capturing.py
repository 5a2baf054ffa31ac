"""Whether the current stream of this process's accelerator is being captured into a graph."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch


def capturing() -> bool:
    """False where there is no accelerator, or one that captures nothing."""
    return _question()()


@cache
def _question() -> Callable[[], bool]:
    accelerator = torch.accelerator.current_accelerator()
    module = getattr(torch, accelerator.type, None) if accelerator is not None else None
    asked: Callable[[], bool] = getattr(module, "is_current_stream_capturing", _never)
    return asked


def _never() -> bool:
    return False

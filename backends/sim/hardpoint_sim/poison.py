"""The value of memory that nobody wrote: NaN for floats, the largest value for integers, all bits set for the rest."""

from __future__ import annotations

import torch

_PACKED = {torch.float4_e2m1fn_x2}  # two values in a byte, no NaN, and no fill


def poison(tensor: torch.Tensor) -> None:
    """Overwrite a dense host tensor with the poison of its dtype."""
    dtype = tensor.dtype
    if tensor.numel() == 0:
        return
    if dtype in _PACKED:
        tensor.view(torch.uint8).fill_(0xFF)
    elif dtype == torch.bool:
        tensor.fill_(True)
    elif dtype.is_complex:
        tensor.fill_(complex("nan+nanj"))
    elif dtype.is_floating_point:
        tensor.fill_(float("nan"))
    else:
        tensor.fill_(torch.iinfo(dtype).max)

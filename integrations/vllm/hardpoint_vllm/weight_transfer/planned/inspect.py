"""NaN policy on what is staged: named by checkpoint tensor, not by the fused parameter that it is a part of."""

from __future__ import annotations

import torch

from hardpoint.errors import SyncError
from hardpoint.sync.plan import Destination, Part, Storages
from hardpoint_vllm.weight_transfer.finite import nonfinite

_SHOWN = 5


def refuse_nonfinite_staged(staged: Storages) -> None:
    """SyncError with the names of the checkpoint tensors that hold NaN or infinity, if there are any."""
    wrong = set(nonfinite(staged.named))
    if not wrong:
        return
    names = [
        name
        for of, tensor in zip(staged.destinations, staged.tensors, strict=True)
        if of.parameter in wrong
        for part in of.parts
        for box, name in enumerate(part.tensors)
        if nonfinite({"": _box_of(tensor, of, part, box)})
    ]
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    raise SyncError(
        f"NaN or infinity in {', '.join(names[:_SHOWN])}{more}. Mend the trainer, or set nonfinite to allow in "
        "init_info."
    )


def _box_of(tensor: torch.Tensor, of: Destination, part: Part, box: int) -> torch.Tensor:
    start = sum(low * stride for low, stride in zip(part.lows, of.strides, strict=True))
    start += box * part.sizes[0] * of.strides[0]
    return tensor.as_strided(part.sizes, of.strides, tensor.storage_offset() + start)

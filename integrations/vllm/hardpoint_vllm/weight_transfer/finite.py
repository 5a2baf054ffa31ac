"""No NaN or infinity reaches the live weights unless the trainer says that it is meant."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from hardpoint.errors import SyncError

_SHOWN = 5


def refuse_nonfinite(tensors: Mapping[str, torch.Tensor]) -> None:
    """SyncError with the names of the tensors that hold NaN or infinity, if there are any."""
    bad = nonfinite(tensors)
    if bad:
        more = f" and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else ""
        raise SyncError(
            f"NaN or infinity in {', '.join(bad[:_SHOWN])}{more}. Mend the trainer, or set nonfinite to allow in "
            "init_info."
        )


def nonfinite(tensors: Mapping[str, torch.Tensor]) -> list[str]:
    """Names of floating-point tensors with a value that is not finite. One pass over the data."""
    return [name for name, tensor in tensors.items() if tensor.is_floating_point() and not _finite(tensor)]


def _finite(tensor: torch.Tensor) -> bool:
    if tensor.element_size() == 1:  # float8: no arithmetic, so look at a wider copy, a slice at a time
        return all(bool(part.float().isfinite().all()) for part in torch.split(tensor.reshape(-1), 1 << 22))
    # A sum is finite only if all terms are; it may also overflow, so only then look at each.
    return bool(torch.isfinite(tensor.sum(dtype=torch.float32)).item()) or bool(torch.isfinite(tensor).all().item())

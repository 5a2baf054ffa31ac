"""Which tensor travels in place of another: dtypes that the native library lacks go as bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hardpoint.errors import CommunicatorError

if TYPE_CHECKING:
    import torch


def dtype_name(dtype: torch.dtype) -> str:
    """``torch.bfloat16`` -> ``"bfloat16"``, as in `Capabilities`."""
    return str(dtype).removeprefix("torch.")


def as_carried(tensor: torch.Tensor, carried: frozenset[str]) -> torch.Tensor:
    """`tensor` itself if the library carries its dtype, else the same storage as uint8, first axis kept.

    Shape ``[n, ...]`` becomes ``[n, bytes per row]``, so that rows stay rows; a scalar becomes its bytes.
    """
    import torch

    if dtype_name(tensor.dtype) in carried:
        return tensor
    if tensor.dim() == 0:
        return tensor.reshape(1).view(torch.uint8)
    rows = tensor.shape[0]
    row_bytes = 0 if tensor.numel() == 0 else tensor.nbytes // rows
    return tensor.reshape(-1).view(torch.uint8).reshape(rows, row_bytes)


def check_reducible(
    op: str, tensor: torch.Tensor, reduce_op: str, carried: frozenset[str], reduce_ops: frozenset[str], library: str
) -> None:
    """Refuse a reduction that the library cannot do: bytes cannot be added up.

    Raises:
        CommunicatorError: reduce op or dtype unknown to the library.
    """
    if reduce_op not in reduce_ops:
        raise CommunicatorError(
            f"{op} with op={reduce_op!r}: {library} offers {', '.join(sorted(reduce_ops))} here. Choose one of these."
        )
    name = dtype_name(tensor.dtype)
    if name not in carried or tensor.dtype.is_complex or name == "bool":
        raise CommunicatorError(
            f"{op} of dtype {name}: {library} does not reduce it, and bytes cannot be added up. "
            "Convert the tensor first, for example to float32."
        )
    if reduce_op == "avg" and not tensor.dtype.is_floating_point:
        raise CommunicatorError(
            f"{op} with op='avg' of dtype {name}: an average of integers is not an integer. "
            "Use op='sum' and divide, or convert to a floating dtype."
        )

"""Dtypes that may travel, by torch name. A table: a name from the wire selects nothing else in torch."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from hardpoint.errors import SyncError

if TYPE_CHECKING:
    import torch

# Bytes per element. Packed four-bit formats travel as the uint8 tensors that checkpoints keep them in.
ITEMSIZE = MappingProxyType(
    {
        "bool": 1,
        "uint8": 1,
        "int8": 1,
        "int16": 2,
        "int32": 4,
        "int64": 8,
        "float16": 2,
        "bfloat16": 2,
        "float32": 4,
        "float64": 8,
        "float8_e4m3fn": 1,
        "float8_e5m2": 1,
        "float8_e4m3fnuz": 1,
        "float8_e5m2fnuz": 1,
        "float8_e8m0fnu": 1,
    }
)


def dtype_name(dtype: torch.dtype) -> str:
    """``torch.bfloat16`` -> ``"bfloat16"``. SyncError if tensors of this dtype cannot be sent."""
    name = str(dtype).removeprefix("torch.")
    if name not in ITEMSIZE:
        raise SyncError(f"dtype {name} cannot be sent; known are {', '.join(ITEMSIZE)}. Convert the tensor first.")
    return name


def torch_dtype(name: str) -> torch.dtype:
    """``"bfloat16"`` -> ``torch.bfloat16``. SyncError for a name outside the table or one that this torch lacks."""
    import torch

    found = getattr(torch, name, None) if name in ITEMSIZE else None
    if not isinstance(found, torch.dtype):
        raise SyncError(f"dtype {name!r} is not one that this process (torch {torch.__version__}) can receive.")
    return found

"""What is claimed for the GPUs and the NCCL at hand."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from hardpoint import Capabilities
from hardpoint_cuda.nvml import Gpu, gpus

_FLOATS = frozenset({"float64", "float32", "float16"})
_INTEGERS = frozenset({"int64", "int32", "int16", "int8", "uint8", "bool"})
_AMPERE = (8, 0)  # the first with bf16 arithmetic; torch computes it in fp32 on older ones
_NCCL_WITH_AVG_AND_BF16 = (2, 10)


def read() -> Capabilities:
    """Facts of this machine. Creates no device context."""
    return claimed(gpus(), _nccl())


def claimed(every: Sequence[Gpu], nccl: tuple[int, ...]) -> Capabilities:
    """What holds on all of `every` (all of the machine: a backend has one set of claims) with this NCCL version.

    Where NVML says nothing about the GPUs, the claims are those of the oldest that this torch runs on.
    """
    bf16 = bool(every) and min(gpu.compute for gpu in every) >= _AMPERE
    new = nccl >= _NCCL_WITH_AVG_AND_BF16
    return Capabilities(
        dtypes=_FLOATS | _INTEGERS | ({"bfloat16"} if bf16 else set()),
        # torch/csrc/distributed/c10d/ProcessGroupNCCL.cpp, ncclDataType: int16 is absent there; float8 is sent as it
        # is from NCCL 2.24 and compute capability 9.0 on and refused elsewhere, so it travels as bytes.
        communication_dtypes=_FLOATS | {"int64", "int32", "int8", "uint8", "bool"} | ({"bfloat16"} if new else set()),
        reduce_ops=frozenset({"sum", "min", "max", "prod"} | ({"avg"} if new else set())),
        graph=True,
        sleep=False,
        streams=True,
    )


def _nccl() -> tuple[int, ...]:
    # torch.cuda.is_available() would initialise the driver, after which no fork may use CUDA.
    if not torch.distributed.is_available() or not torch.distributed.is_nccl_available():
        return ()
    found = torch.cuda.nccl.version()  # type: ignore[no-untyped-call]
    return tuple(found) if isinstance(found, tuple) else ()

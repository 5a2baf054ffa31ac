"""The host as a backend: `HostDevice`, gloo, and core's default parts for all else."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from hardpoint.backend import Backend, BackendInfo, Capabilities
from hardpoint.communicator import GLOO_DTYPES, GLOO_REDUCE_OPS, communicator_factory
from hardpoint.device import HostDevice
from hardpoint.errors import PluginError
from hardpoint_cpu.dp_rule import DP_RULE

# Arithmetic that torch 2.13 has kernels for on the CPU. float8: conversion and storage only, so not claimed.
_DTYPES = frozenset({"float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"})

CAPABILITIES = Capabilities(
    dtypes=_DTYPES,
    communication_dtypes=GLOO_DTYPES,
    reduce_ops=GLOO_REDUCE_OPS,
    ranks_share_device=True,
    # Pages go back to the system by madvise (core's `HostMemoryMap`), which is Linux's.
    sleep=sys.platform.startswith("linux"),
    extras={
        "compares_calls": "ranks compare op, shape, dtype and root of a collective before data moves",
        "all_to_all": "rows to every rank by counts of their own, gloo's alltoall_base; counts are compared too",
    },
)


def build(info: BackendInfo, options: Mapping[str, Any]) -> Backend:
    """The backend.

    Raises:
        PluginError: `options` is not empty; this backend has none.
    """
    if options:
        raise PluginError(
            f"Backend cpu takes no options, found {', '.join(f'{key}={value}' for key, value in options.items())}. "
            "Use HARDPOINT_BACKEND=cpu."
        )
    return Backend(
        info=info,
        device=HostDevice(),
        communicator=communicator_factory("cpu", CAPABILITIES),
        capabilities=CAPABILITIES,
        dp_rule=DP_RULE,
    )

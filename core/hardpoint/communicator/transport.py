"""A torch.distributed process group of its own: built on a store, never registered as a or the default group.

vLLM and trainers own the default group of their process, so `init_process_group` and `new_group` are not ours to call.
`dist.ProcessGroup` on a `PrefixStore` with a backend registered for the device type is what both of them make inside
(read in torch 2.13, distributed_c10d.py `_new_process_group_helper`; the names exist since 2.6).
"""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from hardpoint.errors import CommunicatorError

if TYPE_CHECKING:
    import torch
    import torch.distributed as dist
    from torch._C._distributed_c10d import Store

# What ProcessGroupGloo of torch 2.13 carries in every collective used here (tried one by one in
# tests/core/communicator/test_gloo_dtypes.py). int16, uint16..64, float8 and float4: "Invalid scalar type"; complex
# works in broadcast and all_reduce but not in all_gather, so it travels as bytes.
GLOO_DTYPES = frozenset({"float32", "float64", "float16", "bfloat16", "int8", "uint8", "int32", "int64", "bool"})
GLOO_REDUCE_OPS = frozenset({"sum", "avg", "min", "max", "prod"})

# The native watchdogs end the process when their own timeout passes (NCCL: TORCH_NCCL_ASYNC_ERROR_HANDLING). Ours
# breaks the communicator and names the ranks, and has to come first.
_NATIVE_TIMEOUT = timedelta(hours=24)


def native_library(device_type: str) -> str:
    """torch.distributed's name of the library for a device type: gloo, nccl, xccl, hccl ...

    Raises:
        CommunicatorError: torch knows none for this device type.
    """
    import torch.distributed as dist

    if not dist.is_available():
        raise CommunicatorError("This torch was built without torch.distributed; no communicator can be made with it.")
    library = str(dist.get_default_backend_for_device(device_type)).lower()
    if library in ("undefined", ""):
        raise CommunicatorError(
            f"torch.distributed has no backend for device type {device_type!r}; is the vendor's torch plugin imported?"
        )
    return library


def open_group(
    library: str, device: torch.device, store: Store, rank: int, world_size: int, timeout: float
) -> dist.ProcessGroup:
    """A process group for `device` over `library` on `store`; blocks until the ranks are connected (gloo).

    Raises:
        CommunicatorError: the library is not in this torch, or the ranks cannot connect to each other.
    """
    import torch.distributed as dist
    from torch._C._distributed_c10d import PrefixStore

    group = dist.ProcessGroup(store, rank, world_size)
    inner = PrefixStore(f"{device.type}/", store)
    try:
        backend, kind = _backend(library, inner, rank, world_size, timeout)
    except RuntimeError as error:
        raise CommunicatorError(
            f"{library}: rank {rank} of {world_size} could not connect to the others: {_first_line(error)} "
            "If the ranks are on several hosts, name the network interface (gloo: GLOO_SOCKET_IFNAME)."
        ) from error
    group._set_default_backend(kind)
    group._register_backend(device, kind, backend)
    if library == "nccl":
        _connect(backend, device, rank, world_size, timeout)
    return group


def _connect(backend: Any, device: torch.device, rank: int, world_size: int, timeout: float) -> None:
    """Connect now: NCCL would do it inside the first collective, where an absent rank blocks the host unwatched."""
    raised: list[BaseException] = []

    def work() -> None:
        try:
            backend.eager_connect_single_device(device)
        except RuntimeError as error:
            raised.append(error)

    thread = threading.Thread(target=work, name="nccl connect", daemon=True)
    thread.start()
    thread.join(timeout)
    if thread.is_alive():
        raise CommunicatorError(
            f"nccl: rank {rank} of {world_size} on {device} was not connected to the others within {timeout:g} s; a "
            "rank has died since it joined, or two ranks use one device, or the network does not carry NCCL "
            "(NCCL_DEBUG=INFO says more)."
        )
    if raised:
        raise CommunicatorError(
            f"nccl: rank {rank} of {world_size} could not connect on {device}: {_first_line(raised[0])} "
            "NCCL_DEBUG=INFO says more."
        ) from raised[0]


def _backend(library: str, store: Store, rank: int, size: int, timeout: float) -> tuple[Any, Any]:
    import torch.distributed as dist
    from torch.distributed import distributed_c10d as c10d

    kinds = dist.ProcessGroup.BackendType
    if library == "gloo":
        if not dist.is_gloo_available():
            raise CommunicatorError("This torch was built without gloo.")
        return dist.ProcessGroupGloo(store, rank, size, timeout=timedelta(seconds=timeout)), kinds.GLOO
    if library in ("nccl", "xccl"):
        made = getattr(c10d, f"ProcessGroup{library.upper()}", None)
        if made is None:
            raise CommunicatorError(f"This torch was built without {library}; install the build for your accelerator.")
        options = made.Options()
        options._timeout = _NATIVE_TIMEOUT
        return made(store, rank, size, options), getattr(kinds, library.upper())
    plugin = dist.Backend._plugins.get(library.upper())
    if plugin is None:
        raise CommunicatorError(
            f"torch.distributed has no backend named {library!r} in this process; "
            "import the vendor's torch plugin first."
        )
    if not plugin.extended_api:
        return plugin.creator_fn(store, rank, size, _NATIVE_TIMEOUT), kinds.CUSTOM
    extended: Any = c10d._DistributedBackendOptions()  # type: ignore[attr-defined]
    extended.store, extended.group_rank, extended.group_size = store, rank, size
    extended.timeout, extended.group_id, extended.global_ranks_in_group = _NATIVE_TIMEOUT, "", list(range(size))
    return plugin.creator_fn(extended, None), kinds.CUSTOM


def reduce_op(name: str) -> Any:
    """``"sum"`` -> ``dist.ReduceOp.SUM``."""
    import torch.distributed as dist

    return getattr(dist.ReduceOp, {"sum": "SUM", "avg": "AVG", "min": "MIN", "max": "MAX", "prod": "PRODUCT"}[name])


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") + "." if lines else type(error).__name__ + "."

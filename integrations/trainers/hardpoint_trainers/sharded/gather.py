"""Whole tensors, or some of their rows, out of the shards of a trainer's ranks.

Every function here is a collective over the mesh of the tensor: all its ranks call it, in one order. Layouts are those
of ``torch.distributed.tensor`` (FSDP2's `fully_shard`, tensor parallel plans, plain DTensors).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from hardpoint.errors import SyncError

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


def is_sharded(tensor: torch.Tensor) -> bool:
    """Whether `tensor` is a DTensor, whatever its placements."""
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)


def refuse_foreign(name: str, tensor: torch.Tensor) -> None:
    """SyncError for parameters that other libraries have emptied: their content is not in the tensor.

    DeepSpeed's ZeRO-3 leaves an empty tensor with `ds_id`; FSDP1 leaves flat parameters.
    """
    if hasattr(tensor, "ds_id") and tensor.numel() == 0:
        raise SyncError(
            f"Parameter {name} is partitioned by DeepSpeed ZeRO-3: this process holds none of it. Publish inside "
            "deepspeed.zero.GatheredParameters, or train with ZeRO-2 or FSDP2."
        )
    if type(tensor).__name__ == "FlatParameter":
        raise SyncError(
            f"Parameter {name} is flattened by FSDP1. Publish inside FullyShardedDataParallel.summon_full_params, or "
            "shard the model with torch.distributed.fsdp.fully_shard."
        )


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """`tensor` with all its rows, on this rank; plain tensors come back as they are.

    Needs memory for the result; placements other than one `Shard(0)` need up to that much again while gathering.
    """
    if not is_sharded(tensor):
        return tensor.detach()
    sharded = _on_mesh_device(tensor)
    if _row_dim(sharded) is not None:
        return rows(sharded, 0, sharded.shape[0])
    return sharded.full_tensor().detach()


def by_rows(tensor: torch.Tensor) -> bool:
    """Whether `rows` can give a range of `tensor` without gathering all of it."""
    return tensor.dim() > 0 and (not is_sharded(tensor) or _row_dim(tensor) is not None)


def rows(tensor: torch.Tensor, start: int, stop: int) -> torch.Tensor:
    """Rows ``[start, stop)`` of dimension 0. A view of a plain tensor; gathered into new memory for a DTensor.

    Raises:
        SyncError: the DTensor is not sharded along dimension 0 of one mesh axis alone.
    """
    if not is_sharded(tensor):
        return tensor.detach()[start:stop]
    sharded = _on_mesh_device(tensor)
    axis = _row_dim(sharded)
    if axis is None:
        raise SyncError(
            f"Rows can be gathered from one Shard(0), found {sharded.placements} on a mesh of shape "
            f"{tuple(sharded.device_mesh.shape)}."
        )
    local = sharded.to_local().detach()
    shape = (stop - start, *sharded.shape[1:])
    if axis < 0:  # replicated: every rank has all rows
        return local[start:stop]
    import torch.distributed as dist

    group = sharded.device_mesh.get_group(axis)
    ranks, rank = dist.get_world_size(group), dist.get_rank(group)
    out = torch.empty(shape, dtype=sharded.dtype, device=local.device)
    total = sharded.shape[0]
    if start == 0 and stop == total and total % ranks == 0:
        dist.all_gather_into_tensor(out, local.contiguous(), group=group)
        return out
    chunk = -(-total // ranks)  # as torch.chunk does: the last ranks may have fewer rows, or none
    for owner in range(ranks):
        begin, end = max(start, owner * chunk), min(stop, (owner + 1) * chunk, total)
        if begin >= end:
            continue
        part = out[begin - start : end - start]
        if owner == rank:
            part.copy_(local[begin - owner * chunk : end - owner * chunk])
        dist.broadcast(part, group=group, group_src=owner)
    return out


def _row_dim(tensor: Any) -> int | None:
    """Mesh axis along which dimension 0 is sharded; -1 if every axis replicates; None for anything else."""
    from torch.distributed.tensor import Replicate, Shard

    axes = [axis for axis, placement in enumerate(tensor.placements) if not isinstance(placement, Replicate)]
    if not axes:
        return -1
    placement = tensor.placements[axes[0]]
    # Exactly Shard: a strided one (tensor parallel under FSDP2) holds rows in another order.
    return axes[0] if len(axes) == 1 and type(placement) is Shard and placement.dim == 0 else None


def _on_mesh_device(tensor: Any) -> DTensor:
    """A shard that is offloaded to the host, back on the device whose library the mesh's groups use."""
    sharded: DTensor = tensor
    kind = sharded.device_mesh.device_type
    return sharded.to(kind) if sharded.device.type != kind else sharded  # type: ignore[return-value]

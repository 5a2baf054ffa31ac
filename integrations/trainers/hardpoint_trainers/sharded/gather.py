"""Whole tensors, or some of their rows, out of the shards of a trainer's ranks.

Every function here is a collective over the mesh of the tensor: all its ranks call it, in one order. Layouts are those
of ``torch.distributed.tensor`` (FSDP2's `fully_shard`, tensor parallel plans, plain DTensors).
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
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

    Needs memory for the result; placements that `by_rows` does not know, or that cut columns, need up to that much
    again while gathering.
    """
    if not is_sharded(tensor):
        return tensor.detach()
    sharded = _on_mesh_device(tensor)
    if _cut_of(sharded) is not None:
        return rows(sharded, 0, sharded.shape[0])
    return sharded.full_tensor().detach()


def by_rows(tensor: torch.Tensor) -> bool:
    """Whether `rows` can give a range of `tensor` without gathering all of it."""
    return tensor.dim() > 0 and (not is_sharded(tensor) or _cut_of(tensor) is not None)


def rows(tensor: torch.Tensor, start: int, stop: int) -> torch.Tensor:
    """Rows ``[start, stop)`` of dimension 0. A view of a plain tensor; gathered into new memory for a DTensor.

    Raises:
        SyncError: the DTensor is sharded in another way than `_Cut` describes.
    """
    if not is_sharded(tensor):
        return tensor.detach()[start:stop]
    sharded = _on_mesh_device(tensor)
    cut = _cut_of(sharded)
    if cut is None:
        raise SyncError(
            f"Rows can be gathered where dimension 0 is cut along one mesh axis, or evenly along two, found "
            f"{sharded.placements} of {list(sharded.shape)} on a mesh of shape {tuple(sharded.device_mesh.shape)}."
        )
    found = _own_columns(sharded, cut, start, stop)
    for axis, dim in cut.columns:
        found = _side_by_side(found, sharded.device_mesh.get_group(axis), dim)
    return found


@dataclass(frozen=True)
class _Cut:
    """How a DTensor is cut over its mesh.

    Attributes:
        rows: mesh axes that dimension 0 is cut along, the outermost cut first; at most two, and two only evenly.
        columns: (mesh axis, dimension) of cuts of other dimensions, even ones.
    """

    rows: tuple[int, ...]
    columns: tuple[tuple[int, int], ...]


def _cut_of(tensor: Any) -> _Cut | None:
    """None for what is not a `_Cut`: partial sums, uneven cuts along two axes, a stride that is not the other axis."""
    from torch.distributed.tensor import Replicate, Shard

    sizes = tuple(tensor.device_mesh.shape)
    outer: list[int] = []
    inner: list[int] = []  # cut after the axes to their right: expert or tensor parallel under FSDP2
    columns: list[tuple[int, int]] = []
    for axis, placement in enumerate(tensor.placements):
        if isinstance(placement, Replicate):
            continue
        factor = getattr(placement, "split_factor", None)
        if factor is None and type(placement) is not Shard:
            return None
        if placement.dim == 0:
            later = [a for a in range(axis + 1, len(sizes)) if getattr(tensor.placements[a], "dim", None) == 0]
            if factor is not None and (len(later) != 1 or factor != sizes[later[0]]):
                return None
            (outer if factor is None else inner).append(axis)
        elif factor is None and tensor.shape[placement.dim] % sizes[axis] == 0:
            columns.append((axis, placement.dim))
        else:
            return None
    order = (*outer, *inner)
    over = math.prod(sizes[axis] for axis in order)
    if (
        len(order) > 2
        or (len(order) == 2 and tensor.shape[0] % over)
        or len({dim for _, dim in columns}) < len(columns)
    ):
        return None
    return _Cut(order, tuple(columns))


def _own_columns(sharded: Any, cut: _Cut, start: int, stop: int) -> torch.Tensor:
    """Rows ``[start, stop)`` of the columns that this rank has."""
    import torch.distributed as dist

    mesh, local, total = sharded.device_mesh, sharded.to_local().detach(), sharded.shape[0]
    if not cut.rows:
        kept: torch.Tensor = local[start:stop]
        return kept
    sizes = [mesh.shape[axis] for axis in cut.rows]
    here = [mesh.get_local_rank(axis) for axis in cut.rows]
    out = torch.empty((stop - start, *local.shape[1:]), dtype=sharded.dtype, device=local.device)
    if len(cut.rows) == 1 and start == 0 and stop == total and total % sizes[0] == 0:
        dist.all_gather_into_tensor(out, local.contiguous(), group=mesh.get_group(cut.rows[0]))
        return out
    chunk = -(-total // math.prod(sizes))  # as torch.chunk does: the last ranks may have fewer rows, or none
    for number, owner in enumerate(itertools.product(*map(range, sizes))):
        begin, end = max(start, number * chunk), min(stop, (number + 1) * chunk, total)
        if begin >= end:
            continue
        part = out[begin - start : end - start]
        if here == list(owner):
            part.copy_(local[begin - number * chunk : end - number * chunk])
        # Along the inner axis first, among those who share the owner's place on the outer one; then along that.
        for depth in range(len(sizes) - 1, -1, -1):
            if here[:depth] == list(owner[:depth]):
                dist.broadcast(part, group=mesh.get_group(cut.rows[depth]), group_src=owner[depth])
    return out


def _side_by_side(part: torch.Tensor, group: Any, dim: int) -> torch.Tensor:
    """The parts of all ranks of `group`, one after the other along `dim`. One part is held beside them at a time."""
    import torch.distributed as dist

    width, ranks, own = part.shape[dim], dist.get_world_size(group), dist.get_rank(group)
    shape = list(part.shape)
    shape[dim] = width * ranks
    whole = part.new_empty(shape)
    for rank in range(ranks):
        sent = part.contiguous() if rank == own else part.new_empty(part.shape)
        dist.broadcast(sent, group=group, group_src=rank)
        whole.narrow(dim, rank * width, width).copy_(sent)
    return whole


def _on_mesh_device(tensor: Any) -> DTensor:
    """A shard that is offloaded to the host, back on the device whose library the mesh's groups use."""
    sharded: DTensor = tensor
    kind = sharded.device_mesh.device_type
    return sharded.to(kind) if sharded.device.type != kind else sharded  # type: ignore[return-value]

"""What the ranks of a sharded trainer do in tests: shard a small model, stream it, publish it. Runs in `RankPool`."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from hardpoint.sync import Receiver, join_store
from hardpoint_trainers import WeightPublisher, checkpoint_tensors
from hardpoint_trainers.sharded import CheckpointStream
from support.sync_processes import gloo
from support.trainer_models import tiny_trainer_moe

LAYOUTS = ("fully_shard", "fully_shard by layer", "tensor parallel", "replicated")
MESHES = ("experts by rows", "experts by columns")  # FSDP2 over 2 x 2 ranks, experts on two of them


class Allocated(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Bytes of storage that operations made and that are still alive; `peak` is the most there was."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        inputs = {t.untyped_storage()._cdata for t in _tensors((args, kwargs or {}))}
        for tensor in _tensors(result):
            storage = tensor.untyped_storage()
            key = storage._cdata
            if tensor.device.type == "meta" or key in inputs or key in self._known:
                continue
            size = storage.nbytes()
            self._known.add(key)
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._freed, key, size)
        return result

    def _freed(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from _tensors(one)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))


@contextmanager
def trainer_group(store: Any, rank: int, world: int) -> Iterator[None]:
    """The default process group of a trainer, over gloo."""
    import torch.distributed as dist

    dist.init_process_group("gloo", store=store, rank=rank, world_size=world)
    try:
        yield
    finally:
        dist.destroy_process_group()


def shard(model: Any, layout: str, world: int) -> None:
    """Distribute `model` over all ranks, in place."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import Replicate, distribute_tensor
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    if layout in MESHES:
        _shard_over_mesh(model, layout)
        return
    mesh = init_device_mesh("cpu", (world,))
    if layout.startswith("fully_shard"):
        if layout.endswith("by layer"):
            for layer in model.model.layers:
                fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
    elif layout == "tensor parallel":
        for layer in model.model.layers:
            plan = {name: ColwiseParallel() for name in ("q_proj", "k_proj", "v_proj")} | {"o_proj": RowwiseParallel()}
            parallelize_module(layer.self_attn, mesh, plan)
    else:
        assert layout == "replicated"
        head = model.lm_head
        head.weight = torch.nn.Parameter(distribute_tensor(head.weight.detach(), mesh, [Replicate()]))


def _shard_over_mesh(model: Any, layout: str) -> None:
    """As trainers with expert parallelism do: experts cut over "ep", then by FSDP2 over "dp"; the rest over both."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import Shard, distribute_tensor

    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "ep"))
    place = (lambda _: Shard(1)) if layout.endswith("columns") else None
    for layer in model.model.layers:
        experts = layer.mlp.experts
        for name, parameter in list(experts.named_parameters(recurse=False)):
            cut = distribute_tensor(parameter.detach(), mesh["ep"], [Shard(0)])
            experts.register_parameter(name, torch.nn.Parameter(cut))
        fully_shard(experts, mesh=mesh["dp"], shard_placement_fn=place)
    fully_shard(model, mesh=mesh["dp", "ep"]._flatten("all"))


def stream_of(store: Any, rank: int, world: int, layout: str, bucket_bytes: int) -> dict[str, Any]:
    """What `CheckpointStream` of a sharded model gives on this rank, against the unsharded model's checkpoint."""
    with trainer_group(store, rank, world):
        model = tiny_trainer_moe()
        expected = {name: tensor.clone() for name, tensor in checkpoint_tensors(model).items()}
        shard(model, layout, world)
        stream = CheckpointStream(model, bucket_bytes=bucket_bytes)
        found: dict[str, str] = {}
        with Allocated() as allocated:
            for name, tensor in stream:
                same = tensor.dtype == expected[name].dtype and torch.equal(tensor, expected[name])
                found[name] = "" if same else f"{name} differs"
                del tensor  # as the publisher does: it holds one at a time
        return {
            "wrong": sorted(filter(None, found.values())),
            "names": sorted(found),
            "expected": sorted(expected),
            "in manifest order": list(found) == [spec.name for spec in stream.specs],
            "peak": allocated.peak,
            "oversize": stream.oversize,
            "placed": sorted({str(getattr(of, "placements", "")) for of in model.parameters()}),
            "largest": max(of.numel() * of.element_size() for of in model.parameters()),
        }


def uneven_rows(store: Any, rank: int, world: int) -> list[bool]:
    """Ranges of rows of tensors whose rows do not divide by the ranks, the empty last shard included."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    from hardpoint_trainers.sharded.gather import rows, whole

    with trainer_group(store, rank, world):
        mesh = init_device_mesh("cpu", (world,))
        same = []
        for count in (1, 2, 3, 5, 7):
            tensor = torch.arange(count * 3).reshape(count, 3)
            sharded = distribute_tensor(tensor, mesh, [Shard(0)])
            same.append(torch.equal(whole(sharded), tensor))
            for start in range(count):
                for stop in range(start + 1, count + 1):
                    same.append(torch.equal(rows(sharded, start, stop), tensor[start:stop]))
        columns = distribute_tensor(torch.arange(12).reshape(3, 4), mesh, [Shard(1)])
        same.append(torch.equal(whole(columns), torch.arange(12).reshape(3, 4)))
        return same


def publish_sharded(store: Any, rank: int, world: int, refused: bool) -> Any:
    """Ranks 0 and 1 train with `fully_shard` and publish twice; the last rank receives both updates."""
    from torch.distributed import PrefixStore

    from hardpoint.errors import SyncError

    trainers = world - 1
    if rank == trainers:
        port = int(store.get("port"))
        info = {"host": "127.0.0.1", "port": port}
        meeting = join_store(**info, deadline=20.0)
        from hardpoint.communicator import Rendezvous

        communicator = gloo(Rendezvous(meeting.store, 1, 2, "weights", 20.0))

        def accept(_: Any) -> None:
            if refused:
                raise SyncError("not today")

        receiver = Receiver(communicator, accept=accept)
        received = [receiver.receive() for _ in range(2)]
        communicator.close()
        return [{name: tensor.clone() for name, tensor in one.tensors.items()} for one in received]
    with trainer_group(PrefixStore("trainers", store), rank, trainers):
        model = tiny_trainer_moe()
        shard(model, "fully_shard", trainers)
        stream = CheckpointStream(model, bucket_bytes=1 << 14)
        publisher = (
            WeightPublisher(communicator=gloo, deadline=20.0, bucket_bytes=1 << 14, path="whole") if rank == 0 else None
        )
        if publisher is not None:
            store.set("port", str(publisher.address[1]))
        said = []
        from hardpoint_trainers.adapters.publishing import publish_from

        for _ in range(2):
            try:
                outcome = publish_from(stream, publisher)
                said.append("published" if outcome is not None else "gathered")
            except SyncError as error:
                said.append(str(error))
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.mul_(2)
        if publisher is not None:
            publisher.close()
        return said

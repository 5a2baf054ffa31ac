"""Trainers and receivers of a tiny model on the in-process transport: the protocol objects, real bytes, and faults.

What an update must come to is worked out from tensors alone, by `expected`. Kernel layouts differ from the checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache

import torch

from hardpoint.moe import LayoutDescriptor
from hardpoint.sync.plan import (
    Bucket,
    Coordinates,
    Dense,
    Experts,
    ModelSpec,
    Offer,
    Segment,
    Sources,
    Storages,
    SyncPlan,
    Vocab,
    make_plan,
    replicated,
)
from hardpoint.sync.plan.execute import new_buffer
from hardpoint.sync.transaction import (
    Choice,
    Coordinator,
    InProcess,
    MemoryRecord,
    Message,
    Mode,
    Participant,
    Phase,
    Room,
    Stage,
    engine_state,
)

DEADLINE = 2.0
TRAINER, OTHER_TRAINER = 0, -1
Tensors = dict[str, torch.Tensor]

# Engines as groups of ranks, and the coordinates of each rank.
WORLDS: dict[str, tuple[tuple[tuple[int, ...], ...], dict[int, Coordinates]]] = {
    "one rank": (((1,),), {1: Coordinates()}),
    "tp2": (((1, 2),), {rank: Coordinates(rank - 1, 2) for rank in (1, 2)}),
    "ep3": (((1, 2, 3),), {rank: Coordinates(ep_rank=rank - 1, ep_size=3) for rank in (1, 2, 3)}),
    "two engines of tp2": (
        ((1, 2), (3, 4)),
        {rank: Coordinates((rank - 1) % 2, 2, dp_rank=(rank - 1) // 2, dp_size=2) for rank in (1, 2, 3, 4)},
    ),
    "pp2 tp2 and a replica": (
        ((1, 2, 3, 4), (5,)),
        {rank: Coordinates((rank - 1) % 2, 2, (rank - 1) // 2, 2) for rank in (1, 2, 3, 4)} | {5: Coordinates()},
    ),
}
LAYOUTS = {
    "vllm": LayoutDescriptor(3, 4, 2, dtype=torch.bfloat16),
    "swapped halves": LayoutDescriptor(3, 4, 2, dtype=torch.bfloat16, order="w31"),
    "transposed, padded": LayoutDescriptor(3, 4, 2, dtype=torch.bfloat16, axes="[E,K,N]", padded_intermediate=3),
}


def model(layout: str) -> ModelSpec:
    qkv = tuple(
        Segment(f"l.{name}.weight", (rows, 4), at_most=limit) for name, rows, limit in (("q", 4, None), ("k", 2, 1))
    )
    return ModelSpec(
        (
            Vocab("embed", "embed", (5, 4), multiple=4),
            Dense("l.qkv.weight", qkv, place=0),
            Experts("l", LAYOUTS[layout], place=1),
            replicated("norm", "norm", (4,), "float32", "last"),
        ),
        2,
    )


@lru_cache(maxsize=64)
def tensors(version: int) -> Tensors:
    generator = torch.Generator().manual_seed(version)

    def make(*shape: int) -> torch.Tensor:
        return torch.randint(1, 1 << 15, shape, generator=generator, dtype=torch.int16).view(torch.bfloat16)

    found = {"embed": make(5, 4), "l.q.weight": make(4, 4), "l.k.weight": make(2, 4)}
    for expert in range(3):
        found |= {f"l.experts.{expert}.{name}_proj.weight": make(2, 4) for name in ("gate", "up")}
        found[f"l.experts.{expert}.down_proj.weight"] = make(4, 2)
    found["norm"] = torch.rand(4, generator=generator)
    return found


@lru_cache(maxsize=64)
def plan_of(world: str, layout: str, bucket_bytes: int = 128) -> SyncPlan:
    spec = model(layout)
    return make_plan(Offer.of(tensors(0)), spec.receivers(WORLDS[world][1]), bucket_bytes=bucket_bytes)


@lru_cache(maxsize=256)
def expected(world: str, layout: str, version: int) -> dict[int, dict[str, bytes]]:
    """Bytes of every parameter of every rank at a version, without transport and protocol."""
    plan = plan_of(world, layout)
    sources = Sources(plan, tensors(version))
    found = {}
    for rank in plan.shard_of:
        storages = Storages(plan, rank, empty(plan, rank))
        storages.clear_padding()
        for bucket in plan.buckets_for(rank):
            buffer = new_buffer(bucket)
            sources.pack(bucket, buffer)
            storages.land(bucket, buffer)
        found[rank] = contents(storages)
    return found


def empty(plan: SyncPlan, rank: int) -> Tensors:
    return {
        of.parameter: torch.full(of.shape, float("nan"), dtype=getattr(torch, of.dtype))
        for of in plan.destinations_for(rank)
    }


def contents(storages: Storages) -> dict[str, bytes]:
    return {name: tensor.reshape(-1).view(torch.uint8).numpy().tobytes() for name, tensor in storages.named.items()}


class Planted(Exception):
    """A fault that a test put there."""


@dataclass
class Faults:
    """What goes wrong inside a rank: names of operations, and how often each has been asked."""

    at: Callable[[str, int], None] = lambda operation, number: None
    counts: dict[str, int] = field(default_factory=dict)

    def __call__(self, operation: str) -> None:
        number = self.counts[operation] = self.counts.get(operation, 0) + 1
        self.at(operation, number)


class FaultyStorages(Storages):
    """Storages whose operations may raise, some of them half-way."""

    faults: Faults

    def like(self) -> FaultyStorages:
        self.faults("allocate")
        made = super().like()
        assert isinstance(made, FaultyStorages)
        made.faults = self.faults
        return made

    def land(self, bucket: Bucket, buffer: torch.Tensor) -> None:
        self.faults("land")
        super().land(bucket, buffer)

    def collect(self, bucket: Bucket, buffer: torch.Tensor, repeat: int = 0) -> None:
        self.faults("digest")
        super().collect(bucket, buffer, repeat)

    def copy_from(self, other: Storages) -> None:
        self.tensors[0].view(torch.uint8).copy_(other.tensors[0].view(torch.uint8))
        self.faults("copy")
        super().copy_from(other)


@dataclass
class Hooks:
    """An engine that only remembers whether it runs."""

    faults: Faults
    space: Room
    running: bool = True
    epochs: list[int] = field(default_factory=list)
    chosen_modes: list[Mode] = field(default_factory=list)

    def room(self) -> Room:
        self.faults("room")
        return self.space

    def chosen(self, choice: Choice) -> None:
        self.chosen_modes.append(choice.mode)

    def pause(self) -> None:
        self.faults("pause")
        self.running = False

    def inspect(self, staged: Storages) -> None:
        self.faults("inspect")

    def committed(self, epoch: int) -> None:
        self.faults("committed")
        self.epochs.append(epoch)

    def resume(self) -> None:
        self.faults("resume")
        self.running = True


PLENTY, HOST_ONLY, NONE = Room(1 << 30, 1 << 30), Room(0, 1 << 30), Room(0, 0)


class Cluster:
    """One trainer and the ranks of `world`, all at version 0 and serving."""

    def __init__(
        self,
        world: str,
        layout: str,
        *,
        rooms: dict[int, Room] | None = None,
        arity: int = 2,
        record: MemoryRecord | None = None,
    ) -> None:
        self.world, self.layout, self.arity = world, layout, arity
        self.engines = WORLDS[world][0]
        self.plan = plan_of(world, layout)
        self.net = InProcess()
        self.rooms = rooms or {}
        self.ranks: dict[int, Participant] = {}
        self.storages: dict[int, FaultyStorages] = {}
        self.hooks: dict[int, Hooks] = {}
        self.faults: dict[int, Faults] = {}
        self.record = record or MemoryRecord()
        self.versions: dict[int, int] = {0: 0}  # epoch -> version of the tensors
        self.sessions: dict[int, list[str]] = {}  # epoch -> sessions that tried it
        self.layouts: dict[int, str] = {}
        self.fault_at: float | None = None
        self.aborted_at: float | None = None
        for rank in self.plan.shard_of:
            self.start_rank(rank, epoch=0)
        self.addresses = {rank: self._addresses(rank) for rank in self.ranks}
        self.trainer = self.start_trainer()

    def start_rank(self, rank: int, epoch: int, layout: str | None = None) -> None:
        """A new process at `rank`: with the weights of version 0, or with none that count (epoch -1). `layout`: of its
        kernels, if it is not what the trainer takes it for."""
        self.layouts[rank] = layout or self.layout
        plan = plan_of(self.world, self.layouts[rank])
        storages = FaultyStorages(plan, rank, empty(plan, rank))
        storages.faults = self.faults[rank] = Faults()
        if epoch == 0:
            fill(storages, expected(self.world, self.layouts[rank], 0)[rank])
        hooks = Hooks(self.faults[rank], self.rooms.get(rank, PLENTY), running=epoch >= 0)
        self.storages[rank], self.hooks[rank] = storages, hooks
        self.ranks[rank] = Participant(storages, epoch=epoch, hooks=hooks, arity=self.arity)
        if hasattr(self, "addresses"):
            self.addresses[rank] = self._addresses(rank)
        self.net.replace(rank, self.ranks[rank])

    def start_trainer(self, address: int = TRAINER, record: MemoryRecord | None = None) -> Coordinator:
        trainer = Coordinator(self.plan, address, record=record or self.record, arity=self.arity)
        self.net.replace(address, trainer)
        return trainer

    def begin(
        self,
        epoch: int,
        version: int,
        *,
        mode: Mode = Mode.AUTO,
        session: str = "",
        trainer: Coordinator | None = None,
        named: Tensors | None = None,
    ) -> None:
        trainer = trainer or self.trainer
        self.versions[epoch] = version
        session = session or f"s{trainer.address}-{epoch}-{version}"
        self.sessions.setdefault(epoch, []).append(session)
        sent = trainer.start(
            session,
            epoch,
            named or tensors(version),
            self.net.now,
            mode=mode,
            deadline=DEADLINE,
        )
        self.net.post(trainer.address, sent)

    def settle(self, seconds: float = 6 * DEADLINE) -> None:
        """Let everything that has a deadline reach it."""
        end = self.net.now + seconds
        if self.aborted_at is None and self.net.run(self._aborted, end):
            self.aborted_at = self.net.now
        self.net.run(lambda: False, end)

    def _aborted(self) -> bool:
        outcome = self.trainer.outcome
        return outcome is not None and not outcome.committed

    def update(self, epoch: int, version: int, **options: object) -> None:
        self.begin(epoch, version, **options)  # type: ignore[arg-type]
        self.settle()

    def fault_happened(self) -> None:
        if self.fault_at is None:
            self.fault_at = self.net.now

    # What has to hold.

    def up(self) -> list[int]:
        """Ranks that run."""
        return [rank for rank in self.ranks if rank not in self.net.dead and rank not in self.net.frozen]

    def check(self, new: int | None = None) -> None:
        """Old and serving, or new, or FAILED and serving nothing; and nobody in between. `new`: the epoch tried."""
        for rank in self.up():
            participant = self.ranks[rank]
            assert participant.phase in (Phase.SERVING, Phase.FAILED), f"rank {rank} is stuck in {participant.phase}"
            assert self._addresses(rank) == self.addresses[rank], f"storage of rank {rank} moved"
            if participant.may_serve:
                wanted = expected(self.world, self.layouts[rank], self.versions[participant.epoch])[rank]
                assert contents(self.storages[rank]) == wanted, f"rank {rank} serves bits of no version"
                assert self.hooks[rank].running
            else:
                assert participant.reason, f"rank {rank} is FAILED and says not why"
        for engine in self.engines:
            versions = {self.ranks[rank].epoch for rank in engine if rank in self.up() and self.ranks[rank].may_serve}
            assert len(versions) <= 1, f"ranks of engine {engine} would answer with versions {versions}"
            if all(rank in self.up() for rank in engine):
                state = engine_state(self.ranks[rank] for rank in engine)
                assert state.epoch is not None or state.reason
        serving = {self.ranks[rank].epoch for rank in self.up() if self.ranks[rank].may_serve}
        outcome = self.trainer.outcome
        if new is not None and new in serving:
            decisions = [self.record.read(session) for session in self.sessions[new]]
            assert any(one is not None and one.commit for one in decisions), "served before it was decided"
        if outcome is not None and new is not None and outcome.epoch == new and not outcome.committed:
            assert new not in serving or OTHER_TRAINER in self.net.nodes, "an aborted update is served"

    def check_new_everywhere(self, epoch: int) -> None:
        outcome = self.trainer.outcome
        assert outcome is not None and outcome.everywhere, str(outcome)
        for rank, participant in self.ranks.items():
            assert (participant.phase, participant.epoch) == (Phase.SERVING, epoch), (
                f"rank {rank}: {participant.reason}"
            )
            assert self.hooks[rank].running and self.hooks[rank].epochs[-1] == epoch
        for engine in self.engines:
            assert engine_state(self.ranks[rank] for rank in engine).epoch == epoch
        self.check(epoch)

    def recover(self) -> None:
        """What an operator does: start again what is gone, let go on what hung, and update."""
        self.net.fate = self.net.after = None
        for rank in list(self.ranks):
            if rank in self.net.dead or self.layouts[rank] != self.layout:
                self.start_rank(rank, epoch=-1)
            self.faults[rank].at = lambda operation, number: None
        for rank in list(self.net.frozen):
            self.net.thaw(rank)
        self.settle()
        for address in (TRAINER, OTHER_TRAINER):
            if address == OTHER_TRAINER and address not in self.net.nodes:
                continue
            self.net.kill(address)
        self.trainer = self.start_trainer()
        epoch = max(self.versions) + 1
        self.update(epoch, version=epoch)
        self.check_new_everywhere(epoch)

    def idle(self) -> bool:
        return self.trainer.stage is Stage.REST

    def _addresses(self, rank: int) -> dict[str, int]:
        return {name: tensor.data_ptr() for name, tensor in self.storages[rank].named.items()}


def fill(storages: Storages, wanted: dict[str, bytes]) -> None:
    for name, tensor in storages.named.items():
        raw = torch.frombuffer(bytearray(wanted[name]), dtype=torch.uint8)
        tensor.reshape(-1).view(torch.uint8).copy_(raw)


def kind_of(message: Message | None) -> str:
    return "tick" if message is None else type(message).__name__


def with_payload(message: Message, payload: torch.Tensor) -> Message:
    return replace(message, payload=payload)  # type: ignore[call-arg]

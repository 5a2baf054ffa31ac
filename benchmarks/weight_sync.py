"""Weight sync of some 10 GB beside its ceiling, one 1 GiB broadcast, on all GPUs of a host; ours, and peers if given.

    python benchmarks/weight_sync.py [--out FOLDER] [--peers FILE] [--tests off,shadow,...] [--sweep] [--trace]
    python benchmarks/weight_sync.py --cpu --world 3        # the same logic over gloo, tiny

Rank 0 is the trainer, with one tensor for each expert and projection as in Qwen3-30B-A3B's files (7 of 48 layers: 2,754
tensors, 9.97 GB); all others are receivers with vLLM's parameters (w13, w2, qkv). What is timed is what a sync does
once planned and bound: pack, wire, layout transform, digests and their comparison where they are on, until the slowest
rank is done. Every destination is poisoned before every repetition and compared bit by bit after it with values that
are made without plan and stream. `--peers` takes the JSON of another benchmark, run on the same machine in the same
call: ``{"results": {name: {"seconds_median": ..}}}``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

for _name in ("NCCL_NVLS_ENABLE", "TORCH_SYMM_MEM_DISABLE_MULTICAST", "NVSHMEM_DISABLE_NVLS"):
    os.environ.setdefault(_name, "0" if _name.startswith("NCCL") else "1")

import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402
import torch.multiprocessing as mp  # noqa: E402
from report import Row, save  # noqa: E402

from hardpoint.backend import Backend  # noqa: E402
from hardpoint.moe import LayoutDescriptor  # noqa: E402
from hardpoint.sync.plan import Coordinates, ModelSpec, Offer, Sources, Storages, make_plan  # noqa: E402
from hardpoint.sync.plan.blocks import attention, embeddings, moe, norms  # noqa: E402
from hardpoint.sync.stream import (  # noqa: E402
    DIRECT_BYTES,
    CommunicatorLink,
    StreamReceiver,
    StreamSender,
    Undo,
    audiences_of,
    open_link,
    stamp_of,
)

GIB, MIB = 1 << 30, 1 << 20
REPEATS = 5
PEERS = {
    "per_tensor_http": ("per tensor, a POST each", 15),
    "per_tensor_sync": ("per tensor, synchronous", 15),
    "bucket_swift_512": ("buckets as ms-swift", 5),
    "vllm_packed_1024x2": ("packed as vLLM", 2),
    "bucket_double_512": ("plain double-buffered buckets, 512 MiB", 0),
    "bucket_double_1024": ("plain double-buffered buckets, 1 GiB", 0),
    "bucket_double_512_verified": ("plain double-buffered buckets, sums compared", 0),
}


@dataclass(frozen=True)
class Size:
    """Of the model."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    experts: int
    intermediate: int
    vocab: int

    def spec(self) -> ModelSpec:
        rules = list(embeddings(self.vocab, self.hidden))
        for layer in range(self.layers):
            rules += norms(layer, self.hidden)
            rules += attention(layer, self.hidden, self.heads, self.kv_heads, self.head_dim, qk_norm=True)
            rules += moe(layer, LayoutDescriptor(self.experts, self.hidden, self.intermediate))
        return ModelSpec(tuple(rules), self.layers)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes in the checkpoint."""
        h, d = self.hidden, self.head_dim
        found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (self.vocab, h)}
        for layer in range(self.layers):
            at = f"model.layers.{layer}"
            found |= {
                f"{at}.self_attn.q_proj.weight": (self.heads * d, h),
                f"{at}.self_attn.k_proj.weight": (self.kv_heads * d, h),
                f"{at}.self_attn.v_proj.weight": (self.kv_heads * d, h),
                f"{at}.self_attn.o_proj.weight": (h, self.heads * d),
                f"{at}.self_attn.q_norm.weight": (d,),
                f"{at}.self_attn.k_norm.weight": (d,),
                f"{at}.mlp.gate.weight": (self.experts, h),
            }
            for expert in range(self.experts):
                one = f"{at}.mlp.experts.{expert}"
                found[f"{one}.gate_proj.weight"] = found[f"{one}.up_proj.weight"] = (self.intermediate, h)
                found[f"{one}.down_proj.weight"] = (h, self.intermediate)
            found |= {f"{at}.{name}_layernorm.weight": (h,) for name in ("input", "post_attention")}
        return found | {"model.norm.weight": (h,), "lm_head.weight": (self.vocab, h)}


REAL = Size(7, 2048, 32, 4, 128, 128, 768, 151936)
TINY = Size(2, 64, 8, 2, 16, 8, 32, 1024)


@dataclass(frozen=True)
class Setting:
    """What a sweep tries. `programs`: of a layout kernel's launch, None for the backend's own choice. `check_first`: in
    place, wait for the stamp of the update before anything is overwritten."""

    bucket_bytes: int = GIB
    least: int = DIRECT_BYTES
    buffer_bytes: int = 2 * GIB
    programs: int | None = None
    check_first: bool = True


@dataclass
class Measured:
    """Seconds of each repetition (of the slowest rank), and whether all of them left the right bits."""

    seconds: list[float] = field(default_factory=list)
    parts: dict[str, list[float]] = field(default_factory=dict)
    correct: bool = True
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


class Rank:
    """One process: its backend, its weights, and the tests in the order in which all ranks run them."""

    def __init__(self, rank: int, world: int, port: int, options: argparse.Namespace) -> None:
        self.rank, self.world, self.options = rank, world, options
        self.size = TINY if options.cpu else replace(REAL, layers=options.layers)
        self.store = dist.TCPStore(
            "127.0.0.1", port, is_master=rank == 0, wait_for_workers=False, timeout=timedelta(seconds=60)
        )
        self.control = dist.ProcessGroupGloo(
            dist.PrefixStore("control", self.store), rank, world, timeout=timedelta(seconds=60)
        )
        self.backend = self._backend()
        self.index = 0 if options.cpu else rank
        self.device = self.backend.device.torch_device(self.index)
        if not options.cpu:
            torch.cuda.set_device(self.device)
        self.shapes = self.size.shapes()
        self.nbytes = sum(2 * torch.Size(shape).numel() for shape in self.shapes.values())
        self.traced: set[str] = set()
        self.links: dict[tuple[tuple[int, ...], ...], CommunicatorLink] = {}
        self.tensors = {name: self.value(name) for name in self.shapes} if rank == 0 else {}

    def _backend(self) -> Backend:
        if self.options.cpu:
            from hardpoint_cpu import hardpoint_info
            from hardpoint_cpu.backend import build as build_cpu

            torch.set_num_threads(1)
            return build_cpu(hardpoint_info(), {})
        from hardpoint_cuda.backend import build

        return build({})

    # Weights, without plan and stream.

    def value(self, name: str) -> torch.Tensor:
        """A checkpoint tensor: random bits, the same on every rank."""
        generator = torch.Generator(device=self.device).manual_seed(zlib.crc32(name.encode()))
        bits = torch.empty(self.shapes[name], dtype=torch.int16, device=self.device)
        return bits.random_(-(1 << 15), 1 << 15, generator=generator).view(torch.bfloat16)

    def expected(self, parameter: str, experts: tuple[int, ...]) -> torch.Tensor:
        """A parameter of vLLM, as its own loaders would leave it."""
        at = parameter.removesuffix("qkv_proj.weight")
        if at != parameter:
            return torch.cat([self.value(f"{at}{x}_proj.weight") for x in "qkv"])
        at = parameter.removesuffix("w13_weight")
        if at != parameter:
            halves = ("gate", "up")
            return torch.stack([torch.cat([self.value(f"{at}{e}.{x}_proj.weight") for x in halves]) for e in experts])
        at = parameter.removesuffix("w2_weight")
        if at != parameter:
            return torch.stack([self.value(f"{at}{e}.down_proj.weight") for e in experts])
        return self.value(parameter)

    def right(self, storages: Storages, experts: tuple[int, ...]) -> bool:
        return all(
            torch.equal(tensor.view(torch.int16), self.expected(name, experts).view(torch.int16))
            for name, tensor in storages.named.items()
        )

    # Between ranks.

    def barrier(self) -> None:
        self.control.barrier().wait()

    def agree(self, value: float, op: Any) -> float:
        """The largest or smallest of all ranks' values."""
        cell = torch.tensor([value], dtype=torch.float64)
        options = dist.AllreduceOptions()
        options.reduceOp = op
        self.control.allreduce([cell], options).wait()
        return float(cell[0])

    def vote(self, digests: Mapping[int, bytes]) -> None:
        """All ranks hold the same buckets with the same digests, or nobody goes on: one round over the host."""
        text = b"".join(digests[number] for number in sorted(digests))
        hashed = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little", signed=True) >> 1
        cells = torch.tensor([hashed, -hashed])
        options = dist.AllreduceOptions()
        options.reduceOp = dist.ReduceOp.MIN
        self.control.allreduce([cells], options).wait()
        if int(cells[0]) != -int(cells[1]):
            raise RuntimeError("digests differ")

    def synchronize(self) -> None:
        self.backend.device.synchronize(self.index)

    def timed(
        self, call: Callable[[], Mapping[str, float] | None], before: Callable[[], None], repeats: int, trace: str = ""
    ) -> Measured:
        """Run `call` once to warm up and then `repeats` times; it may return when parts of it ended."""
        found = Measured()
        for repeat in range(repeats + 1):
            before()
            self.synchronize()
            self.barrier()
            begin = time.perf_counter()
            parts = call() or {}  # returns when its work is done
            seconds = self.agree(time.perf_counter() - begin, dist.ReduceOp.MAX)
            ended = {name: self.agree(at - begin, dist.ReduceOp.MAX) for name, at in parts.items()}
            if repeat:
                found.seconds.append(seconds)
                for name, at in ended.items():
                    found.parts.setdefault(name, []).append(at)
        if trace and self.options.trace and trace not in self.traced:
            self.traced.add(trace)
            before()
            self.barrier()
            with torch.profiler.profile() as profile:
                call()
                self.synchronize()
            profile.export_chrome_trace(str(self.options.out / f"trace_{trace}_{self.rank}.json"))
        return found

    # Tests.

    def ceiling(self) -> Measured:
        """One broadcast of 1 GiB, and ten in a row; the better is the ceiling. By torch's own process group."""
        from hardpoint.communicator.transport import open_group

        size = MIB if self.options.cpu else GIB
        library = "gloo" if self.options.cpu else "nccl"
        group = open_group(library, self.device, dist.PrefixStore("ceiling", self.store), self.rank, self.world, 60.0)
        data = torch.full((size,), self.rank, dtype=torch.uint8, device=self.device)

        def broadcast(count: int) -> None:
            for _ in range(count):
                group.broadcast([data], dist.BroadcastOptions()).wait()
            self.synchronize()

        broadcast(3)
        one = self.timed(lambda: broadcast(1), lambda: None, 7)
        ten = self.timed(lambda: broadcast(10), lambda: None, 2)
        best = min(min(one.seconds), min(ten.seconds) / 10)
        one.facts = {"GB/s": size / best / 1e9, "sustained GB/s": size * 10 / ten.median / 1e9}
        one.correct = not bool(data.any())
        self.pinned = self._pinned_rate()
        one.facts["pinned GB/s"] = self.pinned / 1e9
        group.abort()
        return one

    def _pinned_rate(self) -> float:
        """Bytes per second from the device to pinned memory, all receivers at once; the slowest."""
        if self.options.cpu:
            return 1e9
        host = torch.empty(GIB, dtype=torch.uint8, pin_memory=True)
        data = torch.empty(GIB, dtype=torch.uint8, device=self.device)

        def copy() -> None:
            if self.rank:
                host.copy_(data, non_blocking=True)
            self.synchronize()

        copied = self.timed(copy, lambda: None, 3)
        return GIB / min(copied.seconds)

    def sync(self, mode: str, setting: Setting, *, spread: bool = False, repeats: int = REPEATS) -> Measured:
        """Updates in one mode. `spread`: each receiver holds its share of the experts."""
        count = self.world - 1
        places = [
            Coordinates(ep_rank=rank, ep_size=count) if spread else Coordinates(dp_rank=rank, dp_size=count)
            for rank in range(count)
        ]
        meta = {name: torch.empty(shape, dtype=torch.bfloat16, device="meta") for name, shape in self.shapes.items()}
        begin = time.perf_counter()
        plan = make_plan(
            Offer.of(self.tensors or meta), self.size.spec().receivers(places), bucket_bytes=setting.bucket_bytes
        )
        planned = time.perf_counter() - begin
        link = self.link_for(audiences_of(plan))
        kernels = self.backend.box_kernels
        if setting.programs is not None and not self.options.cpu:
            from hardpoint_cuda.box_kernels import CudaBoxKernels

            kernels = CudaBoxKernels(self.backend.launcher.compiled, setting.programs)  # type: ignore[attr-defined]
        shared: dict[str, Any] = {"index": self.index, "kernels": kernels, "buffer_bytes": setting.buffer_bytes,
                                  "least": setting.least, "digests": mode != "off"}  # fmt: skip
        stamp = stamp_of("session", 1, plan.digest)
        measured = (
            self._send(plan, link, stamp, mode, shared, repeats)
            if self.rank == 0
            else self._receive(plan, link, stamp, mode, shared, spread, repeats, setting.check_first)
        )
        measured.facts |= {"plan_seconds": planned, "buckets": len(plan.buckets), "setting": asdict(setting)}
        measured.correct = self.agree(float(measured.correct), dist.ReduceOp.MIN) == 1.0
        self.synchronize()
        if not self.options.cpu:
            torch.cuda.empty_cache()
        return measured

    def link_for(self, audiences: tuple[tuple[int, ...], ...]) -> CommunicatorLink:
        """One link for each set of audiences: connecting is not what is measured."""
        if audiences not in self.links:
            self.links[audiences] = open_link(
                self.backend.communicator,
                self.store,
                self.rank,
                audiences,
                name=f"link {len(self.links)}",
                device_index=self.index,
            )
        return self.links[audiences]

    def _send(self, plan: Any, link: Any, stamp: bytes, mode: str, shared: dict[str, Any], repeats: int) -> Measured:
        sender = StreamSender(plan, link, self.backend.device, **shared)
        begin = time.perf_counter()
        sender.prepare(Sources(plan, self.tensors))
        bound = time.perf_counter() - begin
        self.barrier()

        def call() -> dict[str, float]:
            digests = sender.send(stamp, deadline=60.0)
            sent = time.perf_counter()
            if digests:
                self.vote(dict(enumerate(digests)))
            return {"sent": sent, "staged": time.perf_counter()}

        found = self.timed(call, lambda: None, repeats, mode)
        # After the last update receivers compare bits.
        self.barrier()
        found.facts = {"bind_seconds": bound, "trainer_buffer_bytes": sender.buffer_bytes}
        return found

    def _receive(
        self,
        plan: Any,
        link: Any,
        stamp: bytes,
        mode: str,
        shared: dict[str, Any],
        spread: bool,
        repeats: int,
        check_first: bool,
    ) -> Measured:
        live = Storages(plan, self.rank, {
            of.parameter: torch.empty(of.shape, dtype=torch.bfloat16, device=self.device)
            for of in plan.destinations_for(self.rank)
        })  # fmt: skip
        target = live.like() if mode == "shadow" else live
        undo = Undo(live, self.backend.device, index=self.index) if mode == "undo" else None
        receiver = StreamReceiver(plan, self.rank, link, self.backend.device, **shared)
        receiver.prepare(target)
        own = tuple(range(self.size.experts))
        if spread:
            each = self.size.experts // (self.world - 1)
            own = own[(self.rank - 1) * each : self.rank * each]
        good = [True]
        begun = [False]

        def poison() -> None:
            if begun[0]:
                good[0] &= self.right(live, own)
            begun[0] = True
            for storages in {id(live): live, id(target): target}.values():
                for tensor in storages.tensors:
                    tensor.fill_(float("nan"))

        self.barrier()

        def call() -> dict[str, float]:
            digests = receiver.receive(stamp, deadline=60.0, in_place=target is live and check_first, keeper=undo)
            sent = time.perf_counter()
            if digests:
                self.vote(digests)
            staged = time.perf_counter()
            if target is not live:
                live.copy_from(target)
                self.synchronize()
            return {"sent": sent, "staged": staged}

        found = self.timed(call, poison, repeats, mode)
        good[0] &= self.right(live, own)
        self.barrier()
        found.correct = good[0]
        return found


def transforms(rank: Rank) -> dict[str, dict[str, float]]:
    """The layout transform alone, on this rank's device: bytes moved over seconds, beside one plain copy."""
    size, device, kernels = rank.size, rank.device, rank.backend.box_kernels
    if not rank.options.cpu:
        from hardpoint_cuda.box_kernels import CudaBoxKernels

        kernels = CudaBoxKernels(rank.backend.launcher.compiled, None)  # type: ignore[attr-defined]
    e, i, h = size.experts, size.intermediate, size.hidden

    def bits(*shape: int) -> torch.Tensor:
        return torch.empty(shape, dtype=torch.int16, device=device).random_(-(1 << 15), 1 << 15)

    gates, ups, downs = ([bits(*shape) for _ in range(e)] for shape in ((i, h), (i, h), (h, i)))
    w13, w2, turned = bits(e, 2 * i, h), bits(e, h, i), bits(e, h, 2 * i)
    half13, half2 = bits(e, i, h), bits(e, h, i // 2)
    flat, other = w13.reshape(-1), torch.empty_like(w13.reshape(-1))
    cases: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = {
        "one copy": [(other, flat)],
        "experts into w13, w2": [
            *((w13[n, :i], gates[n]) for n in range(e)),
            *((w13[n, i:], ups[n]) for n in range(e)),
            *((w2[n], downs[n]) for n in range(e)),
        ],
        "w13, w2 into experts": [
            *((gates[n], w13[n, :i]) for n in range(e)),
            *((ups[n], w13[n, i:]) for n in range(e)),
            *((downs[n], w2[n]) for n in range(e)),
        ],
        "experts into rank 0 of 2": [
            *((half13[n, : i // 2], gates[n][: i // 2]) for n in range(e)),
            *((half13[n, i // 2 :], ups[n][: i // 2]) for n in range(e)),
            *((half2[n], downs[n][:, : i // 2]) for n in range(e)),
        ],
        "experts into interleaved w13": [
            *((w13[n, 0::2], gates[n]) for n in range(e)),
            *((w13[n, 1::2], ups[n]) for n in range(e)),
        ],
        "experts into transposed w13": [
            *((turned[n, :, :i].t(), gates[n]) for n in range(e)),
            *((turned[n, :, i:].t(), ups[n]) for n in range(e)),
        ],
        "transposed w13 into experts": [
            *((gates[n], turned[n, :, :i].t()) for n in range(e)),
            *((ups[n], turned[n, :, i:].t()) for n in range(e)),
        ],
    }
    found: dict[str, dict[str, float]] = {}
    for name, pairs in cases.items():
        for source in dict.fromkeys(source for _, source in pairs):
            source.random_(-(1 << 15), 1 << 15)
        launch = kernels.copy(pairs)
        for target, _ in pairs:
            target.fill_(-1)
        launch()
        right = all(torch.equal(target, source) for target, source in pairs)
        moved = 2 * sum(target.nbytes for target, _ in pairs)
        ways = {"": launch}
        if name == "one copy":
            ways = {"by torch": lambda pairs=pairs: pairs[0][0].copy_(pairs[0][1]), "by our kernel": launch}
        for way, call in ways.items():
            seconds = _median_seconds(rank, call)
            found[f"{name} {way}".strip()] = {"GB/s": moved / seconds / 1e9, "right": float(right), "bytes": moved}
    sums = torch.zeros(1 + flat.nbytes // MIB, dtype=torch.int64, device=device)
    seconds = _median_seconds(rank, kernels.digest([(0, flat)], sums, flat.nbytes))
    found["digest"] = {"GB/s": flat.nbytes / seconds / 1e9, "right": 1.0, "bytes": flat.nbytes}
    return found


def _median_seconds(rank: Rank, call: Callable[[], object]) -> float:
    if rank.options.cpu:
        begin = time.perf_counter()
        call()
        return time.perf_counter() - begin
    times = []
    for _ in range(12):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        call()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end) / 1e3)
    return statistics.median(times[2:])


SWEEP = (
    *((mode, Setting(bucket_bytes=512 * MIB, buffer_bytes=GIB)) for mode in ("off", "shadow")),
    ("off", Setting(programs=32)),
    ("off", Setting(check_first=False)),
    ("off", Setting(least=256 * MIB)),
    *(("shadow", Setting(programs=programs)) for programs in (24, 32, 40)),
)


def work(rank: int, world: int, port: int, options: argparse.Namespace) -> None:
    """All tests, on one rank."""
    me = Rank(rank, world, port, options)
    tests = options.tests.split(",")
    setting = Setting(4096, 1024) if options.cpu else Setting()
    repeats = 1 if options.cpu else REPEATS
    done: dict[str, Measured] = {"ceiling": me.ceiling()}
    until = time.monotonic() + options.deadline

    def run(name: str, *args: Any, **more: Any) -> None:
        if me.agree(time.monotonic(), dist.ReduceOp.MAX) > until:
            return
        done[name] = me.sync(*args, **more)
        if rank == 0:
            one = done[name]
            best = me.nbytes / min(one.seconds) / 1e9 / done["ceiling"].facts["GB/s"]
            print(f"{name:<60}{one.median * 1e3:9.2f} ms  median {me.nbytes / one.median / 1e9:7.1f} GB/s "
                  f"{me.nbytes / one.median / 1e9 / done['ceiling'].facts['GB/s']:.3f} best {best:.3f} "
                  f"{ {k: round(statistics.median(v) * 1e3, 2) for k, v in one.parts.items()} } right {one.correct}",
                  flush=True)  # fmt: skip

    for mode in ("off", "shadow", "undo"):
        if mode in tests:
            run(mode, mode, setting, repeats=repeats)
    if "ep" in tests and world > 2:
        run("ep", "off", setting, spread=True, repeats=repeats)
    if options.sweep:
        for mode, other in SWEEP:
            changed = {k: v for k, v in asdict(other).items() if v != asdict(Setting())[k]}
            run(f"sweep {mode} {changed}", mode, other, repeats=3)
    alone = transforms(me) if "transforms" in tests else {}
    me.barrier()
    if rank == 0:
        report(me, done, alone, options)
    me.barrier()


def report(
    me: Rank, done: dict[str, Measured], alone: dict[str, dict[str, float]], options: argparse.Namespace
) -> None:
    """Rows with their bars: seconds over the seconds that the ceiling would take for the same bytes."""
    rate = done["ceiling"].facts["GB/s"] * 1e9
    floor = me.nbytes / rate
    group = f"{me.nbytes / 1e9:.2f} GB in {len(me.shapes)} tensors, {me.world} ranks: ms (bar: times the ceiling)"
    rows = [Row(group, "ceiling: the same bytes at the rate of a 1 GiB broadcast", floor * 1e3, "ms", reference=True,
                note=f"{rate / 1e9:.1f} GB/s")]  # fmt: skip

    def add(name: str, seconds: list[float], bar: float | None, right: bool, note: str = "") -> None:
        spread = (max(seconds) - min(seconds)) / 2
        value = statistics.median(seconds)
        told = f"{me.nbytes / value / 1e9:.1f} GB/s = {floor / value:.3f}" + (f", {note}" if note else "")
        rows.append(Row(group, name, value * 1e3, "ms", spread * 1e3, bar=bar, note=told + ("" if right else " WRONG")))

    two = me.world == 2
    if "off" in done:
        one = done["off"]
        add("hardpoint, mode off", one.seconds, 1 / (0.94 if two else 0.90), one.correct,
            f"trainer buffers {one.facts['trainer_buffer_bytes'] / MIB:.0f} MiB")  # fmt: skip
    if "shadow" in done:
        one = done["shadow"]
        add("hardpoint, mode shadow: staged and verified", one.parts["staged"], 1 / 0.85, one.correct)
        pause = statistics.median(a - b for a, b in zip(one.seconds, one.parts["staged"], strict=True))
        add("hardpoint, mode shadow: committed", one.seconds, 1 / 0.72, one.correct,
            f"serving pause {pause * 1e3:.2f} ms")  # fmt: skip
    if "ep" in done:
        add("hardpoint, experts to their owners, mode off", done["ep"].seconds, 1 / 0.95, done["ep"].correct)
    if "undo" in done:
        slow = max(floor, me.nbytes / me.pinned)
        other = "mode undo: ms (bar: times the larger of broadcast and copy to the host)"
        rows += [Row(other, "these bytes to pinned memory, or the broadcast", slow * 1e3, "ms",
                     reference=True, note=f"{me.pinned / 1e9:.1f} GB/s"),
                 Row(other, "hardpoint, mode undo", done["undo"].median * 1e3, "ms", bar=1.10,
                     note="" if done["undo"].correct else "WRONG")]  # fmt: skip
    if options.peers and "off" in done:
        peers = json.loads(Path(options.peers).read_text())["results"]
        for key, (name, times) in PEERS.items():
            if "seconds_median" in peers.get(key, {}):
                value = peers[key]["seconds_median"]
                faster = value / done["off"].median
                verdict = f"; off is {faster:.1f}x faster" + (
                    f", bar {times}x {'met' if faster >= times else 'MISSED'}" if times else ""
                )
                rows.append(Row(group, name, value * 1e3, "ms", note=f"{floor / value:.3f}{verdict}"))
        rows.sort(key=lambda row: row.group != group)
    if alone:
        other = "the layout transform alone: us for 1 GB moved (bar: times one copy)"
        copy = alone["one copy by torch"]["GB/s"]
        rows += [Row(other, ("hardpoint, " if name != "one copy by torch" else "") + name, 1e6 / one["GB/s"], "us",
                     reference=name == "one copy by torch",
                     bar=1 / 0.85 if "experts" in name else None,
                     note=f"{one['GB/s']:.0f} GB/s = {one['GB/s'] / copy:.3f}" + ("" if one["right"] else " WRONG"))
                 for name, one in alone.items()]  # fmt: skip
    save("weight_sync", rows, options.out)
    facts = {name: {"seconds": one.seconds, "parts": one.parts, "correct": one.correct} | one.facts
             for name, one in done.items()}  # fmt: skip
    (options.out / "weight_sync_runs.json").write_text(json.dumps({"runs": facts, "transforms": alone}, indent=1))


def main() -> None:
    """Start one process for each GPU."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    parser.add_argument("--peers", type=Path)
    parser.add_argument("--tests", default="off,shadow,undo,ep,transforms")
    parser.add_argument("--sweep", action="store_true", help="try other settings as well")
    parser.add_argument("--trace", action="store_true", help="write what the devices did in one more update per mode")
    parser.add_argument("--deadline", type=float, default=300.0, help="seconds after which no further test begins")
    parser.add_argument("--layers", type=int, default=REAL.layers)
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("--world", type=int, default=0)
    options = parser.parse_args()
    world = options.world or (2 if options.cpu else torch.cuda.device_count())
    if world < 2:
        raise SystemExit("a sync needs a trainer and a receiver: two GPUs, or --cpu")
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    options.out.mkdir(parents=True, exist_ok=True)
    mp.spawn(work, args=(world, port, options), nprocs=world)


if __name__ == "__main__":
    main()

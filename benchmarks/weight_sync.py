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
import os
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

for _name in ("NCCL_NVLS_ENABLE", "TORCH_SYMM_MEM_DISABLE_MULTICAST", "NVSHMEM_DISABLE_NVLS"):
    os.environ.setdefault(_name, "0" if _name.startswith("NCCL") else "1")

import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402
import torch.multiprocessing as mp  # noqa: E402
from sync_model import REAL, TINY, Weights  # noqa: E402
from sync_report import Measured, report  # noqa: E402
from sync_transforms import transforms  # noqa: E402

from hardpoint.backend import Backend  # noqa: E402
from hardpoint.sync.plan import Coordinates, Offer, Sources, Storages, make_plan  # noqa: E402
from hardpoint.sync.stream import (  # noqa: E402
    DIRECT_BYTES,
    CommunicatorLink,
    StreamReceiver,
    StreamSender,
    Undo,
    audiences_of,
    bind_commit,
    open_link,
    stamp_of,
)

GIB, MIB = 1 << 30, 1 << 20
REPEATS = 5


@dataclass(frozen=True)
class Setting:
    """What a sweep tries. `programs`: of a layout kernel's launch, None for the backend's own choice. `check_first`: in
    place, wait for the stamp of the update before anything is overwritten."""

    bucket_bytes: int = GIB
    least: int = DIRECT_BYTES
    buffer_bytes: int = 2 * GIB
    programs: int | None = None
    check_first: bool = True


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
        self.weights = Weights(self.shapes, self.device)
        self.tensors = {name: self.weights.value(name) for name in self.shapes} if rank == 0 else {}

    def _backend(self) -> Backend:
        if self.options.cpu:
            from hardpoint_cpu import hardpoint_info
            from hardpoint_cpu.backend import build as build_cpu

            torch.set_num_threads(1)
            return build_cpu(hardpoint_info(), {})
        from hardpoint_cuda.backend import build

        return build({})

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
        commit = bind_commit(shared["kernels"], live, target)
        own = tuple(range(self.size.experts))
        if spread:
            each = self.size.experts // (self.world - 1)
            own = own[(self.rank - 1) * each : self.rank * each]
        good = [True]
        begun = [False]

        def poison() -> None:
            if begun[0]:
                good[0] &= self.weights.right(live.named, own)
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
                commit()
                self.synchronize()
            return {"sent": sent, "staged": staged}

        found = self.timed(call, poison, repeats, mode)
        good[0] &= self.weights.right(live.named, own)
        self.barrier()
        found.correct = good[0]
        return found


SWEEP = (
    *((mode, Setting(bucket_bytes=512 * MIB, buffer_bytes=GIB)) for mode in ("off", "shadow")),
    *((mode, Setting(programs=64)) for mode in ("off", "shadow")),
    ("off", Setting(least=256 * MIB)),
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
    alone = transforms(me.size, me.device, me.backend.box_kernels) if "transforms" in tests else {}
    me.barrier()
    if rank == 0:
        report(
            done,
            alone,
            nbytes=me.nbytes,
            tensors=len(me.shapes),
            ranks=world,
            pinned=me.pinned,
            peers=options.peers,
            out=options.out,
        )
    me.barrier()


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

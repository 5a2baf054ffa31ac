"""Host cost of launching a Triton kernel: hardpoint's launcher beside Triton's own ways, in one run on one GPU.

    python benchmarks/launch.py [--out FOLDER]

The kernels do almost nothing, so the host is what is timed; the device queue is emptied between batches.
"""

from __future__ import annotations

import argparse
import gc
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import triton
import triton.language as tl
from report import Row, save

from hardpoint import guard
from hardpoint.launcher.triton import TritonLauncher
from hardpoint.launcher.triton.releases import direct_launch


@triton.jit
def k12(a, b, c, d, e, f, n, m, s, t, BLOCK: tl.constexpr, FLAG: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(a + i, tl.load(b + i), mask=i < n)


@triton.jit
def k40(
    p0, p1, p2, p3, p4, p5, p6, p7, p8, p9, p10, p11, p12, p13, n, m, scale,
    C0: tl.constexpr, C1: tl.constexpr, C2: tl.constexpr, C3: tl.constexpr, C4: tl.constexpr, C5: tl.constexpr,
    C6: tl.constexpr, C7: tl.constexpr, C8: tl.constexpr, C9: tl.constexpr, C10: tl.constexpr, C11: tl.constexpr,
    C12: tl.constexpr, C13: tl.constexpr, C14: tl.constexpr, C15: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    i = tl.arange(0, BLOCK)
    tl.store(p0 + i, tl.load(p1 + i), mask=i < n)


def host_us(call: Callable[[], object], batch: int = 200, batches: int = 41) -> tuple[float, float]:
    """Median host microseconds of one call, and half the 20-80 % range."""
    for _ in range(batch):
        call()
    times = []
    for _ in range(batches):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        for _ in range(batch):
            call()
        times.append((time.perf_counter() - begin) / batch * 1e6)
    return statistics.median(times), _spread(times)


def launches(group: str, kernel: triton.JITFunction, args: tuple, constants: dict, bar: float) -> list[Row]:
    """Rows for one kernel."""
    launcher = TritonLauncher("cuda")
    grid = (1,)
    compiled = kernel[grid](*args, **constants)
    stream = torch.cuda.current_stream().cuda_stream
    every = (*args, *constants.values())
    bound = launcher.bind(kernel, *args, grid=grid, **constants)

    def in_device() -> None:
        with torch.cuda.device(0):
            kernel[grid](*args, **constants)

    def run() -> None:
        compiled.run(1, 1, 1, stream, compiled.function, compiled.packed_metadata, None, None, None, *every)

    direct = direct_launch(compiled, triton.__version__, "cuda")
    values = [a.data_ptr() if direct.pointers_as_ints and isinstance(a, torch.Tensor) else a for a in every]
    entry, fixed = direct.function, (1, 1, 1, stream, *direct.before, *values)

    cases: list[tuple[str, Callable[[], object], bool, float | None]] = [
        ("kernel[grid]", lambda: kernel[grid](*args, **constants), True, None),
        ("kernel[grid] in torch.cuda.device", in_device, False, None),
        ("CompiledKernel.run, nothing checked", run, False, None),
        ("C launcher, fixed integers, nothing checked", lambda: entry(*fixed), False, None),
        ("hardpoint bound", lambda: bound(*args), False, bar),
        ("hardpoint launch", lambda: launcher.launch(kernel, *args, grid=grid, **constants), False, None),
    ]
    # In turns, and several times: the clock of a host drifts, and a ratio is only worth what its two halves share.
    seen: dict[str, list[float]] = {name: [] for name, *_ in cases}
    for _ in range(7):
        for name, call, *_ in cases:
            seen[name].append(host_us(call, batches=9)[0])
    return [
        Row(group, name, statistics.median(seen[name]), "us", _spread(seen[name]), reference, wanted)
        for name, _, reference, wanted in cases
    ]


def _spread(times: list[float]) -> float:
    ordered = statistics.quantiles(times, n=5)
    return (ordered[-1] - ordered[0]) / 2


def guarded(kernel: triton.JITFunction, args: tuple, constants: dict) -> list[Row]:
    """Rows for other people's launches with the guard off and on; alternated, since the guard's cost is small."""
    off, on = [], []
    for _ in range(25):  # short turns: what is looked for is 1 us in 25, and the clock of a host drifts by more
        off.append(host_us(lambda: kernel[(1,)](*args, **constants), batches=5)[0])
        guard.install("cuda")
        on.append(host_us(lambda: kernel[(1,)](*args, **constants), batches=5)[0])
        guard.remove()
    extra = statistics.median(b - a for a, b in zip(off, on, strict=True))
    group = "guard on a launch by others, tensor's device is current"
    rows = [
        Row(group, "kernel[grid], no guard", statistics.median(off), "us", reference=True),
        Row(group, "kernel[grid], hardpoint guard", statistics.median(on), "us"),
        Row(
            "guard, added per launch (bar 1.5 us)",
            "hardpoint guard",
            extra,
            "us",
            note="met" if extra <= 1.5 else "MISSED",
        ),
    ]
    if torch.cuda.device_count() > 1:
        there = tuple(a.to("cuda:1") if isinstance(a, torch.Tensor) else a for a in args)
        differences = []
        for _ in range(5):
            with torch.cuda.device(1):
                base = host_us(lambda: kernel[(1,)](*there, **constants), batches=11)[0]
            guard.install("cuda")
            differences.append(host_us(lambda: kernel[(1,)](*there, **constants), batches=11)[0] - base)
            guard.remove()
        switch = statistics.median(differences)
        verdict = "met" if switch <= 4 else "MISSED"
        rows.append(Row("guard, added when it switches (bar 4 us)", "hardpoint guard", switch, "us", note=verdict))
    return rows


def preload() -> list[Row]:
    """Loading one form from a warm disk cache: on the first device, and on the next ones, which take the same code."""
    first, further = [], []
    x = torch.zeros(4096, device="cuda")
    blocks = (16, 32, 64, 128, 256, 512, 1024, 2048)
    for block in blocks:
        k12.warmup(x, x, x, x, x, x, 7, 8, 9, 10, block, True, grid=(1,))
    others = list(range(1, torch.cuda.device_count()))
    for other in others:
        torch.zeros(1, device=f"cuda:{other}")  # a context is not what is timed
    for _ in range(3):
        k12.device_caches.clear()  # forget what this process holds; the disk cache keeps it
        launcher = TritonLauncher("cuda")
        for block in blocks:
            for devices, times in (([0], first), *(([other], further) for other in others)):
                begin = time.perf_counter()
                launcher.preload(k12, x, x, x, x, x, x, 7, 8, 9, 10, BLOCK=block, FLAG=True, devices=devices)
                times.append((time.perf_counter() - begin) * 1e3)
    group = "preload from a warm disk cache, one kernel on one device (bar 1 ms)"
    rows = [_judged(group, "hardpoint preload, first device", statistics.median(first), 1.0)]
    if further:
        rows.append(_judged(group, "hardpoint preload, further devices", statistics.median(further), 1.0))
    return rows


def _judged(group: str, name: str, value: float, bar: float) -> Row:
    return Row(group, name, value, "ms", note="met" if value <= bar else "MISSED")


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    options = parser.parse_args()
    # One core and no garbage collections: what is compared are microseconds of one thread.
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    gc.disable()
    t = [torch.zeros(4096, device="cuda") for _ in range(14)]
    a12, c12 = (*t[:6], 4096, 17, 33, 64), {"BLOCK": 64, "FLAG": True}
    a40, c40 = (*t, 4096, 17, 0.5), {**{f"C{i}": i for i in range(16)}, "BLOCK": 64}
    rows = launches("12 arguments (6 tensors, 4 integers, 2 constants)", k12, a12, c12, 0.35)
    value, spread = host_us(lambda: t[0].add_(1))
    rows.append(Row(rows[0].group, "torch x.add_(1)", value, "us", spread))
    save("launch", rows, options.out, show=False)  # as it goes: a run that is cut off leaves what it had
    rows += launches("34 parameters (14 tensors, 3 scalars, 17 constants)", k40, a40, c40, 0.35)
    save("launch", rows, options.out, show=False)
    rows += guarded(k12, a12, c12)
    save("launch", rows, options.out, show=False)
    rows += preload()
    save("launch", rows, options.out)


if __name__ == "__main__":
    main()

"""What it costs to have vLLM's GDN kernels loaded before they are needed, from a warm disk cache.

    python benchmarks/preload_gdn.py [--out FOLDER]

The launches of the cases of tests/gpu/test_gdn_kernels.py are recorded once (that fills the cache); then all that
this process holds is forgotten and each is preloaded again. Needs two GPUs, vLLM (CUDA) and Triton.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from report import Row, save
from triton.runtime.jit import JITFunction

from hardpoint.launcher.triton import TritonLauncher

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "gpu"))


def recorded() -> list[tuple[Any, tuple[Any, ...], dict[str, Any]]]:
    """One launch of each compiled form that the cases need, on cuda:1."""
    import test_gdn_kernels as cases

    found: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = []
    original = JITFunction.run

    def run(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> Any:
        before = sum(len(cache[0]) for cache in self.device_caches.values())
        result = original(self, *args, grid=grid, warmup=warmup, **kwargs)
        if sum(len(cache[0]) for cache in self.device_caches.values()) > before:
            found.append((self, args, {name: value for name, value in kwargs.items() if name not in _TRITONS}))
        return result

    JITFunction.run = run
    try:
        with torch.cuda.device(1):
            for case in cases.VLLM:
                case(cases.Inputs())
    finally:
        JITFunction.run = original
    return found


_TRITONS = ("debug", "instrumentation_mode")


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    options = parser.parse_args()
    launches = recorded()
    times: dict[int, list[float]] = {1: [], 0: []}
    for _ in range(3):
        for kernel, _, _ in launches:
            kernel.device_caches.clear()
        launcher = TritonLauncher("cuda")
        for kernel, args, kwargs in launches:
            for device in (1, 0):
                begin = time.perf_counter()
                launcher.preload(kernel, *args, devices=[device], **kwargs)
                times[device].append((time.perf_counter() - begin) * 1e3)
    group = f"preload of {len(launches)} forms of vLLM's GDN kernels, per kernel and device (bar 1 ms)"
    rows = []
    for name, values in (("first device", times[1]), ("second device", times[0]), ("both", times[1] + times[0])):
        mean = statistics.mean(values)
        rows.append(Row(group, f"hardpoint preload, {name}", mean, "ms", note="met" if mean <= 1 else "MISSED"))
    save("preload_gdn", rows, options.out)


if __name__ == "__main__":
    main()

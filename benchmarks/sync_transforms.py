"""The layout transform alone, for the weight-sync benchmark: every kind of it beside one plain copy."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from sync_model import Size

from hardpoint.sync.stream import BoxKernels

MIB = 1 << 20


def transforms(size: Size, device: torch.device, kernels: BoxKernels) -> dict[str, dict[str, float]]:
    """The layout transform alone, on one device: bytes moved over seconds, beside one plain copy."""
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
        launch = kernels.copy(pairs, alone=True)
        for target, _ in pairs:
            target.fill_(-1)
        launch()
        right = all(torch.equal(target, source) for target, source in pairs)
        moved = 2 * sum(target.nbytes for target, _ in pairs)
        ways = {"": launch}
        if name == "one copy":
            ways = {"by torch": lambda pairs=pairs: pairs[0][0].copy_(pairs[0][1]), "by our kernel": launch}
        for way, call in ways.items():
            seconds = _median_seconds(device, call)
            found[f"{name} {way}".strip()] = {"GB/s": moved / seconds / 1e9, "right": float(right), "bytes": moved}
    sums = torch.zeros(1 + flat.nbytes // MIB, dtype=torch.int64, device=device)
    seconds = _median_seconds(device, kernels.digest([(0, flat)], sums, flat.nbytes))
    found["digest, beside a collective"] = {"GB/s": flat.nbytes / seconds / 1e9, "right": 1.0, "bytes": flat.nbytes}
    return found


def _median_seconds(device: torch.device, call: Callable[[], object]) -> float:
    if device.type == "cpu":
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

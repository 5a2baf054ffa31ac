"""What rules, zero tail and recorder add to a decode step on the host: microseconds, and the share of a step.

    python benchmarks/parallel_step.py [--layers 48] [--step-ms 10] [--out FOLDER]

A step of `--layers` layers, each with one attention and two MoE collectives, on two data-parallel ranks with 26 and 30
rows. `--step-ms` is what a step takes without them: an assumption, 10 ms is a fast decode step of a 30B model with 3B
active parameters on a current GPU. Under `torch.inference_mode`, as vLLM's workers run. On a device the fill itself is
not the host's; here it is, and a row of its own says how much of the tail it is.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from report import Row, save

from hardpoint.attention import ReferenceAttentionBuffers
from hardpoint.communicator.recorder import DONE, FlightRecorder
from hardpoint.dp import DpRule
from hardpoint.probe.scan import RowScan

ROUNDS = 200


def median_us(work: Callable[[], object]) -> tuple[float, float]:
    """Microseconds of one call: median, and half the distance of the 20 % and 80 % quantiles."""
    work()
    seen = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        work()
        seen.append((time.perf_counter() - began) * 1e6)
    low, *_, high = statistics.quantiles(seen, n=5)
    return statistics.median(seen), (high - low) / 2


@torch.inference_mode()
def main() -> None:
    """Measure and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=48)
    parser.add_argument("--step-ms", type=float, default=10.0)
    parser.add_argument("--out", type=Path, default=Path("out"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    rule, buffers, recorder = DpRule(), ReferenceAttentionBuffers(), FlightRecorder("bench", 0, 2)
    counts = torch.tensor([26, 30], dtype=torch.int32)
    output = torch.ones(30, 32, 128, dtype=torch.bfloat16)

    def rules() -> None:  # as `hardpoint_vllm.parallel.padding.padded_counts`
        tokens = counts.tolist()
        padded = rule.plan(tokens, tp=2, expert_parallel=True).num_padded_tokens
        if padded != tuple(tokens):
            torch.tensor(padded, dtype=torch.int32)

    def tail() -> None:
        for _ in range(options.layers):
            if output.shape[0] > 26:
                buffers.finish(output, 26)

    kept = output[26:]

    def fill() -> None:
        for _ in range(options.layers):
            kept.zero_()

    def record() -> None:
        for number in range(2 * options.layers):
            recorder.enter(number, "all_gather", "bfloat16 [30, 2048]")
            recorder.mark(number, DONE)

    def together() -> None:
        rules()
        tail()
        record()

    group = f"one step of {options.layers} layers, beside {options.step_ms:g} ms"
    rows = [Row(group, "allowed: 1 % of the step", options.step_ms * 10, "us", reference=True)]
    for name, work in (
        ("hardpoint: rule and plan", rules),
        ("hardpoint: zero tail of 4 rows", tail),
        ("of it: the fill of the memory", fill),
        ("hardpoint: recorder, two calls a layer", record),
        ("hardpoint: together", together),
    ):
        value, spread = median_us(work)
        rows.append(Row(group, name, value, "us", spread, bar=1.0 if name.endswith("together") else None))
    group = f"the probe on a step of {options.layers} layers with 30 rows of 2048, bfloat16, before and after each"
    scan, hidden = RowScan(2 * options.layers, 64, torch.device("cpu")), torch.ones(30, 2048, dtype=torch.bfloat16)

    def probe() -> None:
        for place in range(2 * options.layers):
            scan.look(place, hidden)
        scan.finish_step()
        scan.found()

    value, spread = median_us(probe)
    rows.append(Row(group, "hardpoint: HARDPOINT_PROBE=nan", value, "us", spread, note="unset: nothing is patched"))
    save("parallel_step", rows, options.out)


if __name__ == "__main__":
    main()

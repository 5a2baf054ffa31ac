"""What the flight recorder adds to a collective: enter and mark, beside an empty call and the 2 us that are allowed.

python benchmarks/recorder.py [--out FOLDER]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from report import Row, save

from hardpoint.communicator.recorder import DONE, ISSUED, FlightRecorder

CALLS, ROUNDS = 20_000, 15


def per_call(work: Callable[[int], object]) -> tuple[float, float]:
    """Microseconds of one call: median over rounds, and half the distance of the 20 % and 80 % quantiles."""
    seen = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        for number in range(CALLS):
            work(number)
        seen.append((time.perf_counter() - began) / CALLS * 1e6)
    low, *_, high = statistics.quantiles(seen, n=5)
    return statistics.median(seen), (high - low) / 2


def main() -> None:
    """Measure and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out"))
    out = parser.parse_args().out
    recorder = FlightRecorder("bench", 0, 2)

    def host(number: int) -> None:
        recorder.enter(number, "all_gather", "bfloat16 [30, 2048]")
        recorder.mark(number, DONE)

    def device(number: int) -> None:
        recorder.enter(number, "all_gather", "bfloat16 [30, 2048]", 7)
        recorder.mark(number, ISSUED)
        recorder.mark(number, DONE)

    group = "flight recorder, one call"
    rows = [Row(group, "allowed", 2.0, "us", reference=True)]
    for name, work in (
        ("an empty function", lambda number: None),
        ("hardpoint host", host),
        ("hardpoint device", device),
    ):
        value, spread = per_call(work)
        rows.append(Row(group, name, value, "us", spread, bar=1.0 if name.startswith("hardpoint") else None))
    if torch.accelerator.is_available():
        value, spread = per_call(lambda number: torch.accelerator.current_stream(0).stream_id)
        rows.append(Row(group, "hardpoint: id of the current stream", value, "us", spread))
    save("recorder", rows, out)


if __name__ == "__main__":
    main()

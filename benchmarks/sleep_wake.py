"""Sleep and wake of weights beside the rate of plain copies, with as many ranks at once; the protocol apart.

    python benchmarks/sleep_wake.py [--device cuda:sleep] [--ranks 1 2] [--gib 0.25] [--cycles 6] [--out FOLDER]

Each rank is a process and holds `--gib`. The first cycle is apart from the later ones (pinning, first touch). On CUDA
vLLM's own cumem is measured in the same run, where vLLM is installed.
"""

from __future__ import annotations

import argparse
import importlib.util
import multiprocessing
import os
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sleep_ranks
import torch.distributed as dist
from lines import Line, Panel, draw
from report import Row, save

GIB = 1 << 30
BAR = 1 / 0.85  # of the time that plain copies take; on a GPU, where contents stay in pinned memory
PROTOCOL_BAR = 5.0  # ms at 4 ranks
SECONDS = 300.0


def on_ranks(function: Callable[..., Any], world: int, *arguments: Any) -> list[Any]:
    """``function(port, rank, world, *arguments)`` in `world` processes; RuntimeError if one of them ends badly."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    context = multiprocessing.get_context("spawn")
    pipes, processes = [], []
    try:
        for rank in range(world):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, function, store.port, rank, world, arguments))
            process.start()
            theirs.close()
            pipes.append(ours)
            processes.append(process)
        found = []
        for rank, pipe in enumerate(pipes):
            if not pipe.poll(SECONDS):
                raise RuntimeError(f"{function.__name__}: rank {rank} did not answer within {SECONDS:g} s")
            found.append(pipe.recv())  # EOFError: its error is on the terminal
        return found
    finally:
        for process in processes:
            process.join(10)
            if process.is_alive():
                process.kill()


def _serve(pipe: Any, function: Callable[..., Any], port: int, rank: int, world: int, arguments: Any) -> None:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    pipe.send(function(port, rank, world, *arguments))


def slowest(ranks: list[list[Any]], read: Callable[[Any], float]) -> list[float]:
    """Per repetition, of the slowest rank."""
    return [max(read(one) for one in together) for together in zip(*ranks, strict=True)]


def cycle_rows(
    rows: list[Row], name: str, ranks: list[list[Any]], base: dict[str, float], gpu: bool, nbytes: int
) -> None:
    """Rows of one series of cycles, in the groups of sleep and wake."""
    for kind in ("sleep", "wake"):
        seconds = slowest(ranks, lambda cycle, kind=kind: getattr(cycle, kind))  # type: ignore[misc]
        group = _group(kind, len(ranks), nbytes)
        later = statistics.median(seconds[1:])
        spread = (max(seconds[1:]) - min(seconds[1:])) / 2
        ratio = base[kind] / later
        bar = BAR if gpu and name.startswith("hardpoint") else None
        rows.append(Row(group, f"{name}: first cycle", seconds[0] * 1e3, "ms", note=_rate(nbytes, seconds[0])))
        rows.append(
            Row(group, name, later * 1e3, "ms", spread * 1e3, bar=bar, note=f"{_rate(nbytes, later)} = {ratio:.2f}")
        )


def residual_row(name: str, ranks: list[list[Any]], nbytes: int) -> Row:
    """What stays in memory while asleep, per cycle; the note has how much it grew."""
    left = slowest(ranks, lambda cycle: cycle.residual / (1 << 20))
    note = "per cycle: " + " ".join(f"{one:.1f}" for one in left)
    return Row(
        f"memory left of {nbytes >> 20} MiB a rank while it sleeps", name, statistics.median(left), "MiB", note=note
    )


def _group(kind: str, world: int, nbytes: int) -> str:
    return f"{kind} of {nbytes / GIB:g} GiB a rank, {world} ranks at once (bar: times a plain copy)"


def _rate(nbytes: int, seconds: float) -> str:
    return f"{nbytes / seconds / 1e9:.2f} GB/s"


def main() -> None:
    """Measure and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu", help="backend: cpu or cuda:sleep")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--gib", type=float, default=0.25)
    parser.add_argument("--cycles", type=int, default=6)
    parser.add_argument("--votes", type=int, default=30, help="sleeps of a page, for the protocol alone")
    parser.add_argument("--out", type=Path, default=Path("out"))
    options = parser.parse_args()
    gpu, nbytes = options.device != "cpu", int(options.gib * GIB)
    rows: list[Row] = []
    for world in options.ranks:
        copies = on_ranks(sleep_ranks.floor, world, options.device, nbytes, 5)
        medians = {n: statistics.median(slowest([c[n] for c in copies], float)) for n in copies[0]}
        base = (
            {"sleep": medians["to pinned"], "wake": medians["from pinned"]}
            if gpu
            else dict.fromkeys(("sleep", "wake"), medians["copy"])
        )
        for kind in ("sleep", "wake"):
            where = "pinned copy" if gpu else "memcpy"
            rows.append(Row(_group(kind, world, nbytes), f"plain {where}", base[kind] * 1e3, "ms", reference=True,
                            note=_rate(nbytes, base[kind])))  # fmt: skip
            if not gpu:
                name = "to file" if kind == "sleep" else "from file"
                rows.append(Row(_group(kind, world, nbytes), f"plain copy {name}", medians[name] * 1e3, "ms",
                                note=_rate(nbytes, medians[name])))  # fmt: skip
        series = {
            "hardpoint, new weights": (True, False),
            "hardpoint, new weights, copies kept": (True, True),
            "hardpoint, same weights, copies kept": (False, True),
        }
        for name, (change, keep) in series.items():
            done = on_ranks(sleep_ranks.cycles, world, options.device, nbytes, options.cycles, change, keep)
            cycle_rows(rows, name, done, base, gpu, nbytes)
            rows.append(residual_row(f"{name}, {world} ranks", done, nbytes))
        if gpu and importlib.util.find_spec("vllm"):
            done = on_ranks(sleep_ranks.stock, world, options.device, nbytes, options.cycles)
            cycle_rows(rows, "vLLM's cumem", done, base, gpu, nbytes)
            rows.append(residual_row(f"vLLM's cumem, {world} ranks", done, nbytes))
    lines: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for world in (1, 2, 4):
        group = f"protocol of a transition without the drain, {world} ranks"
        rows.append(Row(group, "allowed at 4 ranks", PROTOCOL_BAR, "ms", reference=True))
        for kind in ("store", "gloo") if world > 1 else ("no",):
            done = on_ranks(sleep_ranks.protocol, world, kind, options.votes)
            for step in ("sleep", "wake"):
                seen = [min(together) for together in zip(*(rank[step] for rank in done), strict=True)]
                low, *_, high = statistics.quantiles(seen, n=5)
                value, bar = statistics.median(seen), 1.0 if world == 4 else None
                rows.append(Row(group, f"hardpoint, {step}, {kind} vote", value, "ms", (high - low) / 2, bar=bar))
                for over in (kind,) if world > 1 else ("store", "gloo"):  # one rank has nobody to vote with
                    lines.setdefault(over, {}).setdefault(step, []).append((world, value))
    groups = list(dict.fromkeys(row.group for row in rows))
    rows.sort(key=lambda row: groups.index(row.group))
    save("sleep_wake", rows, options.out)
    allowed = Line("allowed at 4 ranks", [(1, PROTOCOL_BAR), (4, PROTOCOL_BAR)])
    draw(
        options.out / "sleep_wake.svg",
        [
            Panel(
                f"ms of protocol per transition, by ranks; votes over {over}",
                [*(Line(step, points) for step, points in steps.items()), allowed],
            )
            for over, steps in lines.items()
        ],
    )


if __name__ == "__main__":
    main()

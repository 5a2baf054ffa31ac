"""The control plane of weight sync at 1 to 1,024 ranks: messages and seconds of a vote, planning by tensors. No GPU.

    python benchmarks/control_plane.py [--out FOLDER]

The protocol objects themselves on the in-process transport. Seconds of a vote are on its virtual clock: each message
takes `LATENCY` on its way and the measured handling time at its sender and at its receiver, one after the other. The
star (every rank talks to the trainer) is there for contrast.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import replace
from pathlib import Path

import torch
from lines import Line, Panel, draw
from plan import checkpoint, forget, qwen3_30b_a3b, receivers
from report import Row, save

from hardpoint.sync.plan import Coordinates, ModelSpec, Offer, Planner, Storages, make_plan, replicated
from hardpoint.sync.transaction import Coordinator, InProcess, Participant, Stage, Tree

LATENCY = 5e-5  # one way, TCP between hosts of one room
SIZES = (1, 4, 16, 64, 256, 1024)
W = {"w": torch.zeros(4)}


def crowd(size: int, arity: int, handling: float) -> tuple[InProcess, Coordinator]:
    """A trainer and `size` ranks that hold one small tensor."""
    model = ModelSpec((replicated("w", "w", (4,), "float32"),), 1)
    places = {rank: Coordinates(dp_rank=rank - 1, dp_size=size) for rank in range(1, size + 1)}
    plan = make_plan(Offer.of(W), model.receivers(places))
    net = InProcess(latency=LATENCY, handling=handling)
    trainer = Coordinator(plan, arity=arity)
    net.replace(0, trainer)
    for rank in places:
        net.replace(rank, Participant(Storages(plan, rank, {"w": torch.zeros(4)}), arity=arity))
    return net, trainer


def vote(size: int, arity: int, handling: float) -> dict[str, float]:
    """One vote, the one that opens an update."""
    net, trainer = crowd(size, arity, handling)
    begin = time.process_time()
    net.post(0, trainer.start("s", 1, W, 0.0, deadline=60.0))
    if not net.run(lambda: trainer.stage is Stage.STREAM, 60.0):
        raise RuntimeError(f"the vote of {size} ranks did not end: {trainer.outcome}")
    return {
        "ranks": size,
        "seconds": net.now,
        "messages": net.sent,
        "busiest": max(net.by_node.values()),
        "processor": (time.process_time() - begin) / net.sent,
    }


def naming(size: int, deadline: float) -> dict[str, float]:
    """Seconds until an update is aborted when the rank below the trainer (parent of all others) is dead."""
    net, trainer = crowd(size, 4, 2e-5)
    net.kill(1)
    net.post(0, trainer.start("s", 1, W, 0.0, deadline=deadline))
    net.run(lambda: trainer.outcome is not None, 60.0)
    outcome = trainer.outcome
    if outcome is None or outcome.missing != (1,):
        raise RuntimeError(f"expected rank 1 to be named, found {outcome}")
    return {"ranks": size, "seconds": net.now, "messages": net.sent}


def planning(layers: int) -> tuple[int, float]:
    """Tensors, and processor seconds to plan them for four tensor-parallel ranks; median of 3."""
    offer = checkpoint(layers)
    model, ranks = qwen3_30b_a3b(layers=layers), receivers(tp=4)
    times = []
    for _ in range(3):
        forget()
        begin = time.process_time()
        Planner(replace(model), ranks).plan(offer)
        times.append(time.process_time() - begin)
    return len(offer.tensors), statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    handling = statistics.median(vote(1024, 4, 0.0)["processor"] for _ in range(5)) / 2  # half to send, half to take
    tree = [vote(size, 4, handling) for size in SIZES]
    star = [vote(size, size, handling) for size in SIZES]
    dead = [naming(size, 10.0) for size in SIZES[1:]]
    plans = [planning(layers) for layers in (3, 6, 12, 24, 48, 96, 192)]

    rows = []
    for of_tree, of_star in zip(tree, star, strict=True):
        size = int(of_tree["ranks"])
        group = f"vote of {size} ranks"
        note = f"busiest sends {of_star['busiest']:.0f} of {of_star['messages']:.0f} messages"
        rows.append(Row(group, "star", of_star["seconds"] * 1e3, "ms", reference=True, note=note))
        note = f"busiest sends {of_tree['busiest']:.0f} of {of_tree['messages']:.0f} messages, depth {Tree(size).depth}"
        rows.append(Row(group, "hardpoint, tree of four", of_tree["seconds"] * 1e3, "ms", note=note))
    for one in dead:
        rows.append(Row("the root of the tree is dead, deadline 10 s", f"hardpoint, {one['ranks']:.0f} ranks",
                        one["seconds"], "s", note=f"{one['messages']:.0f} messages"))  # fmt: skip
    for tensors, seconds in plans:
        rows.append(Row("planning, TP 4", f"hardpoint, {tensors} tensors", seconds * 1e3, "ms",
                        note=f"{seconds / tensors * 1e6:.1f} us each"))  # fmt: skip
    save("control_plane", rows, options.out)
    (options.out / "control_plane_points.json").write_text(
        json.dumps({"latency": LATENCY, "handling": handling, "tree": tree, "star": star, "dead": dead,
                    "plans": plans}, indent=1))  # fmt: skip
    print(
        f"\n{handling * 1e6:.1f} us to send or to take a message, measured; {LATENCY * 1e6:.0f} us on its way, assumed"
    )
    draw(
        options.out / "control_plane.svg",
        [
            Panel("milliseconds of a vote, by ranks", [
                Line("tree of four", [(p["ranks"], p["seconds"] * 1e3) for p in tree]),
                Line("star", [(p["ranks"], p["seconds"] * 1e3) for p in star]),
            ]),
            Panel("messages that the busiest rank sends in a vote, by ranks", [
                Line("tree of four", [(p["ranks"], p["busiest"]) for p in tree]),
                Line("star", [(p["ranks"], p["busiest"]) for p in star]),
            ]),
            Panel("milliseconds of planning, by tensors", [Line("TP 4", [(n, s * 1e3) for n, s in plans])]),
        ],
    )  # fmt: skip


if __name__ == "__main__":
    main()

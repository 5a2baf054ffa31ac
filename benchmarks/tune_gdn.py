"""Try every configuration of the GDN kernels on this GPU, and write the table that the kernels choose from.

    python benchmarks/tune_gdn.py --out FOLDER [--only decode,prepare,chunk,split] [--budget SECONDS]

Compiles in parallel first (as many processes as cores, through Triton's disk cache), then times one configuration after
the other; FOLDER/tune.json is written as it goes, FOLDER/configs.json at the end: copy it to
kernels/hardpoint_kernels/gdn/configs.json.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from gdn_batches import DecodeBatch, PrefillBatch
from graph_timer import graph_us

from hardpoint_kernels.gdn.configs import Config
from hardpoint_kernels.gdn.decode import fits
from hardpoint_kernels.gdn.heads import Heads

SHARDS = (Heads(16, 32), Heads(4, 8))
REQUESTS = (1, 32, 256)
PROMPTS = ((8192,), (8192,) * 4, (1024,) * 8, (32768,))
DECODE = [
    Config({"BR": rows, "KI": ki, "SR": part}, warps, stages, limit)
    for rows, part, ki, warps, stages, limit in (
        (8, 8, 32, 1, 2, None), (16, 16, 32, 1, 2, None), (16, 16, 64, 1, 2, None), (32, 32, 32, 1, 2, None),
        (32, 32, 32, 1, 2, 192), (32, 32, 32, 2, 2, None), (32, 32, 32, 2, 2, 128), (64, 64, 32, 2, 2, None),
        (64, 64, 32, 4, 2, 128), (128, 128, 32, 8, 2, None), (128, 128, 32, 8, 2, 128), (128, 128, 64, 8, 2, None),
        (128, 128, 32, 16, 2, None), (256, 256, 32, 8, 2, None), (64, 16, 32, 1, 3, None), (128, 16, 32, 1, 4, None),
        (128, 16, 32, 2, 4, None), (128, 16, 32, 2, 4, 96), (128, 32, 32, 2, 3, None), (128, 32, 32, 4, 3, None),
        (128, 32, 32, 4, 3, 80), (128, 32, 32, 4, 4, None), (128, 64, 32, 4, 2, None), (128, 64, 32, 8, 3, None),
        )
]  # fmt: skip
# The windows from registers (WINDOW of the kernel: 1 early, 2 behind the state), for the forms that were quickest.
DECODE += [
    Config({"BR": rows, "KI": ki, "SR": part, "WINDOW": window}, warps, stages)
    for window in (1, 2)
    for rows, part, ki, warps, stages in (
        (8, 8, 32, 1, 2), (16, 16, 32, 1, 2), (16, 16, 64, 1, 2), (32, 32, 32, 1, 2), (32, 32, 32, 2, 2),
        (128, 128, 32, 8, 2), (128, 128, 64, 8, 2), (128, 128, 32, 16, 2), (256, 256, 32, 8, 2), (128, 16, 32, 1, 4),
    )
]  # fmt: skip
PREPARE = [
    Config({"BT": rows}, warps, 2, limit)
    for rows, warps, limit in (
        (4, 1, None), (4, 2, None), (8, 1, None), (8, 2, None), (8, 2, 128), (8, 2, 96), (8, 4, None), (16, 2, 128),
        (16, 4, None), (16, 4, 96), (16, 4, 80), (16, 8, None), (32, 8, 128),
    )
]  # fmt: skip
CHUNK_PREPARE = [
    Config({"SMALL": small}, warps, 1, limit)
    for small, warps, limit in (
        (1, 4, None), (1, 4, 168), (1, 4, 128), (1, 8, None), (1, 8, 128), (0, 4, None), (0, 4, 168),
    )
]  # fmt: skip
CHUNK_SCAN = [
    Config({"BV": rows, "STAGES": stages}, warps)
    for rows, warps, stages in ((64, 4, 1), (64, 4, 2), (64, 4, 3), (128, 8, 3))
]  # fmt: skip
# Into how many segments a sequence is cut; the rest of these configurations is not used.
CHUNK_SPLIT = [Config({"SPLIT": split}, 4) for split in (1, 3, 4, 8, 16)]
SPLIT_PROMPTS = ((1024,), (4096,), (8192,), (32768,), (8192,) * 2, (8192,) * 4)


@dataclass
class Job:
    """One configuration of one kernel for one shape."""

    kernel: str
    shape: dict[str, int]
    config: Config
    run: Callable[[], list[Callable[[], object]]]


def jobs(only: set[str], *, small: bool) -> Iterator[Job]:
    """All of them; with `small` the smallest inputs that compile the same code, and each code once."""
    if "decode" in only:
        for heads in SHARDS:
            for requests in (1,) if small else REQUESTS:
                for dtype in (torch.float32,):
                    batch = DecodeBatch.make(heads, requests, dtype)
                    for norm in (True, False):
                        shape = {
                            "rows": heads.num_v_heads * heads.head_v_dim, "norm": int(norm),
                            "state_bytes": dtype.itemsize, "requests": requests,
                        }  # fmt: skip
                        for config in DECODE:
                            if fits(heads, config, norm=norm):
                                yield Job("decode", shape, config, lambda b=batch, n=norm, c=config: b.ours(n, c))
                    del batch
    for lengths in ((64,),) if small else PROMPTS:
        for heads in SHARDS if len(lengths) == 1 else SHARDS[:1]:
            batch = PrefillBatch.make(heads, lengths)
            if "prepare" in only and len(set(lengths)) == 1 and len(lengths) == 1:
                shape = {"channels": heads.channels, "tokens": batch.tokens}
                for config in PREPARE:
                    yield Job("prepare", shape, config, lambda b=batch, c=config: b.prepare_ours(c))
            if "chunk" in only:
                shape = {"heads": heads.num_v_heads, "sequences": len(lengths), "tokens": batch.tokens}
                for config in CHUNK_PREPARE:
                    yield Job("chunk_prepare", shape, config, lambda b=batch, c=config: b.chunk_ours(prepare=c))
                for config in CHUNK_SCAN:
                    yield Job("chunk_scan", shape, config, lambda b=batch, c=config: b.chunk_ours(scan=c))
            del batch
    if "split" in only:
        for lengths in ((1024,),) if small else SPLIT_PROMPTS:
            for heads in SHARDS:
                batch = PrefillBatch.make(heads, lengths)
                shape = {"heads": heads.num_v_heads, "sequences": len(lengths), "tokens": batch.tokens}
                for config in CHUNK_SPLIT:
                    split = config.blocks["SPLIT"]
                    yield Job("chunk_split", shape, config, lambda b=batch, n=split: b.chunk_ours(split=n))
                del batch


def compile_share(share: int, of: int, only: set[str]) -> None:
    """Run every `of`-th job once on small inputs: compiles it into the disk cache."""
    for number, job in enumerate(jobs(only, small=True)):
        if number % of == share:
            try:
                job.run()[0]()
            except Exception as error:  # noqa: BLE001 - told again, with its time, when it is measured
                print(f"{job.kernel} {job.config}: {type(error).__name__}: {error}"[:300], flush=True)


def best(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The quickest configuration per kernel and shape, in the form of configs.json."""
    table: dict[str, list[dict[str, Any]]] = {}
    for row in sorted((row for row in rows if row["us"] is not None), key=lambda row: row["us"]):
        kept = table.setdefault(row["kernel"], [])
        if all(other["shape"] != row["shape"] for other in kept):
            kept.append({"shape": row["shape"], "config": row["config"], "us": round(row["us"], 2)})
    return {"devices": {torch.cuda.get_device_name(): table}}


def main() -> None:
    """Compile, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", default="decode,prepare,chunk,split")
    parser.add_argument("--budget", type=float, default=240.0)
    parser.add_argument("--share", type=int, nargs=2, help="compile the n-th of m shares, and nothing else")
    parser.add_argument("--compiled", action="store_true", help="all shares were compiled before")
    options = parser.parse_args()
    only, begin = set(options.only.split(",")), time.perf_counter()
    if options.share:
        compile_share(*options.share, only)
        return
    workers = 0 if options.compiled else max(1, min(16, os.cpu_count() or 1))
    command = [sys.executable, __file__, "--out", str(options.out), "--only", options.only]
    children = [subprocess.Popen([*command, "--share", str(n), str(workers)]) for n in range(workers)]
    for child in children:
        child.wait(timeout=options.budget)
    print(f"compiled in {time.perf_counter() - begin:.0f} s", flush=True)
    rows: list[dict[str, Any]] = []
    for job in jobs(only, small=False):
        if time.perf_counter() - begin > options.budget:
            print("out of time: the rest is not measured")
            break
        us, note = None, ""
        try:
            us = graph_us(job.run(), replays=9, budget_ms=40).us
        except Exception as error:  # noqa: BLE001 - one configuration that does not fit is a row like others
            note = f"{type(error).__name__}: {error}"[:160]
        rows.append({"kernel": job.kernel, "shape": job.shape, "config": asdict(job.config), "us": us, "note": note})
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "tune.json").write_text(json.dumps(rows))
    (options.out / "configs.json").write_text(json.dumps(best(rows), indent=1) + "\n")
    seen: dict[str, list[str]] = {}
    for row in sorted(rows, key=lambda row: row["us"] or 1e9):
        key = f"{row['kernel']} {' '.join(f'{k}={v}' for k, v in row['shape'].items())}"
        config = row["config"]
        blocks = "/".join(str(v) for v in config["blocks"].values())
        told = f"{row['us']:.1f}" if row["us"] else row["note"][:40]
        seen.setdefault(key, []).append(f"{told} ({blocks} w{config['num_warps']} r{config['maxnreg']})")
    for key, found in seen.items():
        print(f"{key}: {'; '.join(found[:4])} ... {found[-1]}")


if __name__ == "__main__":
    main()

"""The GDN kernels beside vLLM's, fla's and FlashInfer's, in one run on one GPU: graph replays, rotating inputs, floors.

    python benchmarks/kernels.py --out FOLDER [--only decode,speculative,prepare,chunk,host,errors]

Writes FOLDER/kernels.json, .png and .svg (rows as every benchmark here, fractions of the floor), and
FOLDER/providers.json, the table that `hardpoint explain` ranks providers by: copy it to core/hardpoint/providers/data/.
Peers that are not installed are left out, and said so; see peers.py.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from bars import draw
from gdn_batches import Calls, DecodeBatch, PrefillBatch, Weights
from gdn_errors import errors
from gdn_flashinfer import VARIANTS, chunk_flashinfer, decode_flashinfer
from gdn_speculative import SpeculativeBatch
from graph_timer import graph_us, host_us
from report import Row, save

from hardpoint_kernels.gdn.heads import Heads

SHARDS = (Heads(16, 32), Heads(4, 8))
PROMPTS = ((8192,), (32768,), (8192,) * 4, (1024,) * 8)
# What peers are compared by: at most this times the peer (see docs/kernels.md).
DECODE_BARS = {1: 0.65, 32: 0.92, 256: 0.98}


class Report:
    """Rows for people and entries for the table of providers; written after every group."""

    def __init__(self, out: Path, bandwidth: float) -> None:
        self.out = out
        self.bandwidth = bandwidth
        self.rows: list[Row] = []
        self.entries: list[dict[str, Any]] = []

    def group(
        self,
        op: str,
        shape: dict[str, int],
        floor_us: float,
        providers: dict[str, Callable[[], Calls | None]],
        bar: float | None = None,
        reference: str = "vllm",
    ) -> None:
        """Time every provider of one op and shape."""
        title = (
            f"{op}  " + " ".join(f"{name}={value}" for name, value in shape.items()) + f"  (floor {floor_us:.1f} us)"
        )
        for provider, make in providers.items():
            try:
                calls = make()
                if calls is None:
                    print(f"{title}: {provider} is not installed")
                    continue
                timing = graph_us(calls)
            except Exception as error:  # noqa: BLE001 - a peer that fails is a row that is missing, with its reason
                print(f"{title}: {provider}: {type(error).__name__}: {error}"[:300])
                continue
            mine = provider == "hardpoint"
            self.rows.append(
                Row(
                    title, provider, timing.us, "us", timing.spread, reference=provider == reference,
                    bar=bar if mine else None, note=f"{floor_us / timing.us:.2f} of the floor",
                )
            )  # fmt: skip
            self.entries.append({"op": op, "provider": provider, "shape": shape, "us": round(timing.us, 2)})
        self.write(show=False)

    def write(self, *, show: bool) -> None:
        save("kernels", self.rows, self.out, show=show)
        roofline(self.out / "kernels.svg", [asdict(row) for row in self.rows])
        table = {
            "device": torch.cuda.get_device_name(), "date": datetime.date.today().isoformat(),
            "torch": torch.__version__, "copy_bandwidth": self.bandwidth, "entries": self.entries,
        }  # fmt: skip
        (self.out / "providers.json").write_text(json.dumps(table, indent=1) + "\n")


def roofline(path: Path, rows: list[dict[str, Any]]) -> None:
    """How much of its floor each provider reaches, from rows whose note says it."""
    groups: dict[str, list[tuple[str, float, str]]] = {}
    for row in rows:
        if row["note"].endswith("of the floor"):
            fraction = float(row["note"].split()[0])
            bar = (row["name"], fraction, f"{row['name']} {row['value']:.1f} us, {fraction:.2f}")
            groups.setdefault(row["group"], []).append(bar)
    draw(path, "Fraction of the floor: the fewest bytes at the rate of a copy, or the arithmetic", groups)


def copy_bandwidth() -> float:
    """Bytes read and written per second of a copy far larger than the cache: by a kernel, not by the copy engine."""
    a = torch.empty(2**28, device="cuda").normal_()
    b = torch.empty_like(a)
    return 2 * a.nbytes / (graph_us([lambda: torch.add(a, 0.0, out=b)]).us * 1e-6)


def decode(report: Report) -> None:
    for heads in SHARDS:
        for requests in (1, 32, 256):
            batch = DecodeBatch.make(heads, requests)
            for norm in (False, True):
                providers = {
                    "hardpoint": lambda n=norm, b=batch: b.ours(n), "vllm": lambda n=norm, b=batch: b.vllm(n),
                }  # fmt: skip
                if not norm:
                    providers["flashinfer"] = lambda b=batch: decode_flashinfer(b)
                report.group(
                    "gdn_decode_norm" if norm else "gdn_decode",
                    {"H": heads.num_k_heads, "HV": heads.num_v_heads, "requests": requests},
                    batch.floor_bytes(norm) / report.bandwidth * 1e6,
                    providers,
                    DECODE_BARS[requests],
                )


def speculative(report: Report) -> None:
    """Four tokens a request, as with three drafted; entries of an op of their own."""
    for heads in SHARDS:
        for requests in (1, 32, 64):
            batch = SpeculativeBatch.make(heads, requests, 4)
            for norm in (False, True):
                providers = {
                    "hardpoint": lambda n=norm, b=batch: b.ours(n), "vllm": lambda n=norm, b=batch: b.vllm(n),
                }  # fmt: skip
                if norm:
                    providers["vllm-cuda"] = batch.vllm_cuda
                report.group(
                    "gdn_decode_speculative_norm" if norm else "gdn_decode_speculative",
                    {"H": heads.num_k_heads, "HV": heads.num_v_heads, "requests": requests},
                    batch.floor_bytes(norm) / report.bandwidth * 1e6,
                    providers,
                )


def prefill(report: Report, only: set[str]) -> None:
    for lengths in PROMPTS:
        for heads in SHARDS if lengths == PROMPTS[0] else SHARDS[:1]:
            batch = PrefillBatch.make(heads, lengths)
            shape = {
                "H": heads.num_k_heads, "HV": heads.num_v_heads, "sequences": len(lengths), "tokens": batch.tokens,
            }  # fmt: skip
            if "prepare" in only and len(lengths) == 1:
                floor = batch.prepare_bytes() / report.bandwidth * 1e6
                providers = {"hardpoint": batch.prepare_ours, "vllm": batch.prepare_vllm}
                report.group("gdn_prefill_prepare", shape, floor, providers, 0.55)
            if "chunk" in only:
                floor = max(batch.chunk_bytes() / report.bandwidth, batch.chunk_flops() / 790e12) * 1e6
                providers = {"hardpoint": batch.chunk_ours, "fla": batch.chunk_fla, "vllm": batch.chunk_vllm}
                for name, use_cp in VARIANTS.items():
                    providers[name] = lambda b=batch, cp=use_cp: chunk_flashinfer(b, cp)
                report.group("gdn_chunk_rule", shape, floor, providers, 0.75, reference="fla")
                floor += batch.prepare_bytes() / report.bandwidth * 1e6
                whole = {"hardpoint": batch.layer_ours, "vllm": batch.layer_vllm}
                report.group("gdn_prefill", shape, floor, whole)


def host(report: Report) -> None:
    """Host time of a decode step without graphs, launched as hardpoint's backend does it."""
    from hardpoint.launcher.triton import TritonLauncher

    batch = DecodeBatch.make(SHARDS[0], 1)
    title = "host time of a decode step, eager, B=1 (bar 12 us)"
    for name, calls in (
        ("hardpoint", batch.ours(True, launcher=TritonLauncher("cuda"))),
        ("vllm", batch.vllm(True)),
    ):
        if calls is not None:
            value = host_us(calls[0])
            note = "" if name != "hardpoint" else "met" if value <= 12 else "MISSED"
            report.rows.append(Row(title, name, value, "us", reference=name == "vllm", note=note))
    report.write(show=False)


def compile_share(share: int, of: int) -> None:
    """Compile a share of the peers' autotuning configurations into Triton's disk cache."""
    from triton.runtime.autotuner import Autotuner

    run = Autotuner.run

    def run_a_share(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not hasattr(self, "cut"):
            self.cut = True
            self.configs = self.configs[share::of] or self.configs[:1]
        return run(self, *args, **kwargs)

    Autotuner.run = run_a_share
    for lengths in ((8192,), (8192,) * 4):
        batch = PrefillBatch.make(SHARDS[0], lengths, 1)
        for make in (batch.chunk_vllm, batch.chunk_fla):
            try:
                for call in make() or []:
                    call()
            except Exception as error:  # noqa: BLE001 - a configuration that does not fit; the tuner will see it too
                print(f"{type(error).__name__}: {error}"[:200])
    torch.cuda.synchronize()


def main() -> None:
    """Compile, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    parser.add_argument("--only", default="decode,speculative,prepare,chunk,host,errors")
    parser.add_argument("--share", type=int, nargs=2, help="compile the n-th of m shares, and nothing else")
    parser.add_argument("--compiled", action="store_true", help="all shares were compiled before")
    options = parser.parse_args()
    only = set(options.only.split(","))
    import triton.testing

    triton.testing.do_bench.__defaults__ = (3, 15, None, None, "mean")  # peers choose among 190 configurations
    if options.share:
        compile_share(*options.share)
        return
    begin = time.perf_counter()
    if "chunk" in only and not options.compiled:
        workers = max(1, min(16, os.cpu_count() or 1))
        command = [sys.executable, __file__, "--out", str(options.out), "--share"]
        children = [subprocess.Popen([*command, str(n), str(workers)]) for n in range(workers)]
        for child in children:
            child.wait(timeout=240)
        print(f"peers' configurations compiled in {time.perf_counter() - begin:.0f} s", flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    Weights(SHARDS[0])
    report = Report(options.out, copy_bandwidth())
    if "decode" in only:
        decode(report)
    if "speculative" in only:
        speculative(report)
    if "host" in only:
        host(report)
    if only & {"prepare", "chunk"}:
        prefill(report, only)
    if "errors" in only:
        for entry in errors():
            report.rows.append(Row(f"error of {entry['op']} against float64", entry["provider"], entry["error"], "rel"))
            for other in report.entries:
                if (other["op"], other["provider"]) == (entry["op"], entry["provider"]):
                    other["error"] = entry["error"]
    report.write(show=True)
    print(f"{time.perf_counter() - begin:.0f} s")


if __name__ == "__main__":
    main()

"""Seconds to plan a weight update of Qwen3-30B-A3B (61 GB, 18,867 tensors) for several sets of receivers. No GPU.

    python benchmarks/plan.py [--out FOLDER] [--repeats 5]

Sizes and names are the real model's; no tensor is made. Everything is timed from a trainer's list of tensors to a plan
with its proof and digest; replanning is timed with a list that was made anew and is equal, and with the same one.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from report import Row, save

from hardpoint.moe import LayoutDescriptor
from hardpoint.sync import TensorSpec
from hardpoint.sync.plan import Coordinates, ModelSpec, Offer, Planner, cover, experts, strides
from hardpoint.sync.plan.blocks import attention, embeddings, moe, norms

LAYERS, HIDDEN, HEADS, KV_HEADS, HEAD_DIM, EXPERTS, INTERMEDIATE, VOCAB = 48, 2048, 32, 4, 128, 128, 768, 151936
TENSORS, BYTES = 18867, 61_064_245_248
BAR_SECONDS = 1.5


def qwen3_30b_a3b(layout: LayoutDescriptor | None = None, layers: int = LAYERS) -> ModelSpec:
    """The model's rules, experts in vLLM's layout unless another is given."""
    weights = layout or LayoutDescriptor(EXPERTS, HIDDEN, INTERMEDIATE)
    rules = list(embeddings(VOCAB, HIDDEN))
    for layer in range(layers):
        rules += norms(layer, HIDDEN)
        rules += attention(layer, HIDDEN, HEADS, KV_HEADS, HEAD_DIM, qk_norm=True)
        rules += moe(layer, weights)
    return ModelSpec(tuple(rules), layers)


def checkpoint(layers: int = LAYERS) -> Offer:
    """What a trainer sends: one tensor per expert and projection, as in the files."""
    specs = [("model.embed_tokens.weight", (VOCAB, HIDDEN)), ("model.norm.weight", (HIDDEN,)),
             ("lm_head.weight", (VOCAB, HIDDEN))]  # fmt: skip
    for layer in range(layers):
        at = f"model.layers.{layer}"
        specs += [
            (f"{at}.input_layernorm.weight", (HIDDEN,)),
            (f"{at}.post_attention_layernorm.weight", (HIDDEN,)),
            (f"{at}.self_attn.q_proj.weight", (HEADS * HEAD_DIM, HIDDEN)),
            (f"{at}.self_attn.k_proj.weight", (KV_HEADS * HEAD_DIM, HIDDEN)),
            (f"{at}.self_attn.v_proj.weight", (KV_HEADS * HEAD_DIM, HIDDEN)),
            (f"{at}.self_attn.o_proj.weight", (HIDDEN, HEADS * HEAD_DIM)),
            (f"{at}.self_attn.q_norm.weight", (HEAD_DIM,)),
            (f"{at}.self_attn.k_norm.weight", (HEAD_DIM,)),
            (f"{at}.mlp.gate.weight", (EXPERTS, HIDDEN)),
        ]
        for expert in range(EXPERTS):
            for name, shape in (("gate", (INTERMEDIATE, HIDDEN)), ("up", (INTERMEDIATE, HIDDEN)),
                                ("down", (HIDDEN, INTERMEDIATE))):  # fmt: skip
                specs.append((f"{at}.mlp.experts.{expert}.{name}_proj.weight", shape))
    return Offer(tuple(TensorSpec(name, shape, "bfloat16") for name, shape in specs))


def receivers(tp: int = 1, ep: bool = False, pp: int = 1, dp: int = 1) -> dict[int, Coordinates]:
    """Rank -> coordinates, tensor parallel innermost; with `ep` the experts go over all ranks of a stage."""
    found = {}
    for stage in range(pp):
        for replica in range(dp):
            for rank in range(tp):
                at = Coordinates(rank, tp, stage, pp, dp_rank=replica, dp_size=dp)
                if ep:
                    at = replace(at, ep_rank=replica * tp + rank, ep_size=tp * dp)
                found[len(found) + 1] = at
    return found


def forget() -> None:
    """Empty what the planner remembers between plans, so that each repetition is a first one."""
    for cached in (experts._names, experts._template, cover.cover_fault, strides.normal, strides.volume,
                   strides.injective):  # fmt: skip
        cached.cache_clear()


def median_seconds(
    call: Callable[[], object], repeats: int, prepare: Callable[[], None] = lambda: None
) -> tuple[float, float, float]:
    """Median, half the distance between slowest and fastest, and the median of this process's own processor time."""
    times, own = [], []
    for _ in range(repeats):
        prepare()
        gc.collect()
        begin, begin_own = time.perf_counter(), time.process_time()
        call()
        times.append(time.perf_counter() - begin)
        own.append(time.process_time() - begin_own)
    return statistics.median(times), (max(times) - min(times)) / 2, statistics.median(own)


def rows(repeats: int) -> list[Row]:
    """One group: the bar is a time, so the reference row is the bar itself."""
    offer = checkpoint()
    assert len(offer.tensors) == TENSORS and offer.nbytes == BYTES, (len(offer.tensors), offer.nbytes)
    w31 = LayoutDescriptor(EXPERTS, HIDDEN, INTERMEDIATE, torch.bfloat16, order="w31", axes="[E,K,N]")
    cases = [
        ("1 receiver", qwen3_30b_a3b(), receivers()),
        ("TP 2", qwen3_30b_a3b(), receivers(tp=2)),
        ("TP 4", qwen3_30b_a3b(), receivers(tp=4)),
        ("TP 4, transposed w31", qwen3_30b_a3b(w31), receivers(tp=4)),
        ("EP 4", qwen3_30b_a3b(), receivers(tp=4, ep=True)),
        ("EP 8, DP attention", qwen3_30b_a3b(), receivers(tp=1, dp=8, ep=True)),
        ("TP 2, PP 2, DP 2", qwen3_30b_a3b(), receivers(tp=2, pp=2, dp=2)),
        ("TP 4, DP 64 (256 receivers)", qwen3_30b_a3b(), receivers(tp=4, dp=64)),
    ]
    group = f"plan {TENSORS} tensors, {BYTES / 1e9:.1f} GB, with proof and digest"
    found = [Row(group, "asked for", BAR_SECONDS, "s", reference=True)]
    again = "replan after no change"
    for name, model, ranks in cases:
        seconds, spread, own = median_seconds(
            lambda m=model, r=ranks: Planner(replace(m), r).plan(checkpoint()), repeats, forget
        )
        planner = Planner(model, ranks)
        plan = planner.plan(offer)
        most = max(plan.received_bytes(rank) for rank in ranks)
        note = (
            f"{own:.2f} s of processor, {len(plan.buckets)} buckets, {plan.sent_bytes / 1e9:.1f} GB sent, "
            f"at most {most / 1e9:.1f} GB received"
        )
        found.append(Row(group, f"hardpoint, {name}", seconds, "s", spread, bar=1.0, note=note))
    same, spread, _ = median_seconds(lambda: planner.plan(offer), repeats)
    found.append(Row(again, "hardpoint, the same list of tensors", same * 1e3, "ms", spread * 1e3))
    lists = iter([checkpoint() for _ in range(repeats)])
    equal, spread, own = median_seconds(lambda: planner.plan(next(lists)), repeats)
    found.append(
        Row(
            again,
            "hardpoint, an equal list made anew",
            equal * 1e3,
            "ms",
            spread * 1e3,
            note=f"{own * 1e3:.0f} ms of processor",
        )
    )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    save("plan", rows(options.repeats), options.out)


if __name__ == "__main__":
    main()

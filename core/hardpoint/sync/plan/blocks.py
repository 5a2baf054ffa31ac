"""Rules of the blocks that transformer models are made of: checkpoint names as in Hugging Face, parameters as in vLLM.

A model is a sum of blocks. What a family does otherwise is written as a rule of its own; nothing here looks at a model.
"""

from __future__ import annotations

from hardpoint.moe import GPT_OSS, PER_EXPERT, CheckpointFormat, LayoutDescriptor
from hardpoint.sync.dtypes import torch_dtype
from hardpoint.sync.plan.expert_biases import ExpertBiases
from hardpoint.sync.plan.experts import Experts
from hardpoint.sync.plan.rule import Dense, Rule, Segment, Vocab, replicated

BF16 = "bfloat16"


def embeddings(
    vocab: int, hidden: int, dtype: str = BF16, *, tied: bool = False, multiple: int = 64
) -> tuple[Rule, ...]:
    """Embedding, final norm, lm_head. A tied lm_head is filled from the embedding's tensor where it has storage of its
    own, on a last pipeline stage that is not the first."""
    embed, head = "model.embed_tokens.weight", "lm_head.weight"
    return (
        Vocab(embed, embed, (vocab, hidden), dtype, multiple, "first"),
        replicated("model.norm.weight", "model.norm.weight", (hidden,), dtype, "last"),
        Vocab(head, embed if tied else head, (vocab, hidden), dtype, multiple, "last", tied),
    )


def norms(layer: int, hidden: int, dtype: str = BF16, prefix: str = "model.layers") -> tuple[Rule, ...]:
    """The two norms of a layer."""
    names = [f"{prefix}.{layer}.{name}.weight" for name in ("input_layernorm", "post_attention_layernorm")]
    return tuple(replicated(name, name, (hidden,), dtype, layer) for name in names)


def attention(
    layer: int,
    hidden: int,
    heads: int,
    kv_heads: int,
    head_dim: int,
    dtype: str = BF16,
    *,
    bias: bool = False,
    qk_norm: bool = False,
    output_gate: bool = False,
    prefix: str = "model.layers",
) -> tuple[Rule, ...]:
    """q, k, v in one qkv_proj, cut by heads; o_proj cut by columns.

    With more ranks than key-value heads, neighbours hold the same head. `output_gate`: q_proj holds query and gate of
    each head, one after the other (Qwen3-Next).
    """
    at = f"{prefix}.{layer}.self_attn"
    rows = {"q": heads * head_dim * (2 if output_gate else 1), "k": kv_heads * head_dim, "v": kv_heads * head_dim}
    rules: list[Rule] = []
    for kind, rest in (("weight", (hidden,)), ("bias", ())):
        if kind == "weight" or bias:
            segments = tuple(
                Segment(f"{at}.{name}_proj.{kind}", (size, *rest), at_most=None if name == "q" else kv_heads)
                for name, size in rows.items()
            )
            rules.append(Dense(f"{at}.qkv_proj.{kind}", segments, dtype, 0, layer))
    o_proj = Segment(f"{at}.o_proj.weight", (hidden, heads * head_dim))
    rules.append(Dense(f"{at}.o_proj.weight", (o_proj,), dtype, 1, layer))
    if qk_norm:
        names = (f"{at}.q_norm.weight", f"{at}.k_norm.weight")
        rules += [replicated(name, name, (head_dim,), dtype, layer) for name in names]
    return tuple(rules)


def mlp(
    layer: int, hidden: int, intermediate: int, dtype: str = BF16, *, at: str = "mlp", prefix: str = "model.layers"
) -> tuple[Rule, ...]:
    """gate and up in one gate_up_proj, each cut by rows; down cut by columns. `at`: also a shared expert's name."""
    name = f"{prefix}.{layer}.{at}"
    gate_up = tuple(Segment(f"{name}.{half}_proj.weight", (intermediate, hidden)) for half in ("gate", "up"))
    down = Segment(f"{name}.down_proj.weight", (hidden, intermediate))
    return (
        Dense(f"{name}.gate_up_proj.weight", gate_up, dtype, 0, layer),
        Dense(f"{name}.down_proj.weight", (down,), dtype, 1, layer),
    )


def moe(
    layer: int,
    layout: LayoutDescriptor,
    dtype: str = BF16,
    *,
    checkpoint: CheckpointFormat = PER_EXPERT,
    expert_maps: tuple[tuple[int, ...], ...] | None = None,
    module: str = "experts",
    prefix: str = "model.layers",
) -> tuple[Rule, ...]:
    """Router, and the experts in `layout`, which the worker declares (`MoELayout.kernel_layout`).

    `module`: that holds w13_weight and w2_weight in the serving model; vLLM 0.32 has ``experts.routed_experts``.
    """
    name = f"{prefix}.{layer}.mlp"
    w13, w2 = (f"{name}.{module}.{parameter}_weight" for parameter in ("w13", "w2"))
    router = f"{name}.gate.weight"
    return (
        replicated(router, router, (layout.num_experts, layout.hidden_size), dtype, layer),
        Experts(name, layout, checkpoint, expert_maps, w13=w13, w2=w2, place=layer),
    )


def moe_biases(
    layer: int,
    layout: LayoutDescriptor,
    dtype: str = BF16,
    *,
    checkpoint: CheckpointFormat = GPT_OSS,
    expert_maps: tuple[tuple[int, ...], ...] | None = None,
    module: str = "experts",
    prefix: str = "model.layers",
) -> tuple[Rule, ...]:
    """Biases of the experts that `moe` gives the weights of; arguments likewise."""
    name = f"{prefix}.{layer}.mlp"
    w13, w2 = (f"{name}.{module}.{parameter}_bias" for parameter in ("w13", "w2"))
    return (ExpertBiases(name, layout, checkpoint, torch_dtype(dtype), expert_maps, w13=w13, w2=w2, place=layer),)


def gated_delta_net(
    layer: int,
    hidden: int,
    key_heads: int,
    value_heads: int,
    key_dim: int,
    value_dim: int,
    dtype: str = BF16,
    *,
    kernel: int = 4,
    log_dtype: str = "float32",
    prefix: str = "model.layers",
) -> tuple[Rule, ...]:
    """GDN as Qwen3.5 has it: in_proj_qkv and in_proj_z in one in_proj_qkvz, in_proj_b and in_proj_a in one in_proj_ba.

    q, k and v are sections of one checkpoint tensor and are cut each on its own, in in_proj and in the convolution
    alike; A_log (float32 in vLLM whatever the model is in) and dt_bias are cut by value heads; the gated norm is whole.
    """
    at = f"{prefix}.{layer}.linear_attn"
    keys, values = key_heads * key_dim, value_heads * value_dim
    sections = ((0, keys), (keys, keys), (2 * keys, values))

    def qkv(name: str, *rest: int) -> tuple[Segment, ...]:
        shape = (2 * keys + values, *rest)
        return tuple(Segment(f"{at}.{name}", shape, start, size) for start, size in sections)

    def by_head(name: str, *rest: int) -> Segment:
        return Segment(f"{at}.{name}", (value_heads, *rest))

    z = Segment(f"{at}.in_proj_z.weight", (values, hidden))
    ba = (by_head("in_proj_b.weight", hidden), by_head("in_proj_a.weight", hidden))
    out = Segment(f"{at}.out_proj.weight", (hidden, values))
    return (
        Dense(f"{at}.in_proj_qkvz.weight", (*qkv("in_proj_qkv.weight", hidden), z), dtype, 0, layer),
        Dense(f"{at}.in_proj_ba.weight", ba, dtype, 0, layer),
        Dense(f"{at}.conv1d.weight", qkv("conv1d.weight", 1, kernel), dtype, 0, layer),
        Dense(f"{at}.A_log", (by_head("A_log"),), log_dtype, 0, layer),
        Dense(f"{at}.dt_bias", (by_head("dt_bias"),), dtype, 0, layer),
        replicated(f"{at}.norm.weight", f"{at}.norm.weight", (value_dim,), dtype, layer),
        Dense(f"{at}.out_proj.weight", (out,), dtype, 1, layer),
    )

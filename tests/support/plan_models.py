"""A small model with every kind of block, its checkpoint, and what each rank must hold, worked out with plain slices.

Shares no code with `hardpoint.sync.plan`; expert storages come from `ReferenceMoELayout`, which has its own laws.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch

from hardpoint.moe import PER_EXPERT, CheckpointFormat, LayoutDescriptor, ReferenceMoELayout
from hardpoint.sync.plan import Coordinates, ModelSpec, Rule, replicated
from hardpoint.sync.plan.blocks import attention, embeddings, gated_delta_net, mlp, moe, norms

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Small:
    """Layer 0 is attention and a dense MLP, layer 1 GDN and experts, layer 2 attention with bias and experts."""

    vocab: int = 37
    hidden: int = 8
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 2
    intermediate: int = 12
    experts: LayoutDescriptor = field(
        default_factory=lambda: LayoutDescriptor(6, 8, 4, dtype=torch.bfloat16, padded_intermediate=None)
    )
    checkpoint: CheckpointFormat = PER_EXPERT
    tied: bool = False
    layers: int = 3

    def spec(self) -> ModelSpec:
        rules: list[Rule] = list(embeddings(self.vocab, self.hidden, tied=self.tied, multiple=8))
        for layer in range(3):
            rules += norms(layer, self.hidden)
        shape = (self.hidden, self.heads, self.kv_heads, self.head_dim)
        rules += attention(0, *shape, qk_norm=True)
        rules += mlp(0, self.hidden, self.intermediate)
        rules += gated_delta_net(1, self.hidden, 4, 8, 2, 3)
        rules += moe(1, self.experts, checkpoint=self.checkpoint)
        rules += attention(2, *shape, bias=True, output_gate=True)
        rules += moe(2, self.experts, checkpoint=self.checkpoint)
        rules.append(replicated("model.step", "model.step", (), "int64", "every"))
        ignored = (("lm_head.weight", "tied to the embedding"),) if self.tied else ()
        return ModelSpec(tuple(rules), self.layers, ignored)

    def tensors(self, seed: int = 0) -> Tensors:
        """A checkpoint of random bits."""
        generator = torch.Generator().manual_seed(seed)

        def make(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
            size = math.prod(shape) * dtype.itemsize
            raw = torch.randint(0, 256, (size,), generator=generator, dtype=torch.uint8)
            return raw.view(dtype).reshape(shape)

        h, d = self.hidden, self.head_dim
        found: Tensors = {"model.embed_tokens.weight": make(self.vocab, h), "model.norm.weight": make(h)}
        found["lm_head.weight"] = found["model.embed_tokens.weight"] if self.tied else make(self.vocab, h)
        found["model.step"] = torch.tensor(seed)
        for layer in range(3):
            at = f"model.layers.{layer}"
            for name in ("input_layernorm", "post_attention_layernorm"):
                found[f"{at}.{name}.weight"] = make(h)
            if layer in (0, 2):
                rows = {"q": self.heads * d * (2 if layer == 2 else 1), "k": self.kv_heads * d, "v": self.kv_heads * d}
                for name, size in rows.items():
                    found[f"{at}.self_attn.{name}_proj.weight"] = make(size, h)
                    if layer == 2:
                        found[f"{at}.self_attn.{name}_proj.bias"] = make(size)
                found[f"{at}.self_attn.o_proj.weight"] = make(h, self.heads * d)
            if layer == 0:
                found |= {f"{at}.self_attn.{name}_norm.weight": make(d) for name in "qk"}
                found |= {f"{at}.mlp.{name}_proj.weight": make(self.intermediate, h) for name in ("gate", "up")}
                found[f"{at}.mlp.down_proj.weight"] = make(h, self.intermediate)
            if layer == 1:
                gdn = f"{at}.linear_attn"
                found |= {
                    f"{gdn}.in_proj_qkv.weight": make(40, h),
                    f"{gdn}.in_proj_z.weight": make(24, h),
                    f"{gdn}.in_proj_b.weight": make(8, h),
                    f"{gdn}.in_proj_a.weight": make(8, h),
                    f"{gdn}.conv1d.weight": make(40, 1, 4),
                    f"{gdn}.A_log": make(8, dtype=torch.float32),
                    f"{gdn}.dt_bias": make(8),
                    f"{gdn}.norm.weight": make(3),
                    f"{gdn}.out_proj.weight": make(h, 24),
                }
            if layer > 0:
                found[f"{at}.mlp.gate.weight"] = make(self.experts.num_experts, h)
                whole = replace(self.experts, order="w13", axes="[E,N,K]", padded_intermediate=None)
                w13, w2 = (make(*shape, dtype=whole.dtype) for shape in (whole.w13_shape, whole.w2_shape))
                found |= split_experts(w13, w2, self.checkpoint, f"{at}.mlp")
        return found

    def expected(self, tensors: Mapping[str, torch.Tensor], at: Coordinates) -> Tensors:
        """What the rank at `at` must hold, by parameter."""
        stages = {1: [[0, 1, 2]], 2: [[0, 1], [2]], 3: [[0], [1], [2]]}[at.pp_size]
        layers = stages[at.pp_rank]
        first, last = at.pp_rank == 0, at.pp_rank == at.pp_size - 1
        found: Tensors = {"model.step": tensors["model.step"]}

        def rows(name: str, parts: int = at.tp_size) -> torch.Tensor:
            return tensors[name].chunk(parts)[at.tp_rank * parts // at.tp_size]

        def columns(name: str) -> torch.Tensor:
            return tensors[name].chunk(at.tp_size, 1)[at.tp_rank]

        def vocab(name: str) -> torch.Tensor:
            multiple = math.lcm(8, at.tp_size)
            padding = -self.vocab % multiple
            full = torch.cat([tensors[name], torch.zeros(padding, self.hidden, dtype=torch.bfloat16)])
            return full.chunk(at.tp_size)[at.tp_rank]

        if first:
            found["model.embed_tokens.weight"] = vocab("model.embed_tokens.weight")
        if last:
            found["model.norm.weight"] = tensors["model.norm.weight"]
            if not self.tied or at.pp_size > 1:
                found["lm_head.weight"] = vocab("model.embed_tokens.weight" if self.tied else "lm_head.weight")
        for layer in layers:
            name = f"model.layers.{layer}"
            whole = [f"{name}.input_layernorm.weight", f"{name}.post_attention_layernorm.weight"]
            if layer == 0:
                whole += [f"{name}.self_attn.{x}_norm.weight" for x in "qk"]
                found[f"{name}.mlp.gate_up_proj.weight"] = torch.cat(
                    [rows(f"{name}.mlp.{half}_proj.weight") for half in ("gate", "up")]
                )
                found[f"{name}.mlp.down_proj.weight"] = columns(f"{name}.mlp.down_proj.weight")
            if layer in (0, 2):
                heads = min(self.kv_heads, at.tp_size)
                for kind in ("weight", "bias") if layer == 2 else ("weight",):
                    found[f"{name}.self_attn.qkv_proj.{kind}"] = torch.cat(
                        [rows(f"{name}.self_attn.q_proj.{kind}")]
                        + [rows(f"{name}.self_attn.{x}_proj.{kind}", heads) for x in "kv"]
                    )
                found[f"{name}.self_attn.o_proj.weight"] = columns(f"{name}.self_attn.o_proj.weight")
            if layer == 1:
                gdn = f"{name}.linear_attn"

                def sections(tensor: torch.Tensor) -> list[torch.Tensor]:
                    return [part.chunk(at.tp_size)[at.tp_rank] for part in tensor.split([8, 8, 24])]

                found[f"{gdn}.in_proj_qkvz.weight"] = torch.cat(
                    [*sections(tensors[f"{gdn}.in_proj_qkv.weight"]), rows(f"{gdn}.in_proj_z.weight")]
                )
                found[f"{gdn}.in_proj_ba.weight"] = torch.cat([rows(f"{gdn}.in_proj_{x}.weight") for x in "ba"])
                found[f"{gdn}.conv1d.weight"] = torch.cat(sections(tensors[f"{gdn}.conv1d.weight"]))
                found |= {f"{gdn}.{x}": rows(f"{gdn}.{x}") for x in ("A_log", "dt_bias")}
                found[f"{gdn}.out_proj.weight"] = columns(f"{gdn}.out_proj.weight")
                whole.append(f"{gdn}.norm.weight")
            if layer > 0:
                whole.append(f"{name}.mlp.gate.weight")
                cut = at.ep_size == 1
                mine = replace(
                    self.experts,
                    tp_rank=at.tp_rank if cut else 0,
                    tp_size=at.tp_size if cut else 1,
                    ep_rank=at.ep_rank,
                    ep_size=at.ep_size,
                )
                own = {key: value for key, value in tensors.items() if key.startswith(f"{name}.mlp.experts.")}
                packed = ReferenceMoELayout().pack(own, mine, checkpoint=self.checkpoint, layer=f"{name}.mlp")
                found[f"{name}.mlp.experts.w13_weight"] = packed.w13_weight
                found[f"{name}.mlp.experts.w2_weight"] = packed.w2_weight
            found |= {key: tensors[key] for key in whole}
        return found


def split_experts(w13: torch.Tensor, w2: torch.Tensor, form: CheckpointFormat, layer: str) -> Tensors:
    """``[E, 2I, H]`` (gate first) and ``[E, H, I]`` under the names and in the layout of `form`."""
    gate, up = w13.chunk(2, 1)

    def turned(matrix: torch.Tensor) -> torch.Tensor:
        return (matrix.transpose(-1, -2) if form.axes == "[E,K,N]" else matrix).contiguous()

    if form.fused:
        fused = torch.stack([gate, up], 2).flatten(1, 2) if form.order == "interleaved" else w13
        return {f"{layer}.{form.patterns[0]}": turned(fused), f"{layer}.{form.patterns[2]}": turned(w2)}
    return {
        f"{layer}.{pattern.format(expert=expert)}": turned(part[expert])
        for expert in range(len(w13))
        for pattern, part in zip(form.patterns, (gate, up, w2), strict=True)
    }

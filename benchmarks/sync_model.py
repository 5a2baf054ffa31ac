"""The weights of the weight-sync benchmark: Qwen3-30B-A3B's sizes, and their values made without plan and stream."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import torch

from hardpoint.moe import LayoutDescriptor
from hardpoint.sync.plan import ModelSpec
from hardpoint.sync.plan.blocks import attention, embeddings, moe, norms


@dataclass(frozen=True)
class Size:
    """Of the model."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    experts: int
    intermediate: int
    vocab: int

    def spec(self) -> ModelSpec:
        rules = list(embeddings(self.vocab, self.hidden))
        for layer in range(self.layers):
            rules += norms(layer, self.hidden)
            rules += attention(layer, self.hidden, self.heads, self.kv_heads, self.head_dim, qk_norm=True)
            rules += moe(layer, LayoutDescriptor(self.experts, self.hidden, self.intermediate))
        return ModelSpec(tuple(rules), self.layers)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes in the checkpoint."""
        h, d = self.hidden, self.head_dim
        found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (self.vocab, h)}
        for layer in range(self.layers):
            at = f"model.layers.{layer}"
            found |= {
                f"{at}.self_attn.q_proj.weight": (self.heads * d, h),
                f"{at}.self_attn.k_proj.weight": (self.kv_heads * d, h),
                f"{at}.self_attn.v_proj.weight": (self.kv_heads * d, h),
                f"{at}.self_attn.o_proj.weight": (h, self.heads * d),
                f"{at}.self_attn.q_norm.weight": (d,),
                f"{at}.self_attn.k_norm.weight": (d,),
                f"{at}.mlp.gate.weight": (self.experts, h),
            }
            for expert in range(self.experts):
                one = f"{at}.mlp.experts.{expert}"
                found[f"{one}.gate_proj.weight"] = found[f"{one}.up_proj.weight"] = (self.intermediate, h)
                found[f"{one}.down_proj.weight"] = (h, self.intermediate)
            found |= {f"{at}.{name}_layernorm.weight": (h,) for name in ("input", "post_attention")}
        return found | {"model.norm.weight": (h,), "lm_head.weight": (self.vocab, h)}


REAL = Size(7, 2048, 32, 4, 128, 128, 768, 151936)
TINY = Size(2, 64, 8, 2, 16, 8, 32, 1024)


@dataclass(frozen=True)
class Weights:
    """Values on one device, the same for the same name on every rank."""

    shapes: dict[str, tuple[int, ...]]
    device: torch.device

    def value(self, name: str) -> torch.Tensor:
        """A checkpoint tensor: random bits."""
        generator = torch.Generator(device=self.device).manual_seed(zlib.crc32(name.encode()))
        bits = torch.empty(self.shapes[name], dtype=torch.int16, device=self.device)
        return bits.random_(-(1 << 15), 1 << 15, generator=generator).view(torch.bfloat16)

    def expected(self, parameter: str, experts: tuple[int, ...]) -> torch.Tensor:
        """A parameter of vLLM, as its own loaders would leave it."""
        at = parameter.removesuffix("qkv_proj.weight")
        if at != parameter:
            return torch.cat([self.value(f"{at}{x}_proj.weight") for x in "qkv"])
        at = parameter.removesuffix("w13_weight")
        if at != parameter:
            halves = ("gate", "up")
            return torch.stack([torch.cat([self.value(f"{at}{e}.{x}_proj.weight") for x in halves]) for e in experts])
        at = parameter.removesuffix("w2_weight")
        if at != parameter:
            return torch.stack([self.value(f"{at}{e}.down_proj.weight") for e in experts])
        return self.value(parameter)

    def right(self, parameters: dict[str, torch.Tensor], experts: tuple[int, ...]) -> bool:
        """Whether all parameters hold the expected bits."""
        return all(
            torch.equal(tensor.view(torch.int16), self.expected(name, experts).view(torch.int16))
            for name, tensor in parameters.items()
        )

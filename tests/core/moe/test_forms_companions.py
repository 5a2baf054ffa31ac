"""What lies beside the weights (scales, zero points, blocks) goes through the same forms, under its own names."""

from __future__ import annotations

import pytest
import torch

from hardpoint.errors import LayoutError
from hardpoint.moe import FUSED, GPT_OSS, MIXTRAL, PER_EXPERT, VLLM, CheckpointFormat, LayoutDescriptor
from hardpoint.moe import ReferenceMoELayout as Reference

LAYER = "model.layers.0.mlp"


@pytest.mark.parametrize(
    ("form", "ending", "gate", "down"),
    [
        (
            PER_EXPERT,
            "weight_scale_inv",
            "experts.5.gate_proj.weight_scale_inv",
            "experts.5.down_proj.weight_scale_inv",
        ),
        (PER_EXPERT, "qweight", "experts.5.gate_proj.qweight", "experts.5.down_proj.qweight"),
        (MIXTRAL, "weight_scale", "experts.5.w1.weight_scale", "experts.5.w2.weight_scale"),
        (VLLM, "weight_scale", "experts.w13_weight_scale", "experts.w2_weight_scale"),
        (GPT_OSS, "scales", "experts.gate_up_proj_scales", "experts.down_proj_scales"),
        (FUSED, "scale_inv", "experts.gate_up_proj_scale_inv", "experts.down_proj_scale_inv"),
    ],
)
def test_names(form: CheckpointFormat, ending: str, gate: str, down: str) -> None:
    beside = form.companion(ending)
    assert beside.name_of("gate", None if form.fused else 5, LAYER) == f"{LAYER}.{gate}"
    assert beside.name_of("down", None if form.fused else 5, LAYER) == f"{LAYER}.{down}"
    assert (beside.order, beside.axes, beside.fused) == (form.order, form.axes, form.fused)
    assert set(beside.parse(f"{LAYER}.{gate}").shards) >= {"gate"}
    with pytest.raises(LayoutError, match=ending):
        beside.parse(form.name_of("gate", None if form.fused else 5, LAYER))


def test_block_scales_are_cut_and_reordered_as_their_weights_are() -> None:
    """FP8 with blocks of 2x2: the scale of a block lies where its block lies, on every rank."""
    block = 2
    weights = LayoutDescriptor(3, 8, 12, dtype=torch.float8_e4m3fn, order="w31", tp_size=2, tp_rank=1,
                               ep_size=2, ep_rank=0)  # fmt: skip
    scales = LayoutDescriptor(3, 8 // block, 12 // block, dtype=torch.float32, order="w31", tp_size=2, tp_rank=1,
                              ep_size=2, ep_rank=0)  # fmt: skip
    whole, beside = {}, {}
    for expert in range(3):
        for number, (shard, shape) in enumerate((("gate", (12, 8)), ("up", (12, 8)), ("down", (8, 12)))):
            n, k = shape[0] // block, shape[1] // block
            scale = 1000.0 * expert + 100 * number + torch.arange(n * k, dtype=torch.float32).reshape(n, k)
            beside[PER_EXPERT.companion("weight_scale_inv").name_of(shard, expert, LAYER)] = scale
            # Each byte of a block is the same function of its scale, so that a block can be told by its bytes.
            bits = (scale.long() % 251).to(torch.uint8).repeat_interleave(block, 0).repeat_interleave(block, 1)
            whole[PER_EXPERT.name_of(shard, expert, LAYER)] = bits.view(torch.float8_e4m3fn)
    packed = Reference().pack(whole, weights, layer=LAYER)
    packed_scales = Reference().pack(beside, scales, checkpoint=PER_EXPERT.companion("weight_scale_inv"), layer=LAYER)
    for ours, theirs in ((packed.w13_weight, packed_scales.w13_weight), (packed.w2_weight, packed_scales.w2_weight)):
        blocks = (theirs.long() % 251).to(torch.uint8).repeat_interleave(block, 1).repeat_interleave(block, 2)
        assert torch.equal(ours.view(torch.uint8), blocks)

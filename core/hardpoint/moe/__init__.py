"""Expert weights: checkpoint formats, kernel layouts, and the one way between them."""

from hardpoint.errors import LayoutError
from hardpoint.moe.biases import PackedBiases, pack_biases, unpack_biases
from hardpoint.moe.checkpoint import (
    CHECKPOINT_FORMATS,
    FUSED,
    FUSED_TRANSPOSED,
    GPT_OSS,
    GPT_OSS_BLOCKS,
    GPT_OSS_SCALES,
    MIXTRAL,
    PER_EXPERT,
    VLLM,
    CheckpointFormat,
)
from hardpoint.moe.descriptor import LayoutDescriptor, linear_expert_map
from hardpoint.moe.packed import PackedExperts, allocate
from hardpoint.moe.protocol import LoadSession, MoELayout
from hardpoint.moe.reference import ReferenceMoELayout

__all__ = [
    "CHECKPOINT_FORMATS",
    "FUSED",
    "FUSED_TRANSPOSED",
    "GPT_OSS",
    "GPT_OSS_BLOCKS",
    "GPT_OSS_SCALES",
    "MIXTRAL",
    "PER_EXPERT",
    "VLLM",
    "CheckpointFormat",
    "LayoutDescriptor",
    "LayoutError",
    "LoadSession",
    "MoELayout",
    "PackedBiases",
    "PackedExperts",
    "ReferenceMoELayout",
    "allocate",
    "linear_expert_map",
    "pack_biases",
    "unpack_biases",
]

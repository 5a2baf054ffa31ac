"""`CheckpointFormat`: how a file or a trainer names and lays out expert weights before any rank cut them."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from hardpoint.errors import LayoutError
from hardpoint.moe.descriptor import SHARDS, Axes, Order, Shard


@dataclass(frozen=True)
class CheckpointName:
    """What a tensor's name says.

    Attributes:
        layer: what stands before the expert part, for example ``model.layers.3.mlp``; may be empty.
        expert: global index, None for a tensor of all experts.
        shards: what it holds: one shard, or ``("gate", "up")``.
    """

    layer: str
    expert: int | None
    shards: tuple[Shard, ...]


@dataclass(frozen=True)
class CheckpointFormat:
    """Names and layout of checkpoint tensors. Chosen by the caller: two formats can have equal shapes.

    Attributes:
        name: for errors.
        patterns: the end of a tensor's name for gate, up and down; ``{expert}`` stands for the index. Formats that fuse
            gate and up give the same pattern for both.
        order: of gate and up along N in a fused tensor.
        axes: ``[E,N,K]`` or ``[E,K,N]`` (without E for one expert).
        group: storage elements of K that are a last axis of their own: 16 for MXFP4's blocks of 32 values in 16 bytes,
            ``[E, N, K/16, 16]``. 1 for none. Only with K last.
    """

    name: str
    patterns: tuple[str, str, str]
    order: Order = "w13"
    axes: Axes = "[E,N,K]"
    group: int = 1

    def __post_init__(self) -> None:
        if self.group > 1 and self.axes != "[E,N,K]":
            raise LayoutError(f"{self.name}: groups of {self.group} along K need K last, found axes {self.axes}")

    def shape_of(self, matrix: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of a tensor whose axes without groups are `matrix`, K last or not as `axes` says.

        Raises:
            LayoutError: K is no multiple of the group.
        """
        if self.group == 1:
            return matrix
        if matrix[-1] % self.group:
            raise LayoutError(
                f"K of {matrix[-1]} storage elements is not a multiple of the {self.group} in one group of {self.name}"
            )
        return (*matrix[:-1], matrix[-1] // self.group, self.group)

    @property
    def fused(self) -> bool:
        """Gate and up are one tensor, all experts in it."""
        return self.patterns[0] == self.patterns[1]

    def parse(self, name: str) -> CheckpointName:
        """What `name` holds. Raises LayoutError if it is not a name of this format."""
        shards: list[Shard] = []
        found: re.Match[str] | None = None
        for shard, pattern in zip(SHARDS, self.patterns, strict=True):
            text = re.escape(pattern).replace(re.escape("{expert}"), r"(?P<expert>\d+)")
            match = re.fullmatch(rf"(?:(?P<layer>.+)\.)?{text}", name)
            if match is not None:
                found = match
                shards.append(shard)
        if found is None:
            raise LayoutError(
                f"{name!r} does not name expert weights of the {self.name} checkpoint format; expected a name that "
                f"ends in {', '.join(dict.fromkeys(self.patterns))}"
            )
        expert = found.groupdict().get("expert")
        return CheckpointName(found["layer"] or "", None if expert is None else int(expert), tuple(shards))

    def name_of(self, shard: Shard, expert: int | None, layer: str = "") -> str:
        """The tensor that holds `shard` of `expert` (None where all experts are one tensor)."""
        tail = self.patterns[SHARDS.index(shard)].replace("{expert}", str(expert))
        return f"{layer}.{tail}" if layer else tail

    def companion(self, ending: str) -> CheckpointFormat:
        """Names of the tensors that lie beside the weights in the same order and axes: scales, zero points, blocks.

        `ending` takes the place of ``weight``, or is put behind names without it: ``weight_scale_inv`` gives
        ``experts.{expert}.gate_proj.weight_scale_inv`` for the per-expert format, ``scales`` gives
        ``experts.gate_up_proj_scales`` for gpt-oss. Sizes in the descriptor of such tensors count scales, not values.
        """

        def renamed(pattern: str) -> str:
            stem = pattern.removesuffix("weight")
            return f"{stem}{ending}" if stem != pattern else f"{pattern}_{ending}"

        gate, up, down = (renamed(pattern) for pattern in self.patterns)
        return replace(self, name=f"{self.name} {ending}", patterns=(gate, up, down))


PER_EXPERT = CheckpointFormat(
    "per-expert",
    (
        "experts.{expert}.gate_proj.weight",
        "experts.{expert}.up_proj.weight",
        "experts.{expert}.down_proj.weight",
    ),
)
MIXTRAL = CheckpointFormat(
    "mixtral", ("experts.{expert}.w1.weight", "experts.{expert}.w3.weight", "experts.{expert}.w2.weight")
)
FUSED = CheckpointFormat("fused", ("experts.gate_up_proj", "experts.gate_up_proj", "experts.down_proj"))
FUSED_TRANSPOSED = CheckpointFormat(
    "fused-transposed", ("experts.gate_up_proj", "experts.gate_up_proj", "experts.down_proj"), axes="[E,K,N]"
)
GPT_OSS = CheckpointFormat(
    "gpt-oss",
    ("experts.gate_up_proj", "experts.gate_up_proj", "experts.down_proj"),
    order="interleaved",
    axes="[E,K,N]",
)
# OpenAI's MXFP4 checkpoint: blocks [E, 2I, H/32, 16] and scales [E, 2I, H/32] as bytes, K last unlike in bf16 (read in
# vLLM 0.32, gpt_oss.py, `_load_weights_mxfp4`). Sizes in the descriptor of scales count scales.
GPT_OSS_BLOCKS = CheckpointFormat(
    "gpt-oss blocks",
    ("experts.gate_up_proj_blocks", "experts.gate_up_proj_blocks", "experts.down_proj_blocks"),
    order="interleaved",
    group=16,
)
GPT_OSS_SCALES = CheckpointFormat(
    "gpt-oss scales",
    ("experts.gate_up_proj_scales", "experts.gate_up_proj_scales", "experts.down_proj_scales"),
    order="interleaved",
)
VLLM = CheckpointFormat("vllm", ("experts.w13_weight", "experts.w13_weight", "experts.w2_weight"))
CHECKPOINT_FORMATS = (PER_EXPERT, MIXTRAL, FUSED, FUSED_TRANSPOSED, GPT_OSS, VLLM)

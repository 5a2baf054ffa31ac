"""A GDN layer of vLLM whose core runs hardpoint's kernels for the batches that they are wanted for.

Two methods are replaced, both inside vLLM's opaque op: the decode step (without speculative tokens), and the core for
batches with prefills. Every other batch, and every batch of a layer that a kernel has refused, runs vLLM's own code.
"""

from __future__ import annotations

import logging
from typing import Any

import torch

from hardpoint.selection import get_backend
from hardpoint_vllm.kernels.choice import choose, require
from hardpoint_vllm.kernels.wanted import Mode, Part, wanted

NULL_BLOCK = 0  # vllm/v1/attention/backends/utils.py: NULL_BLOCK_ID
# Layers whose core is q, k, v of one packed tensor, through one convolution.
LAYERS = ("QwenGatedDeltaNetAttention",)
_logger = logging.getLogger("vllm.hardpoint.kernels")


def with_kernels(layer: type) -> type:
    """A subclass of `layer`, or `layer` itself if nothing is wanted or it is another kind."""
    modes = wanted()
    if layer.__name__ not in LAYERS or set(modes.values()) == {"off"}:
        return layer

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        for part, mode in modes.items():
            if mode == "on":
                require(f"gdn_{part}")
        layer.__init__(self, *args, **kwargs)  # type: ignore[misc]

    def decode(
        self: Any, mixed_qkv: torch.Tensor, b: torch.Tensor, a: torch.Tensor, core_attn_out: torch.Tensor,
        attn_metadata: Any,
    ) -> None:  # fmt: skip
        parts = _parts(self, modes)
        if not parts.decode(mixed_qkv, a, b, core_attn_out, attn_metadata, attn_metadata.num_actual_tokens):
            layer._forward_core_decode_non_spec(  # type: ignore[attr-defined]
                self, mixed_qkv, b, a, core_attn_out, attn_metadata
            )

    def core(self: Any, mixed_qkv: torch.Tensor, b: torch.Tensor, a: torch.Tensor, core_attn_out: torch.Tensor) -> None:
        metadata = _metadata(self)
        if not (_plain_prefill(metadata) and _parts(self, modes).prefill(mixed_qkv, a, b, core_attn_out, metadata)):
            layer._forward_core(self, mixed_qkv, b, a, core_attn_out)  # type: ignore[attr-defined]

    return type(layer.__name__, (layer,), {
        "__init__": init, "_forward_core_decode_non_spec": decode, "_forward_core": core, "__module__": __name__,
        "__doc__": layer.__doc__,
    })  # fmt: skip


def _metadata(layer: Any) -> Any | None:
    """The layer's attention metadata of this forward pass, None in a profile run."""
    from vllm.forward_context import get_forward_context

    found = get_forward_context().attn_metadata
    return found.get(layer.prefix) if isinstance(found, dict) else None


def _plain_prefill(metadata: Any | None) -> bool:
    """A batch with prefills, no speculative tokens, and no checkpoints of states between chunks."""
    return (
        metadata is not None
        and metadata.num_prefills > 0
        and metadata.spec_sequence_masks is None
        and getattr(metadata, "checkpoint", None) is None
        and metadata.prefill_query_start_loc is not None
    )


class Parts:
    """The kernels of one layer, made when they are first wanted, and again when a weight has moved."""

    def __init__(self, layer: Any, modes: dict[Part, Mode]) -> None:
        from hardpoint_kernels.gdn.heads import Heads

        tp = layer.tp_size
        self._layer = layer
        self._modes = dict(modes)
        self._heads = Heads(layer.num_k_heads // tp, layer.num_v_heads // tp, layer.head_k_dim, layer.head_v_dim)
        self._made: dict[Any, Any] = {}

    def decode(
        self, mixed_qkv: torch.Tensor, a: torch.Tensor, b: torch.Tensor, out: torch.Tensor, metadata: Any, count: int
    ) -> bool:
        """Run the first `count` rows, a request each; False if vLLM's own kernels are to."""
        shape = (*self._sizes(), ("requests", count))
        make = choose("gdn_decode", shape, self._modes["decode"], mixed_qkv.device)
        if make is None:
            return False
        conv_state, state = self._states()
        slots = metadata.non_spec_state_indices_tensor[:count]
        return self._run("decode", make, mixed_qkv[:count], a[:count], b[:count], conv_state, state, slots, out[:count])

    def prefill(
        self, mixed_qkv: torch.Tensor, a: torch.Tensor, b: torch.Tensor, out: torch.Tensor, metadata: Any
    ) -> bool:
        """Run a batch of decodes (first) and prefills; False if vLLM's own kernels are to, and nothing was done."""
        from hardpoint_kernels.gdn.plan import plan_chunks

        split = metadata.num_decode_tokens if metadata.num_decodes > 0 else 0
        end = metadata.num_actual_tokens
        sequences = metadata.prefill_state_indices.shape[0]
        make = self._prefill_maker(sequences, end - split, mixed_qkv.device)
        if make is None or metadata.num_decode_tokens != metadata.num_decodes:
            return False
        if not hasattr(metadata, "hardpoint_plan"):  # made once per forward pass, for all layers
            metadata.hardpoint_plan = plan_chunks(metadata.prefill_query_start_loc, end - split)
        conv_state, state = self._states()
        rows = slice(split, end)
        done = self._run(
            "prefill", make, mixed_qkv[rows], a[rows], b[rows], conv_state, state, metadata.prefill_state_indices,
            metadata.prefill_has_initial_state, metadata.hardpoint_plan, out[rows],
        )  # fmt: skip
        if done and split:
            # The slots of these requests are others than those of the prefills, so the order does not matter.
            self._decode_beside_prefill(mixed_qkv, a, b, out, metadata, split)
        return done

    def _decode_beside_prefill(
        self, mixed_qkv: torch.Tensor, a: torch.Tensor, b: torch.Tensor, out: torch.Tensor, metadata: Any, count: int
    ) -> None:
        """The decodes of a mixed batch: hardpoint's kernel, whatever the tables say, since vLLM's path is one piece."""
        make = choose("gdn_decode", (*self._sizes(), ("requests", count)), "on", mixed_qkv.device)
        conv_state, state = self._states()
        slots = metadata.non_spec_state_indices_tensor[:count]
        given = (mixed_qkv[:count], a[:count], b[:count], conv_state, state, slots, out[:count])
        if make is None or not self._run("decode", make, *given):
            raise RuntimeError(
                f"{self._layer.prefix}: hardpoint's prefill ran, and its decode step refused this batch."
            )

    def _prefill_maker(self, sequences: int, tokens: int, device: torch.device) -> Any | None:
        mode = self._modes["prefill"]
        shape = (*self._sizes(), ("sequences", sequences), ("tokens", tokens))
        backend = getattr(self._layer, "gdn_prefill_backend", "triton")
        if mode == "auto" and backend != "triton":  # what vLLM would run instead was measured as the chunk rule alone
            if choose("gdn_chunk_rule", shape, mode, device, peer=backend) is None:
                return None
            mode = "on"
        return choose("gdn_prefill", shape, mode, device)

    def _run(self, part: Part, make: Any, *args: Any) -> bool:
        """Run one part; where it refuses, say so once and leave it to vLLM (an error in mode ``on``)."""
        from hardpoint_kernels import KernelRefused

        try:
            self._object(part, make)(*args)
        except KernelRefused as error:
            if self._modes[part] == "on":
                raise
            _logger.warning("hardpoint: %s: the %s stays vLLM's from now on: %s", self._layer.prefix, part, error)
            self._modes[part] = "off"
            return False
        return True

    def _object(self, part: Part, make: Any) -> Any:
        layer = self._layer
        weight = layer.conv1d.weight
        key = (part, weight.data_ptr(), layer.A_log.data_ptr(), layer.dt_bias.data_ptr())
        if key not in self._made:
            for old in [old for old in self._made if old[0] == part]:
                del self._made[old]  # a weight has moved: bind the new one
            self._made[key] = make(
                self._heads,
                conv_weight=weight.view(weight.size(0), weight.size(2)),
                conv_bias=layer.conv1d.bias,
                A_log=layer.A_log,
                dt_bias=layer.dt_bias,
                null_slot=NULL_BLOCK,
                launcher=get_backend().launcher,
            )
        return self._made[key]

    def _sizes(self) -> tuple[tuple[str, int], ...]:
        return (("H", self._heads.num_k_heads), ("HV", self._heads.num_v_heads))

    def _states(self) -> tuple[torch.Tensor, torch.Tensor]:
        """``[pool, taps, channels]`` (vLLM keeps the windows either way round) and ``[pool, HV, V, K]``."""
        conv_state, state = self._layer.kv_cache[0], self._layer.kv_cache[1]
        if conv_state.shape[-1] != self._heads.channels:
            conv_state = conv_state.transpose(-1, -2)
        return conv_state, state


def _parts(layer: Any, modes: dict[Part, Mode]) -> Parts:
    found = layer.__dict__.get("hardpoint_parts")  # past torch's Module, which keeps a register of its attributes
    if not isinstance(found, Parts):
        found = layer.__dict__["hardpoint_parts"] = Parts(layer, modes)
    return found

"""Errors of the GDN kernels and of the peers' against the float64 reference, on real head sizes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from gdn_batches import DecodeBatch, PrefillBatch
from gdn_flashinfer import VARIANTS, chunk_flashinfer, decode_flashinfer

from hardpoint_kernels.gdn import reference
from hardpoint_kernels.gdn.heads import Heads

HEADS = Heads(4, 8)


def relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """``|found - wanted| / |wanted|``."""
    return float((found.detach().cpu().double() - wanted).norm() / wanted.norm())


def errors() -> Iterator[dict[str, Any]]:
    """One entry per op and provider: op, provider, error (of the output)."""
    for norm in (False, True):
        op = "gdn_decode_norm" if norm else "gdn_decode"
        for provider in ("hardpoint", "vllm", *([] if norm else ["flashinfer"])):
            batch = DecodeBatch.make(HEADS, 4)
            given = {name: tensor.cpu() for name, tensor in batch.sets[0].items()}
            weights = {name: None if value is None else value.cpu() for name, value in batch.weights.named().items()}
            wanted = reference.decode(
                HEADS, given["mixed_qkv"], given["a"], given["b"], weights["A_log"], weights["dt_bias"],
                batch.conv_state.cpu(), weights["conv_weight"], None, batch.state.cpu(), given["slots"], null_slot=0,
                z=given["z"] if norm else None, norm_weight=batch.weights.norm_weight.cpu() if norm else None,
                dtype=torch.float64,
            )  # fmt: skip
            made = {"hardpoint": batch.ours, "vllm": batch.vllm, "flashinfer": lambda _, b=batch: decode_flashinfer(b)}
            calls = made[provider](norm)
            if calls is not None and not (norm and provider == "vllm"):  # its norm returns a new tensor
                calls[0]()
                yield {"op": op, "provider": provider, "error": relative(batch.sets[0]["out"], wanted)}
    batch = PrefillBatch.make(HEADS, (1000,), 1)
    given = {name: tensor.cpu() for name, tensor in batch.sets[0].items()}
    wanted = reference.chunk_rule(
        given["q"], given["k"], given["v"], given["g"], given["beta"], batch.state.cpu(), given["slots"],
        given["initial"], torch.tensor([0, 1000]), scale=HEADS.scale, dtype=torch.float64,
    )  # fmt: skip
    before = batch.state.clone()
    variants = {name: chunk_flashinfer(batch, use_cp) for name, use_cp in VARIANTS.items()}
    for provider, calls in {"vllm": batch.chunk_vllm(), "hardpoint": batch.chunk_ours(), **variants}.items():
        if calls is not None:
            batch.state.copy_(before)
            found = calls[0]()
            assert isinstance(found, torch.Tensor)
            yield {"op": "gdn_chunk_rule", "provider": provider, "error": relative(found.reshape(wanted.shape), wanted)}

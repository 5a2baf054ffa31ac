"""What the cuda backend offers for the ops of a GDN layer: this project's Triton kernels, and others it knows of."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import torch

from hardpoint.launcher import KernelOffer, Refusal

OWN = "hardpoint"
FLASHINFER = "flashinfer"
CAPABILITY = (8, 0)
LAUNCHES = {"gdn_chunk_rule": "two launches", "gdn_prefill": "three launches"}


def offers(op: str) -> list[KernelOffer | Refusal] | None:
    """Offers and refusals for `op`, None if it is none of ours. Asks the device for its compute capability."""
    if op not in ("gdn_decode", "gdn_decode_norm", "gdn_prefill_prepare", "gdn_chunk_rule", "gdn_prefill"):
        return None
    found: list[KernelOffer | Refusal] = [_own(op)]
    if op == "gdn_chunk_rule":
        installed = importlib.util.find_spec("flashinfer") is not None
        reason = "installed, but only vLLM's own layer calls it so far" if installed else "flashinfer is not installed"
        found.append(Refusal(op, FLASHINFER, reason))
    return found


def _own(op: str) -> KernelOffer | Refusal:
    if importlib.util.find_spec("triton") is None:
        return Refusal(op, OWN, "requires Triton, which is not installed: pip install 'hardpoint[cuda]'")
    capability = torch.cuda.get_device_capability()
    if capability < CAPABILITY:
        wanted, got = (".".join(map(str, version)) for version in (CAPABILITY, capability))
        return Refusal(op, OWN, f"requires compute capability {wanted} or newer, got {got}")
    return KernelOffer(op, OWN, _made_by(op), LAUNCHES.get(op, "one launch"))


def _made_by(op: str) -> Callable[..., Any]:
    """The class whose objects run `op`."""
    from hardpoint_kernels.gdn.chunk import ChunkRule
    from hardpoint_kernels.gdn.decode import GdnDecode
    from hardpoint_kernels.gdn.prefill import GdnPrefill
    from hardpoint_kernels.gdn.prefill_conv import GdnPrepare

    made = {"gdn_prefill_prepare": GdnPrepare, "gdn_chunk_rule": ChunkRule, "gdn_prefill": GdnPrefill}
    return made.get(op, GdnDecode)

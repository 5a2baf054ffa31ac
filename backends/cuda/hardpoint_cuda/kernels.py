"""What the cuda backend offers for the ops of a GDN layer: this project's Triton kernels, and FlashInfer's."""

from __future__ import annotations

import functools
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
    if op in ("gdn_chunk_rule", "gdn_decode"):
        found += _flashinfer(op)
    return found


def _flashinfer(op: str) -> list[KernelOffer | Refusal]:
    """Its chunk rule once for each way that it can split a sequence, since its own choice is not always the quicker."""
    from hardpoint_cuda import flashinfer_gdn as library

    places = {
        "gdn_chunk_rule": (library.CHUNK, library.CHUNK_ARGUMENTS),
        "gdn_decode": (library.DECODE, library.DECODE_ARGUMENTS),
    }
    place, arguments = places[op]
    reason = library.unfit(place, arguments, torch.cuda.get_device_capability())
    if reason is not None:
        return [Refusal(op, FLASHINFER, reason)]
    if op == "gdn_decode":
        return [KernelOffer(op, FLASHINFER, library.FlashInferDecode, "our convolution, then its rule")]
    offers: list[KernelOffer | Refusal] = [KernelOffer(op, FLASHINFER, library.FlashInferChunkRule, "its own choice")]
    why_not = library.unfit(place, ("use_cp",), torch.cuda.get_device_capability())
    for use_cp in (False, True):
        name = f"{FLASHINFER} cp={use_cp}"
        made = functools.partial(library.FlashInferChunkRule, use_cp=use_cp)
        words = "split within a sequence" if use_cp else "one program a sequence and head"
        offers.append(KernelOffer(op, name, made, words) if why_not is None else Refusal(op, name, why_not))
    return offers


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

"""FlashInfer in the GDN benchmarks, through the adapters that the cuda backend offers it by.

Its prefill is timed once for each way that it can split a sequence and once by its own choice, ``flashinfer``. Written
and not run on a GPU yet; FlashInfer 0.6.18 is what the adapters were read against.
"""

from __future__ import annotations

from typing import Any

import torch
from gdn_batches import Calls, DecodeBatch, PrefillBatch

from hardpoint_cuda import flashinfer_gdn as library
from hardpoint_kernels.gdn.plan import plan_chunks

# Name in the tables -> use_cp.
VARIANTS: dict[str, Any] = {"flashinfer": "auto", "flashinfer cp=False": False, "flashinfer cp=True": True}


def chunk_flashinfer(batch: PrefillBatch, use_cp: Any) -> Calls | None:
    """The rule with states from and into their pool; None where it cannot be called, with the reason."""
    reason = library.unfit(library.CHUNK, library.CHUNK_ARGUMENTS, torch.cuda.get_device_capability())
    if reason is not None:
        print(f"flashinfer: {reason}")
        return None
    rule = library.FlashInferChunkRule(batch.heads, null_slot=0, use_cp=use_cp, padding=False)
    plan = plan_chunks(batch.starts, batch.tokens)

    def one(s: dict[str, torch.Tensor]) -> Any:
        return lambda: rule(
            s["q"], s["k"], s["v"], s["g"], s["beta"], batch.state, s["slots"], s["initial"], plan, s["out"]
        )

    return [one(s) for s in batch.sets]


def decode_flashinfer(batch: DecodeBatch) -> Calls | None:
    """Our convolution and its rule, without the norm; None where it cannot be called, with the reason."""
    reason = library.unfit(library.DECODE, library.DECODE_ARGUMENTS, torch.cuda.get_device_capability())
    if reason is not None:
        print(f"flashinfer: {reason}")
        return None
    step = library.FlashInferDecode(batch.heads, **batch.weights.named(), null_slot=0)
    return [
        (lambda s=s: step(s["mixed_qkv"], s["a"], s["b"], batch.conv_state, batch.state, s["slots"], s["out"]))
        for s in batch.sets
    ]

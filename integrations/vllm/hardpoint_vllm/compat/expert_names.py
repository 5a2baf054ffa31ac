"""Fused expert tensors of transformers 5 under the per-expert names that checkpoints have: views, nothing is copied."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from hardpoint.errors import LayoutError

if TYPE_CHECKING:
    import torch

_FUSED = re.compile(r"(?P<layer>.*\.experts)\.(?P<which>gate_up_proj|down_proj)(?:\.weight)?")


def expand(weights: Iterable[tuple[str, torch.Tensor]]) -> Iterator[tuple[str, torch.Tensor]]:
    """`weights` with ``X.experts.gate_up_proj [E, 2I, H]`` and ``X.experts.down_proj [E, H, I]`` taken apart.

    Each expert's ``gate_proj`` and ``up_proj`` ``[I, H]`` (gate first on the axis of 2I) and ``down_proj`` ``[H, I]``
    come under ``X.experts.{e}.{name}.weight``. Every rank sees every expert: which are its own is its loader's
    business. All other tensors pass.

    Raises:
        LayoutError: an odd number of rows where gate and up are fused.
    """
    for name, tensor in weights:
        found = _FUSED.fullmatch(name) if tensor.dim() == 3 else None
        if found is None:
            yield name, tensor
            continue
        layer = found["layer"]
        if found["which"] == "down_proj":
            for expert, down in enumerate(tensor.unbind(0)):
                yield f"{layer}.{expert}.down_proj.weight", down
            continue
        if tensor.shape[1] % 2:
            raise LayoutError(
                f"{name} must hold gate and up of each expert in [E, 2I, H], found {list(tensor.shape)}: its second "
                "dimension is odd. Send it in the layout of transformers 5, or per expert."
            )
        for expert, both in enumerate(tensor.unbind(0)):
            gate, up = both.chunk(2, dim=0)
            yield f"{layer}.{expert}.gate_proj.weight", gate
            yield f"{layer}.{expert}.up_proj.weight", up


def needs_expanding(model: torch.nn.Module) -> bool:
    """Whether `model` loads experts by a table of per-expert names of its own, which has no fused ones.

    Models without such a table leave it to vLLM's expert layers, which take both (vLLM 0.26 and newer). Tables whose
    names are fused themselves (gpt-oss, Llama 4) or others' than ``gate_proj`` are left alone.
    """
    mapping: Any = getattr(model, "get_expert_mapping", None)
    if mapping is None:
        return False
    names = {entry[1] for entry in mapping()}
    return any(name.startswith("experts.0.gate_proj") for name in names)

"""Which modules of a vLLM model are watched: blocks of attention, gated-delta-net layers, MoE blocks."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hardpoint.probe.probe import Layer

if TYPE_CHECKING:
    import torch

_NUMBER = re.compile(r"\.(\d+)\.")


@dataclass(frozen=True)
class Watched:
    """A module and the layer that it is."""

    layer: Layer
    module: torch.nn.Module


def watched(model: torch.nn.Module) -> list[Watched]:
    """In the order of the model. A module inside a watched one is not watched again (the drafter's layers are others).

    GDN layers are known by their class name; a MoE block holds ``experts``; a block of attention holds an attention
    layer of vLLM (``Attention``, ``MLAAttention``) as a child.
    """
    found: list[Watched] = []
    for name, module in model.named_modules():
        kind = _kind(module)
        if kind and not any(name.startswith(f"{other.layer.name}.") for other in found):
            number = _NUMBER.search(f".{name}.")
            found.append(Watched(Layer(int(number[1]) if number else -1, kind, name), module))
    return found


def _kind(module: torch.nn.Module) -> str:
    if "GatedDeltaNet" in type(module).__name__:
        return "gdn"
    children = dict(module.named_children())
    if "experts" in children:
        return "moe"
    if any(type(child).__name__ in ("Attention", "MLAAttention") for child in children.values()):
        return "attention"
    return ""


def scanned(args: tuple[object, ...], kwargs: dict[str, object], *names: str) -> torch.Tensor | None:
    """The hidden states among the arguments of a forward: the one of these names, else the last floating 2-D tensor."""
    import torch

    for name in names:
        if isinstance(kwargs.get(name), torch.Tensor):
            return kwargs[name]  # type: ignore[return-value]
    tensors = [each for each in (*args, *kwargs.values()) if isinstance(each, torch.Tensor)]
    matching = [tensor for tensor in tensors if tensor.is_floating_point() and tensor.dim() == 2]
    return matching[-1] if matching else None

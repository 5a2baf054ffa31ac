"""PEFT's own tables of experts that transformers 5 fused: which old name lives in which new parameter."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

MODULE = "peft.utils.transformers_weight_conversion"  # since PEFT 0.19


@dataclass(frozen=True)
class FusedNames:
    """Of one model type, as PEFT has them.

    Attributes:
        new_of: name in transformers 4 -> parameter that holds it now (``up_proj`` -> ``gate_up_proj``; a router,
            ``gate`` -> ``gate.weight``).
        together: parameter -> old names that are fused in it and can only be adapted together.
    """

    new_of: Mapping[str, str]
    together: Mapping[str, tuple[str, ...]]

    def is_experts(self, new: str) -> bool:
        """Whether the parameter `new` holds experts; the router's does not."""
        return "." not in new


def conversion() -> Any:
    """PEFT's module, None where PEFT has none (not installed, or older than 0.19)."""
    if importlib.util.find_spec("peft") is None or importlib.util.find_spec(MODULE) is None:
        return None
    return importlib.import_module(MODULE)


def fused_names(model_type: str | None) -> FusedNames | None:
    """PEFT's tables for `model_type`; None where it converts nothing."""
    module = conversion()
    if module is None or not model_type:
        return None
    base = module._MODEL_TO_CONVERSION_PATTERN.get(model_type)
    new_of = module._MOE_TARGET_MODULE_MAPPING.get(base)
    together = module._MOE_FUSED_TARGETS.get(base)
    if not new_of or not together:
        return None
    return FusedNames(dict(new_of), {new: tuple(old) for new, old in together.items()})


def model_type_of(model: Any) -> str | None:
    """Of a transformers model, None for others."""
    found = getattr(getattr(model, "config", None), "model_type", None)
    return found if isinstance(found, str) else None


def experts_in(model: torch.nn.Module, names: FusedNames) -> Iterator[tuple[str, str, int]]:
    """Containers of fused experts: module's name, parameter's name in it, and how many experts it holds.

    Under DeepSpeed ZeRO-3 the parameter itself is empty and its shape is in ``ds_shape``.
    """
    for full, parameter in model.named_parameters():
        container, _, leaf = full.rpartition(".")
        shape = tuple(getattr(parameter, "ds_shape", parameter.shape))
        if leaf in names.new_of.values() and names.is_experts(leaf) and len(shape) == 3:
            yield container, leaf, shape[0]

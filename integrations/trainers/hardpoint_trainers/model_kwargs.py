"""What of a batch may be handed to transformers' `generate`: what the model or `generate` itself takes, nothing else.

Why it exists (FR1): a trainer's batch carries data fields for its reward functions (`solution`, `task_type`); handed on
to ``model.generate(**batch)`` they end the step with "The following `model_kwargs` are not used by the model".
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from hardpoint.errors import HardpointError

if TYPE_CHECKING:
    import torch

log = logging.getLogger("hardpoint.trainers")
_WRAPPED = ("module", "_orig_mod", "_fsdp_wrapped_module")  # DDP and DeepSpeed, torch.compile, FSDP1
_said: set[tuple[str, tuple[str, ...]]] = set()


def base_model(model: Any) -> Any:
    """The transformers model inside PEFT, DDP, DeepSpeed, FSDP1 and ``torch.compile``, in any nesting.

    A wrapper's own ``forward`` takes ``*args, **kwargs`` and says nothing about what the model takes.
    """
    while True:
        # On the class: a wrapper that forwards unknown attributes would answer for the model inside it.
        if callable(getattr(type(model), "get_base_model", None)):
            model = model.get_base_model()
            continue
        modules = getattr(model, "_modules", {})
        inner = next((modules[name] for name in _WRAPPED if modules.get(name) is not None), None)
        if inner is None or _is_transformers(model):
            return model
        model = inner


def generate_kwargs(model: torch.nn.Module | Any, fields: Mapping[str, Any]) -> dict[str, Any]:
    """`fields` without what neither the model's ``forward`` nor `generate` takes; order and values stay.

    Kept are the named parameters of the unwrapped model's ``forward`` and ``prepare_inputs_for_generation`` (of its
    encoder and, as ``decoder_*``, its decoder too), those of ``generate``, and the fields of its generation config
    (``max_new_tokens`` ...). What is dropped is logged, once per set of names.

    Raises:
        HardpointError: ``forward`` has no named parameter, so that nobody can tell what the model takes.
    """
    base = base_model(model)
    taken = _named(base.forward)
    if not taken:
        raise HardpointError(
            f"expected a model whose forward names its arguments, found {type(base).__name__}.forward with *args and "
            "**kwargs alone: what it takes cannot be told; pass the transformers model inside that wrapper"
        )
    taken |= _of_generate(base) | _of_parts(base)
    dropped = tuple(name for name in fields if name not in taken)
    said = (type(base).__name__, dropped)
    if dropped and said not in _said:
        _said.add(said)
        log.info("%s takes no %s: kept from generate().", type(base).__name__, ", ".join(dropped))
    return {name: value for name, value in fields.items() if name in taken}


def _of_generate(base: Any) -> set[str]:
    """Names that `generate` takes for itself, the generation config's included."""
    config = getattr(base, "generation_config", None)
    names = set(config.to_dict()) if config is not None else set()
    for method in ("generate", "prepare_inputs_for_generation"):
        if (function := getattr(base, method, None)) is not None:
            names |= _named(function)
    return names


def _of_parts(base: Any) -> set[str]:
    """What an encoder-decoder model hands on to its two halves."""
    if not getattr(getattr(base, "config", None), "is_encoder_decoder", False):
        return set()
    inner = getattr(base, getattr(base, "base_model_prefix", "") or "model", None)
    names: set[str] = set()
    for part, prefix in (("encoder", ""), ("decoder", "decoder_")):
        half = getattr(base, part, None) or getattr(inner, part, None)
        if half is not None:
            names |= {f"{prefix}{name}" for name in _named(half.forward)}
    return names


def _named(function: Callable[..., Any]) -> set[str]:
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {name for name, parameter in inspect.signature(function).parameters.items() if parameter.kind in kinds}


def _is_transformers(model: Any) -> bool:
    return hasattr(type(model), "prepare_inputs_for_generation")

"""A model as it serves, kept in host memory while new weights are loaded, so that a failed load can be undone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch


class Modules(Protocol):
    """A model, or several as one."""

    def modules(self) -> Iterator[torch.nn.Module]: ...


@dataclass(frozen=True)
class _Module:
    module: torch.nn.Module
    parameters: dict[str, torch.Tensor | None]
    buffers: dict[str, torch.Tensor | None]
    non_persistent: set[str]
    attributes: dict[str, Any]
    helpers: tuple[tuple[dict[str, Any], dict[str, Any]], ...]


class Snapshot:
    """The tensors of `model` with copies of their values, and the plain attributes of its modules.

    Attributes count: post-load processing hangs packed weights on layers (oneDNN handlers on CPU, scales), and a tensor
    that is one of them counts as the parameters do. Host memory: one copy of this rank's weights.

    Args:
        values: False to keep which tensor is where, and no values.
    """

    def __init__(self, model: Modules, *, values: bool = True) -> None:
        self._modules = [_remember(module) for module in model.modules()]
        unique = {id(tensor): tensor for tensor in self._tensors()} if values else {}
        self._values = [(tensor, tensor.detach().to("cpu", copy=True)) for tensor in unique.values()]

    @property
    def nbytes(self) -> int:
        """Host memory that the copies take."""
        return sum(value.numel() * value.element_size() for _, value in self._values)

    @torch.no_grad()
    def restore(self) -> None:
        """Put the same tensor objects back where they were, with the old values in their own storage."""
        from vllm.model_executor.model_loader.reload.layerwise import get_layerwise_info

        for kept in self._modules:
            module = kept.module
            module._parameters.clear()
            module._parameters.update(kept.parameters)  # type: ignore[arg-type]
            module._buffers.clear()
            module._buffers.update(kept.buffers)
            module._non_persistent_buffers_set.clear()
            module._non_persistent_buffers_set.update(kept.non_persistent)
            for name in module.__dict__.keys() - kept.attributes.keys() - _OWN:
                del module.__dict__[name]
            module.__dict__.update(kept.attributes)
            for own, was in kept.helpers:
                own.clear()
                own.update(was)
            get_layerwise_info(module).reset()
        for tensor, value in self._values:
            tensor.detach().copy_(value)

    def _tensors(self) -> Iterator[torch.Tensor]:
        for kept in self._modules:
            plain = (kept.attributes, *(was for _, was in kept.helpers))
            own = [value for of in plain for name, value in of.items() if _is_derived(name, value)]
            for tensor in (*kept.parameters.values(), *kept.buffers.values(), *own):
                if tensor is not None and not tensor.is_meta:
                    yield tensor


_HELPERS = ("quant_method", "impl")  # plain objects beside a layer that post-load processing leaves things on too
_NOT_WEIGHTS = ("cache", "workspace")
_OWN = {"_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"}


def _is_derived(name: str, value: object) -> bool:
    """A tensor that was made of weights. A layer's KV cache is a plain attribute as well, and none of the weights."""
    return isinstance(value, torch.Tensor) and not any(word in name for word in _NOT_WEIGHTS)


def _remember(module: torch.nn.Module) -> _Module:
    return _Module(
        module,
        dict(module._parameters),
        dict(module._buffers),
        set(module._non_persistent_buffers_set),
        {name: value for name, value in module.__dict__.items() if name not in _OWN},
        tuple((vars(of), dict(vars(of))) for of in map(module.__dict__.get, _HELPERS) if hasattr(of, "__dict__")),
    )

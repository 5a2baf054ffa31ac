"""What this model's first load read: the names, shapes and dtypes that every later update must bring.

vLLM ignores what `load_weights` did not take and fills what did not come with uninitialised memory
(vLLM 0.32, reload/layerwise.py), so completeness has to be known before the live model is touched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch

from hardpoint.sync import TensorSpec
from hardpoint_vllm.patching import wrap
from hardpoint_vllm.weight_transfer import NAME
from hardpoint_vllm.weight_transfer.placement import Placed, Watch


@dataclass(frozen=True)
class FirstLoad:
    """Attributes:
    specs: every tensor that the checkpoint offered, by checkpoint name, on this rank.
    required: names of those that the model took something from. The others (a drafter's layers, a tied `lm_head`,
        `inv_freq`) may come or not.
    placed: by parameter, what was put where.
    kept: values of small parameters of planned layers that no tensor fills, as the load left them.
    """

    specs: dict[str, TensorSpec]
    required: frozenset[str]
    placed: dict[str, Placed] = field(default_factory=dict)
    kept: dict[str, torch.Tensor] = field(default_factory=dict)


_SMALL = 1 << 20  # elements: scales, not weights
_RECORDS: WeakKeyDictionary[torch.nn.Module, FirstLoad] = WeakKeyDictionary()


def record_of(model: torch.nn.Module) -> FirstLoad | None:
    """What `model` was first loaded from; None if it was not seen (dummy weights, a loader without `load_weights`)."""
    return _RECORDS.get(model)


def install() -> bool:
    """Watch first loads of models whose engine uses weight transfer by hardpoint; False if that was done before.

    A patch, of the place from which loaders make models: loaders are a registry by format, and no hook passes the
    checkpoint's names by.
    """
    from vllm.model_executor.model_loader import base_loader

    return wrap(base_loader, "initialize_model", _around)


def _around(original: Callable[..., Any]) -> Callable[..., Any]:
    def initialize_model(vllm_config: Any, *args: Any, **kwargs: Any) -> Any:
        model = original(vllm_config, *args, **kwargs)
        config = getattr(vllm_config, "weight_transfer_config", None)
        if config is not None and config.backend == NAME:
            watch(model)
        return model

    return initialize_model


def watch(model: torch.nn.Module) -> None:
    """Record the next `model.load_weights`, and only that one."""
    original = model.load_weights

    def load_weights(weights: Iterable[tuple[str, torch.Tensor]], *args: Any, **kwargs: Any) -> Any:
        del model.load_weights
        watched = _Watched(weights, dict(model.named_parameters()))
        with watched.writes:
            result = original(iter(watched), *args, **kwargs)  # type: ignore[operator]
        _RECORDS[model] = watched.record(model)
        return result

    model.load_weights = load_weights  # type: ignore[assignment]


class _Watched:
    """Passes tensors on and notes which of them were followed by a write before the next one was asked for."""

    def __init__(
        self, weights: Iterable[tuple[str, torch.Tensor]], parameters: Mapping[str, torch.Tensor] | None = None
    ) -> None:
        self._weights = weights
        self._specs: dict[str, TensorSpec] = {}
        self._taken: set[str] = set()
        self.writes = Watch(parameters or {})

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        for name, tensor in self._weights:
            # Not `TensorSpec.of`: a dtype that cannot be sent must not keep the engine from starting.
            self._specs[name] = TensorSpec(name, tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))
            self.writes.give(name, tensor)
            before = self.writes.count
            yield name, tensor
            if self.writes.count > before:
                self._taken.add(name)

    def record(self, model: torch.nn.Module | None = None) -> FirstLoad:
        # A model that collects tensors before it loads them shows few writes in between: then all of them are required.
        lazy = len(self._taken) * 2 > len(self._specs)
        placed = self.writes.placed
        kept = {} if model is None else _beside(model, placed)
        return FirstLoad(self._specs, frozenset(self._taken if lazy else self._specs), placed, kept)


def _beside(model: torch.nn.Module, placed: Mapping[str, Placed]) -> dict[str, torch.Tensor]:
    """Tensors of layers that an update fills, which it does not fill themselves: a layer is loaded anew as a whole."""
    found: dict[str, torch.Tensor] = {}
    for prefix, module in model.named_modules():
        at = f"{prefix}." if prefix else ""
        own = {
            f"{at}{name}": of for name, of in (*module._parameters.items(), *module._buffers.items()) if of is not None
        }
        if any(name in placed and placed[name].copies for name in own):
            found |= {
                name: of.detach().clone()
                for name, of in own.items()
                if not (name in placed and placed[name].copies) and not of.is_meta and of.numel() <= _SMALL
            }
    return found

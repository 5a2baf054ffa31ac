"""What a model's checkpoint is made of, as things that can be gathered one by one: parameters, and merged adapters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from hardpoint.errors import SyncError
from hardpoint_trainers.model_kwargs import base_model
from hardpoint_trainers.names import is_adapter, plain_name
from hardpoint_trainers.sharded.gather import by_rows, refuse_foreign, rows, whole


class Source(Protocol):
    """One tensor of the model, under its runtime name."""

    @property
    def like(self) -> torch.Tensor:
        """A meta tensor of the whole shape and dtype."""
        ...

    @property
    def sliceable(self) -> bool:
        """Whether `rows` works."""
        ...

    def whole(self) -> torch.Tensor:
        """The tensor; a collective if it is sharded."""
        ...

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """Some rows of dimension 0; a collective if it is sharded."""
        ...


@dataclass(frozen=True)
class Stored:
    """A parameter or buffer as the trainer keeps it, plain or sharded."""

    tensor: torch.Tensor

    @property
    def like(self) -> torch.Tensor:
        return torch.empty(self.tensor.shape, dtype=self.tensor.dtype, device="meta")

    @property
    def sliceable(self) -> bool:
        return by_rows(self.tensor)

    def whole(self) -> torch.Tensor:
        return whole(self.tensor)

    def rows(self, start: int, stop: int) -> torch.Tensor:
        return rows(self.tensor, start, stop)


@dataclass(frozen=True)
class Merged:
    """A weight with its adapters' deltas added, computed aside: the trainer's own weight is not touched.

    PEFT's merge_adapter and unmerge_adapter add and subtract in the weight's dtype, which loses bits with every update.
    """

    weight: torch.Tensor
    delta: Callable[[], torch.Tensor]

    @property
    def like(self) -> torch.Tensor:
        return torch.empty(self.weight.shape, dtype=self.weight.dtype, device="meta")

    @property
    def sliceable(self) -> bool:
        return False

    def whole(self) -> torch.Tensor:
        weight = whole(self.weight)
        # As PEFT merges: added in the wider of the two dtypes, then rounded once.
        return (weight + self.delta()).to(weight.dtype)

    def rows(self, start: int, stop: int) -> torch.Tensor:
        return self.whole()[start:stop]


def sources_of(model: torch.nn.Module) -> dict[str, Source]:
    """Everything that a checkpoint of `model` is made from, by runtime name, adapters merged, tied tensors once.

    Raises:
        SyncError: a parameter that another library has emptied, an adapter that cannot be merged aside (DoRA, a sharded
            adapter of a fused expert weight), or a module kept by ``modules_to_save``.
    """
    found: dict[str, Source] = {}
    deltas = _deltas(model)
    for name, parameter in model.named_parameters():  # on these: a state dict's tensors have lost their attributes
        refuse_foreign(name, parameter)
    for name, tensor in model.state_dict().items():
        if is_adapter(name):
            if "modules_to_save" in name.split("."):
                raise SyncError(
                    f"Parameter {name} is a trained copy kept by modules_to_save, which is not merged here. Publish "
                    "model.merge_and_unload() of a copy of the model."
                )
            continue
        plain = plain_name(name)
        delta = deltas.get(plain)
        found[plain] = Stored(tensor) if delta is None else Merged(tensor, delta)
    base = base_model(model)
    for tied, kept in (getattr(base, "all_tied_weights_keys", None) or {}).items():
        if tied in found and kept in found:
            del found[tied]
    return found


def _deltas(model: torch.nn.Module) -> dict[str, Callable[[], torch.Tensor]]:
    """Plain name of a base weight -> what its active adapters add to it."""
    deltas: dict[str, Callable[[], torch.Tensor]] = {}
    for name, module in model.named_modules():
        layer: Any = module
        if not (hasattr(layer, "base_layer") and hasattr(layer, "get_delta_weight")):
            continue
        if getattr(layer, "merged", False) or getattr(layer, "disable_adapters", False):
            continue
        active = [adapter for adapter in layer.active_adapters if adapter in layer.lora_A]
        if not active:
            continue
        if getattr(layer, "lora_variant", None):
            kinds = sorted({type(variant).__name__ for variant in layer.lora_variant.values()})
            raise SyncError(
                f"The adapter at {name} is a {', '.join(kinds)}, whose merged weight is no sum. Publish "
                "model.merge_and_unload() of a copy of the model."
            )
        parameter = getattr(layer, "parameter_name", "weight")  # PEFT's ParamWrapper: an expert weight, by name
        # By plain name: wrappers of several parameters of one module are nested in each other.
        deltas[plain_name(f"{name}.{parameter}")] = _delta(name, layer, active)
    return deltas


def _delta(name: str, layer: Any, adapters: list[str]) -> Callable[[], torch.Tensor]:
    from torch.distributed.tensor import DTensor

    def of(adapter: str) -> torch.Tensor:
        down, up = layer.lora_A[adapter].weight, layer.lora_B[adapter].weight
        if not isinstance(down, DTensor) and not isinstance(up, DTensor):
            delta: torch.Tensor = layer.get_delta_weight(adapter)
            return delta.detach()
        if hasattr(layer, "parameter_name"):
            raise SyncError(
                f"The adapter at {name} is of a fused expert weight and sharded, which is not merged here. Publish the "
                "adapter alone, or train it unsharded."
            )
        product = whole(up) @ whole(down) * float(layer.scaling[adapter])
        return product.T if getattr(layer, "fan_in_fan_out", False) else product

    def total() -> torch.Tensor:
        with torch.no_grad():
            added = of(adapters[0])
            for adapter in adapters[1:]:
                added = added + of(adapter)
            return added

    return total

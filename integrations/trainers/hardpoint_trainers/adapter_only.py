"""Adapter-only publishing: the engines keep the base and get the adapter's tensors alone, under PEFT's names.

stream = AdapterStream(model)                                       # on every rank of the trainer
init_info = publisher.init_info() | {"adapter": stream.info("policy", number=1)}
publish_from(stream, publisher)                                      # a `WeightPublisher(path="whole")`
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from hardpoint.errors import SyncError
from hardpoint.sync import TensorSpec
from hardpoint_trainers.sharded.gather import whole

# What vLLM reads of adapter_config.json, and what says whether all layers have the adapter.
_FIELDS = (
    "r",
    "lora_alpha",
    "target_modules",
    "bias",
    "modules_to_save",
    "use_rslora",
    "use_dora",
    "lora_bias",
    "init_lora_weights",
    "rank_pattern",
    "alpha_pattern",
    "layers_to_transform",
    "exclude_modules",
    "target_parameters",
)

_MORE = ("use_dora", "lora_bias", "modules_to_save", "trainable_token_indices")  # than pairs of matrices


class AdapterStream:
    """The tensors of one adapter, gathered one by one while an update is sent. Iterate it on every rank of the trainer.

    Args:
        model: a PEFT model; plain, `fully_shard` or DTensor.
        adapter: its name in PEFT; None for the active one.
        dtype: convert to it; None for the trainer's own. vLLM rounds to its `lora_dtype`, as it does with a folder.

    Raises:
        SyncError: no PEFT model, no such adapter, several active ones, or one that is more than pairs of matrices
            (DoRA, biases, whole modules).
    """

    def __init__(self, model: Any, adapter: str | None = None, dtype: torch.dtype | None = None) -> None:
        configs = getattr(model, "peft_config", None)
        if not configs:
            raise SyncError(f"A {type(model).__name__} has no adapter: wrap it with peft.get_peft_model first.")
        active = list(getattr(model, "active_adapters", configs))
        if adapter is None and len(active) != 1:
            raise SyncError(f"Adapters {', '.join(active) or 'none'} are active; say which one is to be published.")
        self.adapter = active[0] if adapter is None else adapter
        if self.adapter not in configs:
            raise SyncError(f"The model has no adapter {self.adapter!r}; it has {', '.join(configs)}.")
        self._model, self._dtype = model, dtype
        self._config: dict[str, Any] = configs[self.adapter].to_dict()
        self._refuse_more_than_pairs()
        self.specs: tuple[TensorSpec, ...] = tuple(
            TensorSpec(name, tuple(of.shape), _dtype_name(dtype or of.dtype)) for name, of in self._tensors().items()
        )
        """What comes, in order: the manifest of an update."""

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Pairs in the order of `specs`, at their values of now. Collective, if the adapter is sharded."""
        with torch.no_grad():
            for name, tensor in self._tensors().items():
                value = whole(tensor).detach()
                yield name, value if self._dtype is None else value.to(self._dtype)

    def info(self, name: str, number: int = 1) -> dict[str, Any]:
        """For the engines' `init_info`, under ``adapter``: plain JSON values.

        Args:
            name: for people; of the requests' `LoRARequest` by custom.
            number: `lora_int_id` of the requests that want it.
        """
        config = {key: _plain(self._config[key]) for key in _FIELDS if self._config.get(key) is not None}
        return {"name": name, "number": number, "config": config}

    def _tensors(self) -> dict[str, torch.Tensor]:
        """By PEFT's name in a saved adapter, without the adapter's own name in it."""
        found = {}
        marks = tuple(f".{side}.{self.adapter}." for side in ("lora_A", "lora_B"))
        for name, tensor in self._model.state_dict().items():
            for mark in marks:
                if mark in name:
                    found[name.replace(mark, mark.replace(f".{self.adapter}.", "."))] = tensor
        return found

    def _refuse_more_than_pairs(self) -> None:
        config = self._config
        wrong = [key for key in _MORE if config.get(key)]
        if config.get("bias", "none") != "none":
            wrong.append("bias")
        embeddings = [name for name in self._model.state_dict() if f"lora_embedding_A.{self.adapter}" in name]
        if wrong or embeddings:
            what = ", ".join((*wrong, *embeddings[:3]))
            raise SyncError(
                f"Adapter {self.adapter!r} is more than pairs of lora_A and lora_B ({what}), which vLLM's slots do not "
                "take. Publish merged weights: CheckpointStream(model)."
            )


def _plain(value: Any) -> Any:
    return sorted(value) if isinstance(value, (set, frozenset)) else value


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")

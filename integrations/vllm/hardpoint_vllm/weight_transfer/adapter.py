"""Adapter-only updates: the base stays, and one LoRA slot of the engine gets new values, on every worker or on none.

vLLM loads an adapter from a folder, worker by worker, and takes what it finds: half a matrix fills half a slot, a
module that is missing is served without its adapter. Here the tensors come from the trainer, are held against the base
weights that this model was loaded from, and take the slot between two votes.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hardpoint.errors import SyncError
from hardpoint.sync import Manifest, TensorSpec
from hardpoint_vllm.weight_transfer.agreement import Ballot, agree
from hardpoint_vllm.weight_transfer.commit import CommitFailed, attempt

if TYPE_CHECKING:
    import torch

    from hardpoint_vllm.weight_transfer.first_load import FirstLoad

_PREFIX = "base_model.model."
_SIDES = ("lora_A.weight", "lora_B.weight")
_FLOATS = frozenset({"bfloat16", "float16", "float32"})
_SHOWN = 5
# With one of these in the configuration its target modules are not those of every layer.
_PARTIAL = ("layers_to_transform", "exclude_modules", "target_parameters")


@dataclass(frozen=True)
class AdapterInfo:
    """Which slot, and what PEFT says of the adapter.

    Attributes:
        name: for people.
        number: `lora_int_id` of the requests that want it.
        config: the fields of ``adapter_config.json`` that vLLM reads.
    """

    name: str
    number: int
    config: Mapping[str, Any]

    @classmethod
    def of(cls, given: object) -> AdapterInfo:
        """From `init_info`. ValueError for what cannot be meant."""
        wanted = {"name", "number", "config"}
        if not isinstance(given, Mapping) or set(given) != wanted:
            raise ValueError(f"init_info adapter must be an object with {', '.join(sorted(wanted))}, found {given!r}.")
        name, number, config = given["name"], given["number"], given["config"]
        if not isinstance(name, str) or not name:
            raise ValueError(f"init_info adapter name must be a word, found {name!r}.")
        if not isinstance(number, int) or isinstance(number, bool) or number < 1:
            raise ValueError(f"init_info adapter number must be at least 1, found {number!r}.")
        if not isinstance(config, Mapping) or not isinstance(config.get("r"), int):
            raise ValueError("init_info adapter config must be PEFT's, as an object with its rank r.")
        return cls(name, number, dict(config))


class AdapterSlot:
    """One LoRA slot of this worker's model.

    Args:
        model: that serves, with LoRA enabled.
        first: what the base was loaded from.
        serving: adapters by number that updates have brought to this worker, whoever sent them; kept up here.

    Raises:
        SyncError: LoRA is not enabled, or vLLM does not take an adapter with this configuration.
    """

    def __init__(self, info: AdapterInfo, model: torch.nn.Module, first: FirstLoad, serving: dict[int, Any]) -> None:
        from vllm.lora.peft_helper import PEFTHelper

        manager: Any = getattr(model, "lora_manager", None)
        if manager is None:
            raise SyncError(
                f"The trainer sends adapter {info.name!r} alone, and this engine serves none: start it with "
                "enable_lora and max_lora_rank, or publish merged weights."
            )
        self.info = info
        self._manager, self._model, self._first = manager, model, first
        self._serving = serving
        self._names: tuple[str, ...] = ()  # of the last update; the next must bring the same
        try:
            self._helper: Any = PEFTHelper.from_dict(dict(info.config))
            self._helper.validate_legal(manager.lora_config)
        except (ValueError, TypeError) as error:
            raise SyncError(f"vLLM does not take adapter {info.name!r}: {error}") from error

    def check(self, manifest: Manifest) -> None:
        """Refuse an update that is not this adapter, whole: each pair in the shape that its base weight asks for.

        Raises:
            SyncError: all that is wrong, by name, up to five each.
        """
        sent = {spec.name: spec for spec in manifest.tensors}
        pairs: dict[str, dict[str, TensorSpec]] = {}
        problems: dict[str, list[str]] = {"not of this adapter": [], "missing": [], "in another form": []}
        for name, spec in sent.items():
            module, side = _parsed(name)
            if side not in _SIDES or f"{module}.weight" not in self._first.specs or not self._served(module):
                problems["not of this adapter"].append(str(spec))
            else:
                pairs.setdefault(module, {})[side] = spec
        for module, pair in pairs.items():
            problems["missing"] += [f"{_PREFIX}{module}.{side}" for side in _SIDES if side not in pair]
            problems["in another form"] += self._misfits(module, pair)
        wanted = self._names or self._targets()
        problems["missing"] += [name for name in wanted if name not in sent and _parsed(name)[0] not in pairs]
        found = "; ".join(_listed(what, names) for what, names in problems.items() if names)
        if found or not sent:
            raise SyncError(
                f"Adapter {self.info.name!r}, epoch {manifest.epoch}, refused before any tensor moved: "
                f"{found or 'it is empty'}. Send all pairs of lora_A and lora_B of the adapter that init_info "
                "describes."
            )

    def commit(self, tensors: Mapping[str, torch.Tensor], epoch: int, deadline: float) -> float:
        """Give the slot new values, here and on all workers; seconds it took.

        Raises:
            SyncError: a worker could not; the old adapter is back everywhere.
            CommitFailed: it could not be put back, or a worker was lost between the votes.
        """
        started = time.monotonic()
        number = self.info.number
        reason, made = attempt(lambda: self._made(tensors))
        agree(Ballot.on(f"begin commit of adapter {number}, epoch {epoch}", reason), deadline)
        old = self._manager.get_adapter(number)
        reason, _ = attempt(lambda: put(self._manager, made))
        try:
            agree(Ballot.on(f"end commit of adapter {number}, epoch {epoch}", reason), deadline)
        except SyncError as error:
            undone, _ = attempt(lambda: _back(self._manager, number, old))
            if undone:
                raise CommitFailed(
                    f"Adapter {self.info.name!r} of epoch {epoch} was not loaded ({error}), nor could it be undone "
                    f"({undone})."
                ) from error
            raise SyncError(
                f"Adapter {self.info.name!r} of epoch {epoch} was not loaded, the old one is back: {error}"
            ) from error
        self._names = tuple(tensors)
        self._serving[number] = made
        return time.monotonic() - started

    def _misfits(self, module: str, pair: Mapping[str, TensorSpec]) -> list[str]:
        base = self._first.specs[f"{module}.weight"].shape
        rank, _ = self._helper.get_rank_and_scaling(module)
        wanted = {_SIDES[0]: (rank, base[-1]), _SIDES[1]: (base[0], rank)}
        return [
            f"{spec} instead of {list(wanted[side])} in a floating dtype"
            for side, spec in pair.items()
            if tuple(spec.shape) != wanted[side] or spec.dtype not in _FLOATS
        ]

    def _targets(self) -> list[str]:
        """What the configuration alone says must come; nothing where it leaves that open."""
        targets = self.info.config.get("target_modules")
        if not isinstance(targets, (list, tuple)) or any(self.info.config.get(key) for key in _PARTIAL):
            return []
        modules = [name.removesuffix(".weight") for name in self._first.specs if name.endswith(".weight")]
        return [
            f"{_PREFIX}{module}.{side}"
            for module in modules
            if any(module == target or module.endswith(f".{target}") for target in targets)
            for side in _SIDES
        ]

    def _served(self, module: str) -> bool:
        """Whether this model has a slot for modules of that name, as vLLM's own check of a folder has it."""
        manager = self._manager
        packed = manager.packed_modules_mapping
        expected = {part for own in manager.supported_lora_modules for part in packed.get(own, [own])}
        at = module.find(".experts.")
        return (module[at + 1 :] if at >= 0 else module.rsplit(".", 1)[-1]) in expected

    def _made(self, tensors: Mapping[str, torch.Tensor]) -> Any:
        """The adapter as vLLM keeps it: packed, scaled, in the slot's dtype. The slot is not touched."""
        from vllm.lora.lora_model import LoRAModel

        mapper = getattr(self._model, "hf_to_vllm_mapper", None)
        made = LoRAModel.from_lora_tensors(
            self.info.number,
            dict(tensors),
            self._helper,
            device="cpu",
            dtype=self._manager.lora_config.lora_dtype,
            model_vocab_size=self._manager.vocab_size,
            weights_mapper=None if mapper is None else mapper.get_rename_mapper(),
        )
        self._manager._validate_moe_lora_format(made)
        self._manager._create_merged_loras_inplace(made)
        return made


def keep(model: torch.nn.Module, serving: Mapping[int, Any]) -> None:
    """Put adapters back where they were: vLLM empties all slots at the end of a session, whatever was updated.

    Raises:
        CommitFailed: one cannot be; requests for it would be answered by another one.
    """
    for number, made in serving.items():
        reason, _ = attempt(lambda made=made: put(model.lora_manager, made))  # type: ignore[misc]
        if reason:
            raise CommitFailed(f"The adapter of slot {number} could not be put back after a session: {reason}.")


def put(manager: Any, made: Any) -> None:
    """Let `made` have its slot, whoever had it before. Pinned: an evicted one would be read from its folder again."""
    manager.remove_adapter(made.id)
    if len(manager) + 1 > manager.capacity:
        manager.remove_oldest_adapter()
    manager._registered_adapters[made.id] = made  # not `add_adapter`: what is packed already must not be packed again
    manager.activate_adapter(made.id)
    manager.pin_adapter(made.id)


def _back(manager: Any, number: int, old: Any) -> None:
    manager.remove_adapter(number)
    if old is not None:
        put(manager, old)


def _parsed(name: str) -> tuple[str, str]:
    """Module and side (``lora_A.weight``) that a PEFT name says."""
    module, _, side = name.removeprefix(_PREFIX).rpartition(".lora_")
    return module, f"lora_{side}"


def _listed(what: str, names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{len(names)} {what}: {', '.join(names[:_SHOWN])}{more}"

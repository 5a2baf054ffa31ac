"""`Served`: the models of one worker that an update fills in one transaction: the target, and its drafter if sent.

A drafter (MTP, EAGLE) mostly has its embedding and `lm_head` from the target: one parameter under two names. It is
declared, sent and written once, as the target's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from hardpoint.sync.plan import Destination
from hardpoint.sync.plan.declaration import Declaration
from hardpoint_vllm.weight_transfer.first_load import FirstLoad
from hardpoint_vllm.weight_transfer.placement import destinations
from hardpoint_vllm.weight_transfer.planned.reload import load_staged

DRAFT = "draft."  # in front of a drafter's parameters, and of its tensors where it has a checkpoint of its own


@dataclass(frozen=True)
class ServedModel:
    """One model with its vLLM configuration and what it was loaded from.

    Attributes:
        prefix: of its parameters' names in the plan.
        tensors: prefix of the names of what is sent for it.
    """

    model: torch.nn.Module
    config: Any
    first: FirstLoad
    prefix: str = ""
    tensors: str = ""


class Served:
    """As one model: modules and parameters of all of them, each once."""

    def __init__(self, *models: ServedModel) -> None:
        self._models = models

    def modules(self) -> Iterator[torch.nn.Module]:
        """Every module once, shared ones with the first model that has them."""
        seen: set[int] = set()
        for of in self._models:
            for module in of.model.modules():
                if id(module) not in seen:
                    seen.add(id(module))
                    yield module

    def named_parameters(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Every parameter once, under the name that it has in the plan."""
        for of, aliases in zip(self._models, self._aliases(), strict=True):
            for name, parameter in of.model.named_parameters():
                if name not in aliases:
                    yield f"{of.prefix}{name}", parameter

    def declaration(self) -> Declaration:
        """What this worker takes.

        Raises:
            SyncError: see `destinations`.
        """
        found: list[Destination] = []
        ignored: set[str] = set()
        taken: set[str] = set()
        for of, aliases in zip(self._models, self._aliases(), strict=True):
            for one in destinations({name: placed for name, placed in of.first.placed.items() if name not in aliases}):
                parts = tuple(
                    part._replace(tensors=tuple(f"{of.tensors}{name}" for name in part.tensors)) for part in one.parts
                )
                found.append(replace(one, parameter=f"{of.prefix}{one.parameter}", parts=parts))
                taken.update(name for part in parts for name in part.tensors)
            # A tensor that only an alias takes is known; it may come, and has its place as the first model's.
            ignored.update(f"{of.tensors}{name}" for name in of.first.specs)
        return Declaration(tuple(found), tuple(sorted(ignored - taken - self._required())))

    def load(self, staged: Mapping[str, torch.Tensor]) -> None:
        """Put staged parameters, by their names in the plan, into their models."""
        for of, aliases in zip(self._models, self._aliases(), strict=True):
            mine = {
                name: staged[f"{of.prefix}{name}"]
                for name in of.first.placed
                if name not in aliases and f"{of.prefix}{name}" in staged
            }
            load_staged(of.model, of.config, mine, of.first.kept)

    def _required(self) -> set[str]:
        """Tensors of the first model that something was taken from: never to be left out silently."""
        first = self._models[0]
        return {f"{first.tensors}{name}" for name in first.first.required}

    def _aliases(self) -> list[set[str]]:
        """By model, names of parameters that are another model's before it."""
        seen: set[int] = set()
        found: list[set[str]] = []
        for of in self._models:
            mine = dict(of.model.named_parameters())
            found.append({name for name, parameter in mine.items() if id(parameter) in seen})
            seen.update(map(id, mine.values()))
        return found

"""`Offer`: what a trainer is going to send, before it sends a byte."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from hardpoint.moe import CheckpointFormat
from hardpoint.sync.manifest import TensorSpec
from hardpoint.sync.plan.names import plain_name

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Offer:
    """Names, shapes and dtypes of a trainer's tensors, and the declared format of those whose shape does not tell it.

    Attributes:
        tensors: in the trainer's order, under plain checkpoint names.
        formats: ``(tensor, CheckpointFormat.name)`` for every tensor that holds all experts of a layer. Fused and
            gpt-oss tensors can have one shape: what is not declared is refused, never guessed.
    """

    tensors: tuple[TensorSpec, ...]
    formats: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(
        cls,
        named_tensors: Mapping[str, torch.Tensor] | Iterable[tuple[str, torch.Tensor]],
        experts: CheckpointFormat | None = None,
    ) -> Offer:
        """Offer of tensors in memory (or on the meta device). Names that PEFT and wrappers changed are made plain.

        `experts`: the format of every fused expert tensor among them; names that are not of it are left alone.
        """
        pairs = named_tensors.items() if isinstance(named_tensors, Mapping) else named_tensors
        tensors = tuple(TensorSpec.of(plain_name(name), tensor) for name, tensor in pairs)
        formats: tuple[tuple[str, str], ...] = ()
        if experts is not None and experts.fused:
            tails = tuple(f".{pattern}" for pattern in experts.patterns)
            formats = tuple((spec.name, experts.name) for spec in tensors if spec.name.endswith(tails))
        return cls(tensors, formats)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over all of it, as hexadecimal."""
        lines = [f"{spec.name}\n{spec.dtype}{spec.shape}" for spec in self.tensors]
        return hashlib.sha256("\n".join((*lines, repr(self.formats))).encode()).hexdigest()

    @cached_property
    def nbytes(self) -> int:
        return sum(spec.nbytes for spec in self.tensors)

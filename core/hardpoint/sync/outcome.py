"""How an update ended, in data and in a sentence; and how far it is, for progress bars."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

from hardpoint.errors import SyncError

if TYPE_CHECKING:
    import torch

    from hardpoint.sync.manifest import Manifest

_NO_OBJECTIONS: Mapping[int, str] = MappingProxyType({})


@dataclass(frozen=True)
class Progress:
    """Payload bytes that have left (sender) or arrived (receiver), of `total_bytes`; buckets likewise."""

    bytes_done: int
    bytes_total: int
    buckets_done: int
    buckets_total: int


ProgressCallback = Callable[[Progress], None]


@dataclass(frozen=True)
class SyncOutcome:
    """What all ranks decided, as one of them knows it.

    Attributes:
        committed: every rank has every tensor, verified, and said so; False means that no rank may use any of it.
        epoch: of the update, -1 if it ended before the epoch was known.
        step: where it ended: ``open``, ``header``, ``begin``, ``stream`` or ``commit``.
        reason: a sentence, empty if committed.
        undecided: this rank said yes in the last vote and did not learn the decision (the process that serves the store
            died): others may have committed. It must serve nothing until a full update has told it.
        objections: rank -> its sentence.
        missing: ranks that did not arrive within the deadline.
        tensors: names at fault, as far as this rank found them itself.
        manifest_digest: of the manifest, empty if unknown.
        bytes: payload bytes of the update.
        seconds: from the first vote to the last.
    """

    committed: bool
    epoch: int
    step: str
    reason: str = ""
    undecided: bool = False
    objections: Mapping[int, str] = field(default_factory=lambda: _NO_OBJECTIONS)
    missing: tuple[int, ...] = ()
    tensors: tuple[str, ...] = ()
    manifest_digest: str = ""
    bytes: int = 0
    seconds: float = 0.0

    def __bool__(self) -> bool:
        return self.committed

    def __str__(self) -> str:
        if self.committed:
            return f"epoch {self.epoch} committed: {self.bytes} bytes in {self.seconds:.3f} s"
        if self.undecided:
            return f"epoch {self.epoch} undecided at {self.step}: {self.reason}"
        return f"epoch {self.epoch} aborted at {self.step}: {self.reason}"

    def raise_if_aborted(self) -> None:
        """`UpdateAborted` with the reason unless committed."""
        if not self.committed:
            raise UpdateAborted(self)


class UpdateAborted(SyncError):
    """An update did not commit; `outcome` says where, why and who."""

    def __init__(self, outcome: SyncOutcome) -> None:
        fate = "the old weights stay" if not outcome.undecided else "other ranks may have the new weights"
        super().__init__(f"Weight update did not commit, {fate}: {outcome}")
        self.outcome = outcome


@dataclass(frozen=True)
class Received:
    """What `Receiver.receive` returns: the outcome, and the staged tensors by checkpoint name if it committed."""

    outcome: SyncOutcome
    manifest: Manifest | None
    tensors: Mapping[str, torch.Tensor]

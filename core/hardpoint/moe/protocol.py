"""`MoELayout`: where expert weights are in memory, and the only way in and out.

Why it exists (FR5): kernels want expert weights transposed, reordered or padded; checkpoints and trainers have them
otherwise. A second post-processing, or a load of checkpoint names into processed storage, gives wrong tokens and no
error.

Laws: ``unpack(pack(x)) == x`` bitwise, NaN payloads included; a load into packed storage equals packing what was
loaded; twice equals once; storage keeps its address; state is declared, never guessed from shapes; every element of the
storage is written exactly once, and what does not add up to that is refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    import torch

    from hardpoint.moe.checkpoint import CheckpointFormat
    from hardpoint.moe.descriptor import LayoutDescriptor
    from hardpoint.moe.packed import PackedExperts


@runtime_checkable
class LoadSession(Protocol):
    """One load of all experts of a layer into storage. Not a transaction: until `finish` the storage is half new."""

    def write(self, name: str, tensor: torch.Tensor) -> int:
        """Write one checkpoint tensor through the transform.

        Args:
            name: checkpoint name; a layer before the expert part must be the storage's.
            tensor: uncut, as in the checkpoint: tensor and expert parallel slices are taken here. On any device.

        Returns:
            (expert, shard) pairs written; 0 for an expert that is not on this rank.

        Raises:
            LayoutError: unknown name, other layer, no such expert, wrong shape or dtype, or a second write of the same
                expert and shard (also of one that is not here: every rank then refuses alike). Nothing was written.
        """
        ...

    def missing(self) -> tuple[str, ...]:
        """Checkpoint names still to come for the experts that are here."""
        ...

    def finish(self) -> PackedExperts:
        """Close the session. LayoutError, by name, if anything is missing."""
        ...


@runtime_checkable
class MoELayout(Protocol):
    """Layouts of one backend's expert weights."""

    def kernel_layout(self, model: LayoutDescriptor) -> LayoutDescriptor:
        """The layout that this backend's kernels read, both storages in ``kernel`` state; sizes, dtype and coordinates
        are those of `model`. Idempotent."""
        ...

    def pack(
        self,
        source: Mapping[str, torch.Tensor] | PackedExperts,
        descriptor: LayoutDescriptor,
        *,
        checkpoint: CheckpointFormat | None = None,
        device: torch.device | str | None = None,
        layer: str = "",
    ) -> PackedExperts:
        """New storage in the layout of `descriptor`; `source` is not changed.

        Args:
            source: the layer's checkpoint tensors by name, uncut, or experts that are packed in another layout or state
                with the same coordinates. What is already packed as `descriptor` says is returned as it is: packing
                twice is packing once.
            descriptor: target, state of both storages included.
            checkpoint: format of `source`'s names, per expert if None; has no say for packed experts.
            device: of the new storage; that of `source` if None.
            layer: the module's name, for errors.

        Raises:
            LayoutError: the layout is not offered, or `source` does not fill it exactly once.
        """
        ...

    def unpack(self, packed: PackedExperts, checkpoint: CheckpointFormat | None = None) -> dict[str, torch.Tensor]:
        """This rank's experts as contiguous checkpoint tensors, new memory on the same device.

        Expert parallel: the experts that are here, under their global numbers, or in local order where the format has
        all experts in one tensor. Tensor parallel: this rank's slices.
        """
        ...

    def load(self, packed: PackedExperts, checkpoint: CheckpointFormat | None = None) -> LoadSession:
        """Open a session that overwrites `packed` in place from checkpoint tensors, through its layout and state."""
        ...

    def copy_into(self, source: PackedExperts, destination: PackedExperts) -> None:
        """Overwrite `destination` in place with the weights of `source`, which may have another layout or state.

        Raises:
            LayoutError: other sizes, dtype or tensor/expert parallel coordinates. Nothing was written.
        """
        ...

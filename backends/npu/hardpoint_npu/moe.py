"""The expert layout of Ascend NPUs: transposed, and where asked for in the private format NZ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch

from hardpoint.errors import LayoutError
from hardpoint.moe import (
    CheckpointFormat,
    LayoutDescriptor,
    LoadSession,
    PackedExperts,
    ReferenceMoELayout,
    allocate,
)
from hardpoint_npu.facts import ND, NZ, NZ_DTYPES, NZ_NAME
from hardpoint_npu.runtime import NpuRuntime


@dataclass(frozen=True)
class NpuMoELayout:
    """``w13 [E, H, 2I]`` and ``w2 [E, I, H]``, as `npu_grouped_matmul` reads them.

    NZ is an encoding on top: the matrices of a storage as ``[N/n0, K/16, 16, n0]``. Only whole tensors can be cast, so
    what goes in or out passes through a plain copy of one layer; storages keep their addresses.

    Attributes:
        nz: dtype names that kernels read in NZ; the others, and all by default, stay plain. vllm-ascend's ``nz_mode`` 1
            is int8, 2 adds bfloat16 and float16, and its RL configuration forces 0, since it has no way back.
    """

    runtime: NpuRuntime
    nz: frozenset[str] = frozenset()
    plain: ReferenceMoELayout = field(default_factory=lambda: ReferenceMoELayout(axes="[E,K,N]"))

    def kernel_layout(self, model: LayoutDescriptor) -> LayoutDescriptor:
        """See `MoELayout.kernel_layout`."""
        private = str(model.dtype).removeprefix("torch.") in self.nz and model.values_per_element == 1
        found = self.plain.kernel_layout(replace(model, format="dense"))
        return replace(found, format=NZ_NAME) if private else found

    def pack(
        self,
        source: Mapping[str, torch.Tensor] | PackedExperts,
        descriptor: LayoutDescriptor,
        *,
        checkpoint: CheckpointFormat | None = None,
        device: torch.device | str | None = None,
        layer: str = "",
    ) -> PackedExperts:
        """See `MoELayout.pack`."""
        if isinstance(source, PackedExperts):
            here = device is None or source.w13_weight.device == torch.device(device)
            if source.descriptor == descriptor and here:
                return source
            source = self._thawed(source)
        private = self._private(descriptor)
        made = self.plain.pack(
            source, replace(descriptor, format="dense"), checkpoint=checkpoint, device=device, layer=layer
        )
        return self._frozen(made, descriptor) if private else made

    def unpack(self, packed: PackedExperts, checkpoint: CheckpointFormat | None = None) -> dict[str, torch.Tensor]:
        """See `MoELayout.unpack`."""
        return self.plain.unpack(self._thawed(packed), checkpoint)

    def load(self, packed: PackedExperts, checkpoint: CheckpointFormat | None = None) -> LoadSession:
        """See `MoELayout.load`. Into NZ nothing is written before `finish`."""
        if not self._private(packed.descriptor):
            return self.plain.load(packed, checkpoint)
        dense = replace(packed.descriptor, format="dense")
        staged = allocate(dense, packed.w13_weight.device, packed.layer)
        return _NzSession(self, self.plain.load(staged, checkpoint), packed)

    def copy_into(self, source: PackedExperts, destination: PackedExperts) -> None:
        """See `MoELayout.copy_into`."""
        theirs = self._thawed(source)
        if not self._private(destination.descriptor):
            self.plain.copy_into(theirs, destination)
            return
        dense = replace(destination.descriptor, format="dense")
        staged = allocate(dense, destination.w13_weight.device, destination.layer)
        self.plain.copy_into(theirs, staged)
        self.overwrite(staged, destination)

    def overwrite(self, plain: PackedExperts, destination: PackedExperts) -> None:
        """Cast the plain storages and copy them over those of `destination`, which has the same layout in NZ."""
        made = self._frozen(plain, destination.descriptor)
        destination.w13_weight.copy_(made.w13_weight)
        destination.w2_weight.copy_(made.w2_weight)

    def _private(self, descriptor: LayoutDescriptor) -> bool:
        """Whether it is NZ. LayoutError for another private format, and for a dtype that NZ does not hold."""
        if descriptor.format == "dense":
            return False
        name = str(descriptor.dtype).removeprefix("torch.")
        if descriptor.format != NZ_NAME:
            raise LayoutError(f"an NPU keeps experts as 'dense' or {NZ_NAME!r}, got the format {descriptor.format!r}")
        if name not in NZ_DTYPES or descriptor.values_per_element != 1:
            raise LayoutError(
                f"{NZ_NAME} holds {', '.join(sorted(NZ_DTYPES))}, one value per element; got {name} with "
                f"{descriptor.values_per_element}; keep these experts dense"
            )
        return True

    def _frozen(self, plain: PackedExperts, descriptor: LayoutDescriptor) -> PackedExperts:
        return PackedExperts(
            self._cast("w13_weight", plain, NZ), self._cast("w2_weight", plain, NZ), descriptor, plain.layer
        )

    def _thawed(self, packed: PackedExperts) -> PackedExperts:
        """`packed` itself if it is plain, else a plain copy."""
        if not self._private(packed.descriptor):
            return packed
        for name in ("w13_weight", "w2_weight"):
            found = self.runtime.format_of(getattr(packed, name))
            if found != NZ:
                raise LayoutError(
                    f"{name}{packed.where} is declared {NZ_NAME} (ACL format {NZ}), its storage has format {found}; "
                    "declare the layout that it really has"
                )
        dense = replace(packed.descriptor, format="dense")
        return PackedExperts(
            self._cast("w13_weight", packed, ND), self._cast("w2_weight", packed, ND), dense, packed.layer
        )

    def _cast(self, name: str, packed: PackedExperts, acl_format: int) -> torch.Tensor:
        tensor: torch.Tensor = getattr(packed, name)
        if tensor.device.type != self.runtime.device_type:
            raise LayoutError(
                f"{name}{packed.where} is on {tensor.device}; {NZ_NAME} is for {self.runtime.device_type} memory"
            )
        made = self.runtime.format_cast(tensor, acl_format)
        found = self.runtime.format_of(made)
        if found != acl_format:
            raise LayoutError(
                f"{name}{packed.where} was cast to ACL format {acl_format} and has format {found}: this torch_npu "
                "keeps private formats off"
            )
        return made


class _NzSession:
    """A load into a plain copy, cast over the storage when it is complete."""

    def __init__(self, layout: NpuMoELayout, inner: LoadSession, packed: PackedExperts) -> None:
        self._layout, self._inner, self._packed = layout, inner, packed
        self._finished = False

    def write(self, name: str, tensor: torch.Tensor) -> int:
        """See `LoadSession.write`."""
        return self._inner.write(name, tensor)

    def missing(self) -> tuple[str, ...]:
        """See `LoadSession.missing`."""
        return self._inner.missing()

    def finish(self) -> PackedExperts:
        """See `LoadSession.finish`."""
        staged = self._inner.finish()
        if not self._finished:
            self._layout.overwrite(staged, self._packed)
        self._finished = True
        return self._packed

"""`CudaDevice`: torch's devices, with names that nvidia-smi and other processes use too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from hardpoint import TorchDevice
from hardpoint.device.protocol import DeviceIdentity
from hardpoint_cuda.nvml import Gpu, gpus

VARIABLE = "CUDA_VISIBLE_DEVICES"


class CudaDevice(TorchDevice):
    """NVIDIA GPUs and MIG devices."""

    def __init__(self) -> None:
        super().__init__("cuda", visibility_variable=VARIABLE)

    def identity(self, index: int | None = None, /) -> DeviceIdentity:
        """The device's names, found by its UUID.

        The number in ``CUDA_VISIBLE_DEVICES`` is no safe name: CUDA numbers the fastest GPU first unless
        ``CUDA_DEVICE_ORDER=PCI_BUS_ID``, nvidia-smi by the PCI bus, and entries may be UUIDs, starts of UUIDs and MIG
        names. `physical` is nvidia-smi's index, or the name of a MIG device.
        """
        found = super().identity(index)
        return named(found, gpus())


def named(found: DeviceIdentity, every: Sequence[Gpu]) -> DeviceIdentity:
    """`found` with the names under which its UUID is known among `every`; unchanged if it is not among them.

    torch gives the bare UUID of a GPU or of a MIG device, without ``GPU-`` or ``MIG-`` in front.
    """
    if found.uuid is None:
        return found
    bare = found.uuid.removeprefix("GPU-").removeprefix("MIG-")
    for gpu in every:
        if gpu.uuid == f"GPU-{bare}" and not gpu.mig:
            return replace(found, physical=str(gpu.index), uuid=gpu.uuid)
        if f"MIG-{bare}" in gpu.mig:
            return replace(found, physical=f"MIG-{bare}", uuid=f"MIG-{bare}")
    return found

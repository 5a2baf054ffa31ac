"""Whether there is an NVIDIA GPU, asked without touching the CUDA runtime: vLLM forks after plugins were probed."""

from __future__ import annotations

import torch

from hardpoint import Probe


def probe() -> Probe:
    """Count devices through NVML, which creates no context and survives a fork; say what is missing otherwise."""
    if torch.version.cuda is None:
        return Probe(False, f"this torch ({torch.__version__}) is built without CUDA")
    if torch.version.hip is not None:
        return Probe(False, f"this torch ({torch.__version__}) is built for ROCm, which this backend does not drive")
    count = torch.cuda._device_count_nvml()
    if count < 0:
        return Probe(False, "NVML does not answer: no NVIDIA driver is loaded, or libnvidia-ml cannot be opened")
    if count == 0:
        return Probe(False, "no NVIDIA GPU is visible (see CUDA_VISIBLE_DEVICES)")
    return Probe(True, f"{count} NVIDIA GPU{'s' * (count > 1)}, torch built for CUDA {torch.version.cuda}", count)

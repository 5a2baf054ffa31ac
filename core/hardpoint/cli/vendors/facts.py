"""What belongs to a vendor's stack: packages, device nodes, PCI ids, libraries, and what to do. Data only."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class VendorFacts:
    """One vendor.

    Attributes:
        backend: name of the backend that drives its devices.
        device: what a device is called.
        sdk: distribution that brings the devices to torch; None: torch's own build does.
        companions: distributions that are built for one torch, or for one SDK, and are checked against it.
        nodes: glob of its device nodes below ``/dev``.
        pci: PCI vendor id, and the starts of the class ids that count.
        libraries: libraries of the driver and runtime, each a glob; one hit each is enough.
        folders: where they may be, besides the usual folders and ``LD_LIBRARY_PATH``.
        variable: visibility variable.
        group: group that may open the nodes.
        install: how to install the SDK.
        driver: how to install the driver and runtime.
        pass_through: what a container needs to see a device.
    """

    backend: str
    device: str
    sdk: str | None
    companions: tuple[str, ...]
    nodes: str
    pci: tuple[str, tuple[str, ...]]
    libraries: tuple[str, ...]
    folders: tuple[str, ...]
    variable: str
    group: str
    install: str
    driver: str
    pass_through: str


VENDORS = (
    VendorFacts(
        backend="xpu",
        device="Intel GPU",
        sdk=None,
        companions=("intel-extension-for-pytorch", "vllm-xpu-kernels"),
        nodes="dri/renderD*",
        pci=("0x8086", ("0x0300", "0x0302", "0x0380")),
        libraries=("libze_loader.so*", "libze_intel_gpu.so*"),
        folders=(),
        variable="ZE_AFFINITY_MASK",
        group="render",
        install="Install torch from its xpu builds (the version ends in +xpu); nothing else is needed.",
        driver="Install Intel's compute runtime and the Level Zero loader (packages intel-opencl-icd or "
        "intel-compute-runtime, and libze1 or level-zero).",
        pass_through="--device /dev/dri",
    ),
    VendorFacts(
        backend="npu",
        device="Ascend NPU",
        sdk="torch-npu",
        companions=("vllm-ascend", "triton-ascend"),
        nodes="davinci[0-9]*",
        pci=("0x19e5", ("0x12",)),
        libraries=("libascend_hal.so*", "libascendcl.so*"),
        folders=(
            "usr/local/Ascend/driver/lib64/driver",
            "usr/local/Ascend/driver/lib64/common",
            "usr/local/Ascend/ascend-toolkit/latest/lib64",
            "usr/local/Ascend/cann/lib64",
            "usr/local/Ascend/latest/lib64",
        ),
        variable="ASCEND_RT_VISIBLE_DEVICES",
        group="HwHiAiUser",
        install="pip install the torch-npu release whose major and minor numbers equal torch's.",
        driver="Install the Ascend driver and CANN toolkit, then `source` CANN's set_env.sh in this shell.",
        pass_through="--device /dev/davinci0 --device /dev/davinci_manager --device /dev/devmm_svm "
        "--device /dev/hisi_hdc, or Ascend Docker Runtime with ASCEND_VISIBLE_DEVICES",
    ),
)

TORCH_OF_COMPANION = {"intel-extension-for-pytorch": "==2.8.*"}
"""Releases of torch beside which a distribution works, where its metadata does not say so (ipex ends the process)."""

"""Which names belong to a vendor, which distribution answers for them, and which releases are supported."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Vendor:
    """One distribution that we call into.

    Attributes:
        distribution: its name, as pip takes it.
        tops: its top-level packages.
        names: what belongs to it: a pattern over dotted names.
        releases: supported releases, oldest first.
        folder: our source that may call it by ``torch.ops`` namespaces which others use too; empty: any.
    """

    distribution: str
    tops: tuple[str, ...]
    names: str
    releases: tuple[str, ...]
    folder: str = ""

    def owns(self, name: str, file: str) -> bool:
        return re.fullmatch(self.names, name) is not None and file.startswith(self.folder)


VENDORS = (
    Vendor(
        "torch",
        ("torch",),
        r"torch\.xpu(\..*)?|torch\._C\._[Xx][Pp][Uu].*|torch\.distributed\.(.*\.)?(is_xccl_available|ProcessGroupXCCL)(\..*)?",
        ("2.11.0", "2.12.1", "2.13.0", "2.14.0"),
    ),
    Vendor(
        "torch-npu",
        ("torch_npu",),
        r"torch_npu(\..*)?|torch\.ops\.npu(\..*)?",
        ("2.11.0.post3", "2.12.0.post3", "2.13.0", "2.14.0"),
    ),
    Vendor("vllm-xpu-kernels", ("vllm_xpu_kernels",), r"vllm_xpu_kernels(\..*)?", ("0.1.15.4", "0.1.16.2")),
    Vendor(
        "vllm-xpu-kernels",
        ("vllm_xpu_kernels",),
        r"torch\.ops\._(C|C_cache_ops|moe_C|xpu_C|vllm_fa2_C)(\..*)?",
        ("0.1.15.4", "0.1.16.2"),
        folder="backends/xpu/",
    ),
    Vendor(
        "intel-extension-for-pytorch",
        ("intel_extension_for_pytorch",),
        r"intel_extension_for_pytorch(\..*)?",
        ("2.8.0",),
    ),
    Vendor(
        "vllm-ascend",
        ("vllm_ascend",),
        r"vllm_ascend(\..*)?|torch\.ops\._C_ascend(\..*)?",
        ("0.18.0", "0.23.0", "0.26.0rc1"),
    ),
)

UNREADABLE = Vendor("CANN", ("acl",), r"acl(\..*)?", ())
"""Comes with a driver stack, in no wheel: what we call of it is declared in unreadable.txt, with evidence."""

UNOBTAINABLE = {
    "vllm-ascend 0.23.0.post1": "the index serves no x86-64 wheel of it; 0.23.0, its base, is read instead",
    "CANN": "in no wheel; what we call of its `acl` is in unreadable.txt, with the evidence for it",
    "triton-ascend, Level Zero, oneCCL": "not read: we call none of their Python names",
}

ALIASES = {"torch.npu": "torch_npu.npu"}
"""torch_npu registers its module as ``torch.npu`` (`torch._register_device_module`)."""

DEVICE_MODULES = {"xpu": "torch.xpu", "npu": "torch_npu.npu"}
"""Device type -> what ``torch.get_device_module`` answers: core reaches both by the type of its device."""

FOLDERS = ("core", "kernels", "backends", "integrations")


def canonical(name: str) -> str:
    """`name` under the one spelling that the tables use."""
    for alias, real in ALIASES.items():
        if name == alias or name.startswith(f"{alias}."):
            return real + name.removeprefix(alias)
    return name


def vendor_of(name: str, file: str) -> Vendor | None:
    """Who answers for the canonical `name` when `file` of ours reaches it; None if it is no vendor's."""
    return next((vendor for vendor in (*VENDORS, UNREADABLE) if vendor.owns(name, file)), None)


def distributions() -> dict[str, Vendor]:
    """Every distribution once."""
    return {vendor.distribution: vendor for vendor in reversed(VENDORS)}


def generic_modules(file: str) -> tuple[str, ...]:
    """What ``torch.get_device_module(type)`` may answer in `file`: both vendors' in core, its own in a backend."""
    for kind, module in DEVICE_MODULES.items():
        if file.startswith(f"backends/{kind}/"):
            return (module,)
    return () if file.startswith("backends/") else tuple(DEVICE_MODULES.values())


def is_vendor_folder(file: str) -> bool:
    """Whether `file` belongs to a backend of a vendor whose packages are not here: there the reader is strictest."""
    return any(file.startswith(f"backends/{kind}/") for kind in DEVICE_MODULES)

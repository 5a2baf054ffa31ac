"""Who has vLLM's platform in this process, and what of ours is left to them.

vLLM takes one platform. Where vllm-ascend or another plugin brings it, hardpoint stays what it can be beside it: a
general plugin with weight sync, layouts, the tripwire, the guard of Triton launches and the probes.
"""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Owner = Literal["hardpoint", "vllm", "plugin", "nobody"]

# vLLM asserts that nobody registers a layer of that name twice, and a platform plugin registers its own when its worker
# starts, after us: vllm-ascend 0.26 has KimiGatedDeltaNetAttention among them, and would not start.
_LAYERS = "the platform's plugin registers layers of its own under vLLM's names, and vLLM lets one register each"
_XPU = "vLLM's own XPU method transposes the experts on every load"
_RUNNER = "the platform's plugin has a worker, a runner and attention backends of its own"
LEFT: Mapping[str, Mapping[str, str]] = {
    "plugin": {
        "hardpoint_vllm.moe.unquantized": _LAYERS,
        "hardpoint_vllm.triton.gdn": _LAYERS,
        "hardpoint_vllm.parallel.padding": _RUNNER,
        "hardpoint_vllm.parallel.zero_tail": _RUNNER,
        "hardpoint_vllm.sleep": _RUNNER,
    },
    "xpu": {"hardpoint_vllm.moe.unquantized": _XPU},
}


@dataclass(frozen=True)
class Host:
    """Attributes:
    owner: ``hardpoint``: a platform derived here; ``vllm``: one of vLLM's own; ``plugin``: another distribution's;
        ``nobody``: vLLM has not chosen one (yet).
    platform: name of its class, empty if there is none.
    device_type: of that platform.
    distribution: that brings the class, with its version; empty if it cannot be told.
    """

    owner: Owner
    platform: str = ""
    device_type: str = ""
    distribution: str = ""

    def left_out(self) -> Mapping[str, str]:
        """Modules of ours that are not installed here -> why. A platform derived here leaves out nothing."""
        if self.owner == "hardpoint":
            return {}
        return LEFT.get("plugin" if self.owner == "plugin" else self.device_type, {})

    def leaves(self, module: str) -> bool:
        """Whether `module` (or the package it is in) is left out."""
        return any(module == left or module.startswith(f"{left}.") for left in self.left_out())

    def __str__(self) -> str:
        if self.owner == "nobody":
            return "no platform"
        whose = {"hardpoint": "hardpoint's", "vllm": "vLLM's own"}.get(self.owner) or f"of {self.distribution}"
        return f"{self.platform} ({whose})"


def host() -> Host:
    """Of this process. Does not make vLLM choose a platform: what is asked for here is what happened."""
    return host_of(getattr(sys.modules.get("vllm.platforms"), "_current_platform", None))


def host_of(platform: Any) -> Host:
    """Of an instance of vLLM's ``Platform``, or None."""
    if platform is None:
        return Host("nobody")
    kind = type(platform)  # the class is asked: vLLM's platforms answer None for any attribute that they lack
    device_type = str(getattr(kind, "device_type", "") or "")
    module = kind.__module__
    if module.startswith("hardpoint_"):
        return Host("hardpoint", kind.__name__, device_type, _distribution("hardpoint_vllm"))
    if module.startswith("vllm.platforms"):
        return Host("vllm", kind.__name__, device_type, _distribution("vllm"))
    return Host("plugin", kind.__name__, device_type, _distribution(module.partition(".")[0]) or module)


def _distribution(package: str) -> str:
    names = importlib.metadata.packages_distributions().get(package, ())
    return f"{names[0]} {importlib.metadata.version(names[0])}" if names else ""

"""Whether there is an Ascend NPU, asked without importing torch_npu: vLLM forks after it."""

from __future__ import annotations

import os
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from hardpoint import Probe
from hardpoint.device import visible_devices
from hardpoint.errors import DeviceError
from hardpoint_npu.facts import VARIABLE

_NODES = Path("/dev")
_NODE = re.compile(r"davinci\d+")


def probe() -> Probe:
    """NPUs as the driver lists them, less those that the variable hides; what is missing otherwise."""
    try:
        found = version("torch-npu")
    except PackageNotFoundError:
        return Probe(False, "torch-npu is not installed; pip install 'hardpoint[npu]'")
    mismatch = version_mismatch(version("torch"), found)
    if mismatch is not None:
        return Probe(False, mismatch)
    count = npus(_NODES)
    if count == 0:
        return Probe(False, f"no /dev/davinci* node: no Ascend NPU is there, or its driver is not (torch-npu {found})")
    try:
        shown = visible_devices(VARIABLE, os.environ.get(VARIABLE))
    except DeviceError as error:
        return Probe(False, str(error))
    count = count if shown is None else min(count, len(shown))
    if count == 0:
        return Probe(False, f"{VARIABLE}={os.environ.get(VARIABLE)!r} hides every NPU")
    return Probe(True, f"{count} Ascend NPU{'s' * (count > 1)}, torch-npu {found}", count)


def version_mismatch(torch_version: str, npu_version: str) -> str | None:
    """Why these two cannot be used together, None if they can: torch-npu is built for one release of torch."""
    ours, theirs = torch_version.split(".")[:2], npu_version.split(".")[:2]
    if ours == theirs:
        return None
    return (
        f"torch-npu {npu_version} is built for torch {'.'.join(theirs)}, this is torch {torch_version}; install the "
        f"torch-npu {'.'.join(ours)} release"
    )


def npus(nodes: Path) -> int:
    """Device nodes of NPUs under `nodes`."""
    return sum(_NODE.fullmatch(node.name) is not None for node in nodes.glob("davinci*"))

"""Whether there is an Intel GPU, asked without the driver and without importing any extension: vLLM forks after it."""

from __future__ import annotations

import os
import re
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from hardpoint import Probe
from hardpoint.device import visible_devices
from hardpoint.errors import DeviceError
from hardpoint_xpu.facts import VARIABLE

_IPEX = "intel-extension-for-pytorch"
_NODES = Path("/sys/class/drm")
_INTEL = "0x8086"


def probe() -> Probe:
    """Intel GPUs as the kernel lists them, less those that the mask hides; what is missing otherwise.

    `torch.xpu.device_count` is not asked: where Level Zero's sysman does not answer it initialises the driver, after
    which no fork may use the device.
    """
    ours, built = version("torch"), xpu_build()
    note = ipex_note(ours)
    if built is None:
        return Probe(False, f"this torch ({ours}) is built without XPU support{note}")
    count = intel_gpus(_NODES)
    if count == 0:
        return Probe(False, f"no Intel GPU has a render node in {_NODES}: none is there, or its driver is not{note}")
    try:
        shown = visible_devices(VARIABLE, os.environ.get(VARIABLE) or None)
    except DeviceError as error:
        return Probe(False, str(error))
    count = count if shown is None else min(count, len({name.partition(".")[0] for name in shown}))
    return Probe(True, f"{count} Intel GPU{'s' * (count > 1)}, torch built for XPU {built}{note}", count)


def xpu_build() -> str | None:
    """``torch.version.xpu``, read from the file that sets it: importing torch loads every vendor's extension first."""
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    found = re.search(r"^xpu\b[^=\n]*=\s*['\"](.+?)['\"]", Path(spec.origin).with_name("version.py").read_text(), re.M)
    return found[1] if found else None


def intel_gpus(nodes: Path) -> int:
    """Render nodes under `nodes` whose device is Intel's."""
    found = 0
    for node in nodes.glob("renderD*"):
        try:
            found += (node / "device" / "vendor").read_text().strip() == _INTEL
        except OSError:
            continue
    return found


def ipex_note(torch_version: str) -> str:
    """What to say of an installed intel-extension-for-pytorch, read from its metadata; empty without one.

    Importing it would end the process where its version and torch's differ (it calls `os.exit`), and it is not needed.
    """
    try:
        found = version(_IPEX)
    except PackageNotFoundError:
        return ""
    ours, theirs = torch_version.split(".")[:2], found.split(".")[:2]
    if ours == theirs:
        return f"; {_IPEX} {found} is installed and not needed"
    return f"; {_IPEX} {found} is installed for torch {'.'.join(theirs)}: importing it would end the process, remove it"

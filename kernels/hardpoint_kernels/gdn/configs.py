"""Block sizes and warps of each kernel, by device and shape: measured and shipped as data, with a plain default.

``configs.json`` is written by ``benchmarks/tune_gdn.py``; nothing is tuned while serving.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

import torch


@dataclass(frozen=True)
class Config:
    """How one kernel is compiled.

    Attributes:
        blocks: constexpr block sizes, by the kernel's own names.
        num_warps: warps per program.
        num_stages: depth of software pipelining.
        maxnreg: registers per thread at most, None for what the compiler likes.
    """

    blocks: Mapping[str, int]
    num_warps: int
    num_stages: int = 2
    maxnreg: int | None = None

    def constants(self) -> dict[str, Any]:
        """Keyword arguments of a launch."""
        found = {**self.blocks, "num_warps": self.num_warps, "num_stages": self.num_stages}
        return found if self.maxnreg is None else found | {"maxnreg": self.maxnreg}


def measured(kernel: str, device: torch.device, **shape: int) -> Config | None:
    """The measured configuration for the nearest measured shape, None where this device was never measured.

    `shape` names what rows of the table are told apart by. A row fits if it agrees in everything but the last name; of
    those that fit, the one with the largest last value not above the asked one is taken, or else the smallest. A row
    without a time (``"us": null``) was never measured, and is not taken.
    """
    rows = _table().get(_device_name(device), {}).get(kernel, [])
    *exact, last = shape
    rows = [row for row in rows if row.get("us") is not None]
    fitting = [row for row in rows if all(row["shape"].get(name) == shape[name] for name in exact)]
    if not fitting:
        return None
    below = [row for row in fitting if row["shape"][last] <= shape[last]]
    row = max(below, key=lambda r: r["shape"][last]) if below else min(fitting, key=lambda r: r["shape"][last])
    found = row["config"]
    return Config(found["blocks"], found["num_warps"], found.get("num_stages", 2), found.get("maxnreg"))


@functools.cache
def _table() -> dict[str, Any]:
    text = resources.files("hardpoint_kernels.gdn").joinpath("configs.json").read_text()
    found: dict[str, Any] = json.loads(text)["devices"]
    return found


@functools.cache
def _device_name(device: torch.device) -> str:
    if device.type == "cpu":
        return "cpu"
    module = torch.get_device_module(device)
    return str(module.get_device_name(device))

"""What a simulator run is made of: the strictness rules, and the numbers that options or the environment set."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

DEVICES_VARIABLE = "HARDPOINT_SIM_DEVICES"
SEED_VARIABLE = "HARDPOINT_SIM_SEED"
MEMORY_VARIABLE = "HARDPOINT_SIM_MEMORY"


@dataclass(frozen=True)
class Rules:
    """Each rule makes one kind of wrong code fail; switching one off gives a laxer (or, for the kit, a broken) device.

    Attributes:
        execute_late: work runs when somebody waits for it, not when it is submitted.
        adversarial: unordered streams run in the order that hurts most; False runs them in the order of submission.
        poison_empty: memory that nobody wrote reads as NaN, or as the largest integer.
        poison_on_free: freed memory is overwritten in the order of the stream that it was allocated on.
        poison_on_unmap: memory that was unmapped has lost its contents.
        check_devices: tensors of two devices, or of device and host, in one operation are refused.
        check_mapped: unmapped memory cannot be read or written.
        enforce_budget: allocations over the budget of a device raise out of memory.
        late_host_copies: `non_blocking` copies read and write host memory when they run, not when they are submitted.
        capture_refuses_allocation: an allocation inside a graph capture is an error.
        capture_refuses_cold_load: loading a kernel inside a graph capture is an error.
        capture_refuses_sync: waiting for the device inside a graph capture is an error.
        max_pending: work items that one stream may hold back before the oldest is run.
    """

    execute_late: bool = True
    adversarial: bool = True
    poison_empty: bool = True
    poison_on_free: bool = True
    poison_on_unmap: bool = True
    check_devices: bool = True
    check_mapped: bool = True
    enforce_budget: bool = True
    late_host_copies: bool = True
    capture_refuses_allocation: bool = True
    capture_refuses_cold_load: bool = True
    capture_refuses_sync: bool = True
    max_pending: int = 2048


@dataclass(frozen=True)
class Settings:
    """One simulator run.

    Attributes:
        devices: number of devices, at least 1.
        memory: bytes of each device.
        seed: 0 always runs the work submitted last first; any other number interleaves streams at random from it.
        rules: the strictness rules.
        profile: name of another accelerator whose rules and limits are laid over the simulator, "" for none.
    """

    devices: int = 2
    memory: int = 1 << 30
    seed: int = 0
    rules: Rules = field(default_factory=Rules)
    profile: str = ""

    def __post_init__(self) -> None:
        if self.devices < 1:
            raise ValueError(f"the simulator needs at least 1 device, got {self.devices} (option 'devices')")
        if self.memory < 1:
            raise ValueError(f"the memory of a simulated device is in bytes, at least 1, got {self.memory}")


def read_settings(options: Mapping[str, Any]) -> Settings:
    """`options` over the environment over the defaults. ValueError, as a sentence, for anything not understood."""
    known = {"devices", "memory", "seed", "rules", "profile"}
    unknown = sorted(set(options) - known)
    if unknown:
        raise ValueError(f"the simulator has no option {', '.join(unknown)}; it knows {', '.join(sorted(known))}")
    rules = options.get("rules", Rules())
    if not isinstance(rules, Rules):
        raise ValueError(f"option 'rules' has to be a hardpoint_sim.settings.Rules, got {type(rules).__name__}")
    return Settings(
        devices=_integer(options, "devices", DEVICES_VARIABLE, Settings.devices),
        memory=_integer(options, "memory", MEMORY_VARIABLE, Settings.memory),
        seed=_integer(options, "seed", SEED_VARIABLE, Settings.seed),
        rules=rules,
        profile=str(options.get("profile", "") or ""),
    )


def _integer(options: Mapping[str, Any], name: str, variable: str, default: int) -> int:
    if name in options:
        source, value = f"option {name!r}", options[name]
    elif os.environ.get(variable):
        source, value = variable, os.environ[variable]
    else:
        return default
    try:
        return int(value)
    except (TypeError, ValueError):
        raise ValueError(f"{source} has to be a whole number, got {value!r}") from None

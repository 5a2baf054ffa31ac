"""``sim:NAME``: another accelerator's rules and limits laid over the simulator.

A profile is one callable ``(backend, runtime) -> backend``, registered by whoever knows that accelerator under the
entry-point group ``hardpoint.sim_profiles``. `runtime` is a `hardpoint_sim.vendor.SimRuntime`: the vendor's module as
the simulator has it, with the limits that `hardpoint_sim.vendor.limits` states under NAME. The profile exchanges parts
with ``dataclasses.replace``, so that the accelerator's real backend code runs on simulated devices. The simulator
imports no backend, and no backend imports the simulator.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any

from hardpoint import Backend

GROUP = "hardpoint.sim_profiles"
Profile = Callable[[Backend, Any], Backend]


def find(name: str) -> Profile:
    """The profile called `name`. ValueError, listing those installed, if there is none or more than one."""
    found = [entry for entry in entry_points(group=GROUP) if entry.name == name]
    if len(found) > 1:
        raise ValueError(f"the profile '{name}' is claimed by {', '.join(e.value for e in found)}; keep one of them")
    if not found:
        known = sorted({entry.name for entry in entry_points(group=GROUP)})
        listed = f"installed are: {', '.join(known)}" if known else "none is installed"
        raise ValueError(f"the simulator has no profile '{name}' ({listed}); 'sim' alone needs none")
    profile = found[0].load()
    if not callable(profile):
        raise ValueError(f"the profile '{name}' ({found[0].value}) has to be callable as (backend, runtime)")
    return profile  # type: ignore[no-any-return]

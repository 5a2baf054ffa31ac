"""Another accelerator's rules and limits, for profiles: `SimRuntime` is what that vendor's module is on the simulator.

A backend gathers its vendor's calls in one narrow object. Its profile (entry-point group ``hardpoint.sim_profiles``)
hands it a `SimRuntime` instead, so that the same backend code runs on simulated devices, under a library, formats and
limits that are as hostile as the vendor's are known to be.
"""

from hardpoint_sim.vendor.limits import LIMITS, Limits, limits_of
from hardpoint_sim.vendor.runtime import SimRuntime

__all__ = ["LIMITS", "Limits", "SimRuntime", "limits_of"]

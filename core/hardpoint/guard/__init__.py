"""The launcher's protection for Triton kernels that others launch: vLLM's, fla's, a model's own.

`install` wraps the two doors through which every Triton launch goes, process-wide; `remove` puts the originals back.
A launch then runs under the device of its tensors, whatever the thread's current device is (FR1), and a kernel that is
first loaded inside a graph capture is an error with a name where the driver would refuse it (FR2).
"""

from hardpoint.guard.install import GuardStatus, install, remove, status

__all__ = ["GuardStatus", "install", "remove", "status"]

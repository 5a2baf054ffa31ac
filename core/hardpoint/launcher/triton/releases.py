"""What is known of each Triton release's internals; the direct call is used only where this was read or run.

Read in the wheels: `CudaLauncher.__call__` and the C function behind it (triton/backends/nvidia/driver.py).
3.6: the C function takes scratch pointers first and accepts integer addresses (run on an H100, 2026-11).
3.7 to 3.9: the C function takes annotations and one tuple of arguments, so the launcher object is called instead; it
keeps 3.6's order of arguments.
"""

from __future__ import annotations

from typing import Any

from packaging.version import Version

from hardpoint.launcher.triton.generate import DirectLaunch

FIRST, PAST = Version("3.6"), Version("3.10")


def known(version: str) -> bool:
    """The direct call may be used with this release."""
    return FIRST <= Version(Version(version).base_version) < PAST


def direct_launch(compiled: Any, version: str, device_type: str) -> DirectLaunch:
    """How a compiled and loaded kernel of this release is entered without `kernel[grid]`.

    Raises AttributeError if the release does not look as it was read.
    """
    launcher = compiled.run
    metadata, function = compiled.packed_metadata, compiled.function
    raw = Version(version) < Version("3.7") and device_type == "cuda"
    if raw and launcher.global_scratch_size == 0 and launcher.profile_scratch_size == 0:
        options = (launcher.launch_cooperative_grid, launcher.launch_pdl)
        return DirectLaunch(launcher.launch, (function, *options, None, None, metadata, None, None, None), True)
    return DirectLaunch(launcher, (function, metadata, None, None, None), False)

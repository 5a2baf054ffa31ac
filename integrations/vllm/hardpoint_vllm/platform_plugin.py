"""Entry point of group ``vllm.platform_plugins``: which platform class vLLM should use, or None to leave it alone.

vLLM swallows what a platform plugin raises and logs it at debug level, so nothing is raised here: what is wrong with
``HARDPOINT_BACKEND`` comes out of the general plugin, which vLLM does not catch.
"""

from __future__ import annotations

import importlib.metadata
import logging
import os
from collections.abc import Iterable

from hardpoint.environment import BadVariable
from hardpoint_vllm.mode import Mode, mode
from hardpoint_vllm.platform import PLATFORMS, Derived
from hardpoint_vllm.platform.wanted import VARIABLE as PLATFORM
from hardpoint_vllm.platform.wanted import derives
from hardpoint_vllm.versions import installed, objection

GROUP = "vllm.platform_plugins"
NAME = "hardpoint"
_logger = logging.getLogger("vllm.hardpoint.platform")


def platform() -> str | None:
    """Qualified name of the derived platform; None if hardpoint is off or unset, or another plugin has the platform."""
    if mode() is not Mode.ON or objection(installed()):
        return None
    others = list(active_others())
    if others:
        _logger.info("hardpoint: the platform is left to %s, since vLLM allows one", ", ".join(others))
        return None
    derived = _derived()
    return derived.qualname if derived else None


def _derived() -> Derived | None:
    """The derived platform for what vLLM would choose by itself on this machine."""
    from vllm.platforms import builtin_platform_plugins

    found = {name: choose() for name, choose in builtin_platform_plugins.items() if name in PLATFORMS}
    for device_type, qualname in found.items():
        if qualname is not None and qualname == PLATFORMS[device_type].base:
            return PLATFORMS[device_type] if _taken(device_type) else None
    return None


def _taken(device_type: str) -> bool:
    try:
        taken = derives(device_type)
    except BadVariable:  # the general plugin raises it where vLLM listens
        return False
    if not taken:
        _logger.info("hardpoint: the platform is vLLM's own; %s=derived takes the one for %s", PLATFORM, device_type)
    return taken


def active_others() -> Iterable[str]:
    """Names of other platform plugins that would be active: two of them abort vLLM's start."""
    allowed = os.environ.get("VLLM_PLUGINS")
    for entry in importlib.metadata.entry_points(group=GROUP):
        if entry.name == NAME or (allowed is not None and entry.name not in allowed.split(",")):
            continue
        try:
            active = entry.load()() is not None
        except Exception as error:  # noqa: BLE001 - vLLM passes over a plugin that raises; so do we, aloud
            _logger.warning("hardpoint: platform plugin %s failed, vLLM will pass over it: %s", entry.name, error)
            continue
        if active:
            yield entry.name

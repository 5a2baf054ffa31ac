"""Entry point of group ``vllm.general_plugins``: called in every process of an engine, so all of it is idempotent.

What is installed depends on ``HARDPOINT_BACKEND``: unset, only what cannot change a result (the tripwire, the guard of
Triton launches, and the name of the weight-transfer engine, which refuses to start); a name or ``auto``, everything;
``off``, nothing.
"""

from __future__ import annotations

import os

from hardpoint.errors import BackendUnavailable
from hardpoint_vllm.announce import say
from hardpoint_vllm.compat import RAW_RELOAD
from hardpoint_vllm.mode import VARIABLE, Mode, mode
from hardpoint_vllm.versions import installed, objection


def install() -> None:
    """Install what the mode asks for, and say it in one line.

    Raises:
        BackendUnavailable: ``HARDPOINT_BACKEND`` asks for what this machine or this vLLM cannot give. vLLM does not
            catch it, so the engine does not start.
        BadVariable: another variable of ours holds what nobody can mean; likewise.
    """
    wanted = mode()
    if wanted is Mode.OFF:
        return
    reason = objection(installed())
    if reason is not None:
        if wanted is Mode.ON:
            raise BackendUnavailable(f"{VARIABLE}={os.environ[VARIABLE]}: {reason}.")
        say(f"nothing installed: {reason}")
        return
    if wanted is Mode.WATCH:
        guarded = _watch()
        say(f"{VARIABLE} is unset: vLLM's platform is left alone, only the reload tripwire{guarded} is set")
        if os.environ.get(RAW_RELOAD):
            say(f"{RAW_RELOAD} is set and has no effect while {VARIABLE} is unset: raw loads are refused")
        return
    device_type, platform = _agree()
    _watch()
    _install_all(device_type)
    say(f"backend for {device_type} on {platform}; `hardpoint doctor` lists what is overridden")


def _watch() -> str:
    """Install what cannot change a result; a word on the guard for the log line."""
    from hardpoint_vllm import weight_transfer
    from hardpoint_vllm.compat import keep, post_load
    from hardpoint_vllm.compat.host import host
    from hardpoint_vllm.probe_hooks import attach
    from hardpoint_vllm.tripwire import hook
    from hardpoint_vllm.triton import guard

    attach.install()
    hook.install()
    post_load.install()
    if host().owner == "plugin":
        keep.install()
    weight_transfer.register()
    return " and the guard of Triton launches" if guard.install() else ""


def _install_all(device_type: str) -> None:
    from hardpoint_vllm import sleep
    from hardpoint_vllm.compat import raw_reload, rope
    from hardpoint_vllm.compat.host import host
    from hardpoint_vllm.control import install as control
    from hardpoint_vllm.metrics import watch as metrics
    from hardpoint_vllm.moe import unquantized
    from hardpoint_vllm.parallel import exchange, padding, zero_tail
    from hardpoint_vllm.platform.wanted import derives
    from hardpoint_vllm.triton import gdn
    from hardpoint_vllm.weight_transfer import core_hook, first_load

    here = host()
    for part, install_part in (
        ("triton.gdn", gdn.install),
        ("moe.unquantized", unquantized.install),
        ("parallel.padding", padding.install),
        ("parallel.exchange", exchange.install),
        ("parallel.zero_tail", lambda: derives(device_type) and zero_tail.install(device_type)),
        ("weight_transfer.first_load", first_load.install),
        ("weight_transfer.core_hook", core_hook.install),
        ("sleep", sleep.install),
        ("metrics", metrics.install),
        ("control", control.install),
        ("compat.raw_reload", raw_reload.install),
        ("compat.rope", rope.SHIM.apply),
    ):
        if not here.leaves(f"hardpoint_vllm.{part}"):
            install_part()


def _agree() -> tuple[str, str]:
    """Device type of the chosen backend, which must be vLLM's own, and a word on the platform class."""
    from vllm.platforms import current_platform

    import hardpoint
    from hardpoint_vllm.platform import PLATFORMS

    chosen = hardpoint.get_backend().info
    found = current_platform.device_type
    if found and chosen.device_type != found:
        raise BackendUnavailable(
            f"{VARIABLE}={os.environ[VARIABLE]} means backend {chosen.name!r} for {chosen.device_type} devices, but "
            f"this vLLM ({installed()}) runs on {found!r} ({type(current_platform).__name__}). Install the vLLM "
            f"build for {chosen.device_type}, or set {VARIABLE} to a backend for {found}."
        )
    derived = PLATFORMS.get(found)
    name = type(current_platform).__name__
    if derived is None or derived.qualname.endswith(f".{name}"):
        return found, name
    return found, f"vLLM's own {name}, {_why_not_derived(found)}"


def _why_not_derived(device_type: str) -> str:
    from hardpoint_vllm.platform.wanted import VARIABLE as PLATFORM
    from hardpoint_vllm.platform.wanted import derives

    if not derives(device_type):
        if os.environ.get(PLATFORM):
            return f"since {PLATFORM}=stock asks for it"
        return f"since ours for {device_type} has not served on a device yet ({PLATFORM}=derived takes it)"
    if os.environ.get("VLLM_TARGET_DEVICE") == "cpu":
        return "since VLLM_TARGET_DEVICE=cpu makes vLLM skip platform plugins"
    allowed = os.environ.get("VLLM_PLUGINS")
    if allowed is not None and "hardpoint" not in allowed.split(","):
        return "since VLLM_PLUGINS filters the platform plugin out"
    return "since another platform was chosen first or the device is served by one that hardpoint does not derive from"

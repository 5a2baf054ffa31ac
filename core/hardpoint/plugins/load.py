"""A plugin that may be imported becomes a loaded plugin, or a reason why not."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pluggy

from hardpoint import api_version, hookspecs
from hardpoint.backend import BackendInfo, Probe
from hardpoint.plugins.candidate import State
from hardpoint.plugins.claims import Claim
from hardpoint.plugins.sentence import one_line
from hardpoint.plugins.trace import traced
from hardpoint.plugins.within import TooLate, call_within

_HOOKS = tuple(name for name in vars(hookspecs) if name.startswith("hardpoint_"))
_NEEDED = ("hardpoint_info", "hardpoint_probe", "hardpoint_backend")


@dataclass(frozen=True)
class Refused:
    """A plugin that cannot be used, and why."""

    state: State
    reason: str
    info: BackendInfo | None = None


@dataclass(frozen=True)
class Loaded:
    """A plugin that keeps the contract so far; `manager` holds it alone, so that a hook call cannot reach another."""

    claim: Claim
    manager: pluggy.PluginManager
    info: BackendInfo

    def call(self, hook: str, deadline: float | None = None, **arguments: Any) -> Any:
        """Call one hook of this plugin; what it raises is raised, and TooLate after `deadline` seconds if given."""
        what = f"{hook} of {self.claim.name} ({self.claim.origin})"
        return _call(what, lambda: getattr(self.manager.hook, hook)(**arguments), deadline)


def _call(what: str, function: Callable[[], Any], deadline: float | None) -> Any:
    return traced(what, function if deadline is None else lambda: call_within(deadline, what, function))


def load(claim: Claim, deadline: float) -> Loaded | Refused:
    """Import `claim`, check its API version, its hooks and what it says about itself. Probes nothing."""
    try:
        plugin = traced(f"import of {claim.value} ({claim.origin})", claim.entry_point.load)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever a plugin raises is a row in the table
        return Refused(State.FAILS_TO_LOAD, f"fails when imported: {one_line(error)}")
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    objection = _register(manager, plugin)
    # A plugin for another API may have hooks that this core does not know: its version is the reason that helps.
    info = _info(claim, plugin, manager if objection is None else None, deadline)
    if isinstance(info, BackendInfo):
        mismatch = api_version.mismatch(info.api)
        if mismatch is not None:
            return Refused(State.WRONG_API, mismatch, info)
    if objection is not None:
        return Refused(State.FAILS_TO_LOAD, objection)
    if isinstance(info, Refused):
        return info
    return Loaded(claim, manager, info)


def _register(manager: pluggy.PluginManager, plugin: Any) -> str | None:
    """Why pluggy will not have the plugin, None if it will."""
    try:
        manager.register(plugin)
        unknown = sorted(
            f"{name}{_did_you_mean(name)}"
            for name in (hook.name for hook in manager.get_hookcallers(plugin) or () if not hook.has_spec())
            if not _optional(manager, name)
        )
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        if "unknown hook" in str(error) and unknown:
            return f"implements a hook that plugin API {_api()} does not have: {', '.join(unknown)}"
        return f"does not fit plugin API {_api()}: {' '.join(str(error).split())}"
    except Exception as error:  # noqa: BLE001 - pluggy reads every attribute of the plugin, which may run its code
        return f"cannot be registered: {one_line(error)}"
    missing = [name for name in _NEEDED if not getattr(manager.hook, name).get_hookimpls()]
    if missing:
        there = [name for name in missing if hasattr(plugin, name)]
        hint = f" ({', '.join(there)} lacks @hardpoint.hookimpl)" if there else ""
        return f"does not implement {', '.join(missing)}{hint}"
    return None


def _optional(manager: pluggy.PluginManager, name: str) -> bool:
    return all(implementation.optionalhook for implementation in getattr(manager.hook, name).get_hookimpls())


def _did_you_mean(name: str) -> str:
    close = difflib.get_close_matches(name, _HOOKS, n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def _api() -> str:
    return ".".join(map(str, api_version.API_VERSION))


def _info(claim: Claim, plugin: Any, manager: pluggy.PluginManager | None, deadline: float) -> BackendInfo | Refused:
    """What the plugin says about itself, checked. Without a `manager`, asked of the plugin's own function."""
    what = f"hardpoint_info of {claim.name} ({claim.origin})"
    ask = manager.hook.hardpoint_info if manager is not None else getattr(plugin, "hardpoint_info", lambda: None)
    try:
        info = _call(what, ask, deadline)
    except TooLate as error:
        return Refused(State.FAILS_TO_LOAD, str(error))
    except (Exception, SystemExit) as error:  # noqa: BLE001
        return Refused(State.FAILS_TO_LOAD, f"hardpoint_info raises: {one_line(error)}")
    if not isinstance(info, BackendInfo):
        return Refused(State.FAILS_TO_LOAD, f"hardpoint_info should return a BackendInfo, returned {_show(info)}")
    wrong = _wrong_field(claim, info)
    return info if wrong is None else Refused(State.FAILS_TO_LOAD, f"hardpoint_info: {wrong}")


def _wrong_field(claim: Claim, info: BackendInfo) -> str | None:
    if not (isinstance(info.api, tuple) and len(info.api) == 2 and all(type(part) is int for part in info.api)):
        return f"api should be two integers such as (1, 0), is {_show(info.api)}"
    if type(info.priority) is not int:
        return f"priority should be an integer, is {_show(info.priority)}"
    for field in ("name", "device_type", "summary"):
        if not isinstance(getattr(info, field), str):
            return f"{field} should be a string, is {_show(getattr(info, field))}"
    if not (isinstance(info.aliases, tuple) and all(isinstance(alias, str) for alias in info.aliases)):
        return f"aliases should be a tuple of strings, is {_show(info.aliases)}"
    if info.name != claim.name:
        return f"name is {info.name!r}, the entry point's is {claim.name!r}; they should be equal, in lower case"
    return None


def probe(loaded: Loaded, deadline: float) -> Probe | Refused:
    """What the plugin's probe says, checked."""
    try:
        found = loaded.call("hardpoint_probe", deadline)
    except TooLate:
        return Refused(State.PROBE_FAILED, f"hardpoint_probe did not return within {deadline:g} s", loaded.info)
    except (Exception, SystemExit) as error:  # noqa: BLE001
        return Refused(State.PROBE_FAILED, f"hardpoint_probe raises: {one_line(error)}", loaded.info)
    if not isinstance(found, Probe) or not isinstance(found.available, bool) or not isinstance(found.reason, str):
        return Refused(
            State.PROBE_FAILED,
            f"hardpoint_probe should return a Probe(available: bool, reason: str, ...), returned {_show(found)}",
            loaded.info,
        )
    return found


def _show(value: object) -> str:
    try:
        text = repr(value)
    except Exception as error:  # noqa: BLE001
        text = f"an object whose repr raises {type(error).__name__}"
    return f"{text[:80]} ({type(value).__name__})"

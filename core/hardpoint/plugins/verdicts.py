"""Verdicts of trials, remembered on disk, so that a plugin costs a child process once and not at every start."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
import platform
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hardpoint.api_version import API_VERSION
from hardpoint.plugins.candidate import State
from hardpoint.plugins.claims import Claim
from hardpoint.plugins.fingerprint import fingerprint
from hardpoint.plugins.trial import Verdict

# A failure is remembered only so long that the many processes of one engine do not each wait for the same hang.
FAILURE_LASTS = 600.0
_FORMAT = 2
_logger = logging.getLogger("hardpoint.plugins")


def cache_folder(environment: Mapping[str, str]) -> Path | None:
    """``$XDG_CACHE_HOME/hardpoint/plugins`` or the same under ``~/.cache``; None for a user without a home."""
    base = environment.get("XDG_CACHE_HOME", "")
    if os.path.isabs(base):  # noqa: PTH117 - the XDG rule: a relative value is to be ignored
        return Path(base) / "hardpoint" / "plugins"
    try:
        return Path.home() / ".cache" / "hardpoint" / "plugins"
    except RuntimeError:
        return None


def key_of(claim: Claim) -> dict[str, str]:
    """Everything that a verdict depends on and that a file name can tell."""
    return {
        "distribution": claim.distribution,
        "version": claim.version,
        "name": claim.name,
        "value": claim.value,
        "python": f"{platform.python_implementation()} {platform.python_version()} {sys.prefix}",
        "api": ".".join(map(str, API_VERSION)),
        "files": fingerprint(claim),
    }


def _file(folder: Path, key: dict[str, str]) -> Path:
    return folder / (hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32] + ".json")


def recall(folder: Path | None, key: dict[str, str], *, failures: bool = True) -> Verdict | None:
    """The remembered verdict, None if there is none to trust. `failures` False passes over remembered failures."""
    if folder is None:
        return None
    try:
        stored: Any = json.loads(_file(folder, key).read_text(encoding="utf-8"))
        if stored["format"] != _FORMAT or stored["key"] != key:
            return None
        reason, age, state = stored["reason"], time.time() - float(stored["time"]), State(stored["state"])
    except (OSError, ValueError, KeyError, TypeError):
        return None  # absent or torn: the trial is made again and overwrites it
    if reason is None:
        return Verdict.passed()
    if not isinstance(reason, str) or not failures or not 0 <= age < FAILURE_LASTS:
        return None
    return Verdict(f"{reason} (seen {age:.0f} s ago; `hardpoint doctor` tries again)", state)


def remember(folder: Path | None, key: dict[str, str], verdict: Verdict) -> None:
    """Write the verdict, whole or not at all. A cache that cannot be written is said once and costs only time."""
    if folder is None:
        _say_unwritable("this user has no home directory and XDG_CACHE_HOME is unset")
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=folder, suffix=".part")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            stored = {"reason": verdict.reason, "state": verdict.state.value}
            json.dump({"format": _FORMAT, "key": key, "time": time.time(), **stored}, file)
        Path(temporary).replace(_file(folder, key))
    except OSError as error:
        _say_unwritable(str(error))


@functools.cache
def _say_unwritable(why: str) -> None:
    _logger.warning(
        "hardpoint cannot remember which plugins are safe to import, so each start tries them again in a child "
        "process: %s. Make that folder writable or point XDG_CACHE_HOME at one that is.",
        why,
    )

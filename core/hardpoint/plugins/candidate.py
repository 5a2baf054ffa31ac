"""One row of the table of backends: what it is, whose it is, and whether it can be used."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

from hardpoint.backend import BackendInfo


class State(str, Enum):
    """What stands between a name and its use. The value is what people read."""

    AVAILABLE = "available"
    NO_DEVICE = "no device"
    NOT_INSTALLED = "not installed"
    NOT_ALLOWED = "not allowed"
    FAILS_TO_LOAD = "fails to load"
    WRONG_API = "wrong API version"
    DUPLICATE = "name claimed twice"
    PROBE_FAILED = "probe failed"

    @property
    def broken(self) -> bool:
        """Whether somebody has to repair something; a machine without the device is in order."""
        return self in (State.FAILS_TO_LOAD, State.WRONG_API, State.DUPLICATE, State.PROBE_FAILED)


@dataclass(frozen=True)
class Candidate:
    """A backend as found here.

    Attributes:
        name: the entry point's name, case-folded; what ``HARDPOINT_BACKEND`` selects.
        state: whether it can be used.
        reason: a sentence; why not, or what the probe found.
        distribution: name of the installed distribution that brings it, None if none does.
        version: that distribution's version.
        entry_point: the entry point's value, for example ``"hardpoint_cpu"``.
        info: what the plugin says about itself, None if it never came to that.
        device_count: devices that the probe found.
    """

    name: str
    state: State
    reason: str
    distribution: str | None = None
    version: str | None = None
    entry_point: str | None = None
    info: BackendInfo | None = None
    device_count: int = 0

    @property
    def available(self) -> bool:
        return self.state is State.AVAILABLE

    @property
    def origin(self) -> str:
        """Distribution and version for people."""
        return f"{self.distribution} {self.version}" if self.distribution else "-"

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        info = self.info
        return {
            "name": self.name,
            "state": self.state.value,
            "available": self.available,
            "reason": self.reason,
            "distribution": self.distribution,
            "version": self.version,
            "entry_point": self.entry_point,
            "device_count": self.device_count,
            "device_type": info.device_type if info else None,
            "priority": info.priority if info else None,
            "summary": info.summary if info else None,
            "api": list(info.api) if info else None,
            "aliases": list(info.aliases) if info else [],
        }

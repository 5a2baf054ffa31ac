"""A visibility variable that changes after the driver has read it: the driver keeps the old value, and numbers mislead.

Ray narrows visibility in a running worker, and Level Zero, CUDA and Ascend read their variables once, when they start.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hardpoint.device.visibility import RULES, rule_of
from hardpoint.errors import DeviceError

_AT_START = Path("/proc/self/environ")


@dataclass(frozen=True)
class Change:
    """A variable whose value is not the one that it had.

    Attributes:
        variable: its name.
        before: value at the start, None if it was unset.
        now: value in this process, None if it is unset.
    """

    variable: str
    before: str | None
    now: str | None

    def __str__(self) -> str:
        return f"{self.variable} was {_shown(self.before)} at the start of this process and is {_shown(self.now)} now"


def changed_since_start(
    environment: Mapping[str, str] | None = None, start: Mapping[str, str] | None = None
) -> tuple[Change, ...]:
    """Visibility variables that differ from what the process was started with.

    That is legal until a driver starts. `start` (default: ``/proc/self/environ``; where that is not there, nothing can
    be said and the answer is empty).
    """
    environment = os.environ if environment is None else environment
    start = _environment_at_start() if start is None else start
    if start is None:
        return ()
    return tuple(
        Change(name, start.get(name), environment.get(name))
        for name in RULES
        if start.get(name) != environment.get(name)
    )


def _environment_at_start() -> Mapping[str, str] | None:
    try:
        text = _AT_START.read_bytes().decode(errors="surrogateescape")
    except OSError:
        return None
    return dict(line.split("=", 1) for line in text.split("\0") if "=" in line)


class VisibilityWatch:
    """Remembers what a variable said when its driver was first asked for names, and refuses names after it changed.

    Args:
        variable: for example ``ZE_AFFINITY_MASK``; None where a backend has none, then nothing is watched.
    """

    def __init__(self, variable: str | None) -> None:
        names = () if variable is None else (variable, rule_of(variable).applied_before)
        self._variables = tuple(name for name in names if name is not None)
        self._pid: int | None = None
        self._seen: dict[str, str | None] = {}

    def look(self, environment: Mapping[str, str] | None = None) -> None:
        """Call it when the driver runs for certain: the first call notes the values, later ones hold them against it.

        Raises:
            DeviceError: a value is another one now. The driver does not read it again, so indexes mean what they meant.
        """
        environment = os.environ if environment is None else environment
        if self._pid != os.getpid():  # the first call, or a forked child, which starts its own driver
            self._pid = os.getpid()
            self._seen = {name: environment.get(name) for name in self._variables}
        for name, before in self._seen.items():
            now = environment.get(name)
            if now != before:
                noset = rule_of(name).noset
                ray = f", and {noset}=1 where Ray starts the workers" if noset else ""
                raise DeviceError(
                    f"{name} was {_shown(before)} when the driver was first asked in this process (pid {os.getpid()}) "
                    f"and is {_shown(now)} now. The driver does not read it again: devices are still those of before. "
                    f"Set it before the process starts{ray}."
                )


def _shown(value: str | None) -> str:
    return "unset" if value is None else repr(value)

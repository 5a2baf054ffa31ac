"""How much of the integration is wanted, from ``HARDPOINT_BACKEND``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from enum import Enum

VARIABLE = "HARDPOINT_BACKEND"


class Mode(Enum):
    """OFF: nothing is installed. WATCH (variable unset): only what cannot change results. ON: everything."""

    OFF = "off"
    WATCH = "watch"
    ON = "on"


def mode(environment: Mapping[str, str] | None = None) -> Mode:
    """The mode that `environment` (default: this process's) asks for."""
    value = (os.environ if environment is None else environment).get(VARIABLE, "").strip()
    if not value:
        return Mode.WATCH
    return Mode.OFF if value.lower() == "off" else Mode.ON

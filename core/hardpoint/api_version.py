"""The version of the plugin interface, and what a mismatch means."""

from __future__ import annotations

API_VERSION: tuple[int, int] = (1, 0)


def mismatch(version: tuple[int, int]) -> str | None:
    """Why a plugin built for `version` cannot be used here, as a sentence; None if it can.

    The major number has to match; the minor may be at most ours: growth adds hooks, arguments and defaulted fields,
    so an older plugin keeps working and a newer one may ask for what this core lacks.
    """
    major, minor = API_VERSION
    if version[0] == major and version[1] <= minor:
        return None
    newer = version > API_VERSION
    remedy = "upgrade hardpoint" if newer else "upgrade the plugin"
    return f"built for plugin API {version[0]}.{version[1]}, this is plugin API {major}.{minor}: {remedy}"

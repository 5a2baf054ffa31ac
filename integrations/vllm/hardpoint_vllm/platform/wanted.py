"""Where vLLM's platform and attention are replaced by ours: on the CPU, and elsewhere if that is asked for."""

from __future__ import annotations

import os
from collections.abc import Mapping

from hardpoint.environment import BadVariable
from hardpoint_vllm.mode import VARIABLE as BACKEND

VARIABLE = "HARDPOINT_PLATFORM"
WORDS = ("stock", "derived")
# Device types on which the derived platform has served a model. What is not here waits for its first run there.
SERVED = frozenset({"cpu"})


def derives(device_type: str, environment: Mapping[str, str] | None = None) -> bool:
    """Whether ours are taken on `device_type`.

    `HARDPOINT_PLATFORM` decides where it is set. Where not: yes on a device type of `SERVED`, and yes for a backend
    with a profile (``cuda:sleep``), whose sleep needs the platform and was asked for by name.

    Raises:
        BadVariable: neither stock nor derived.
    """
    found = os.environ if environment is None else environment
    word = found.get(VARIABLE, "").strip().lower()
    if word:
        if word not in WORDS:
            raise BadVariable(f"{VARIABLE} should be {' or '.join(WORDS)}; found {word!r}.")
        return word == "derived"
    return device_type in SERVED or bool(found.get(BACKEND, "").partition(":")[2])

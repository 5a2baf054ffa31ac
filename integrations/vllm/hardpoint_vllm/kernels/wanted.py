"""What ``HARDPOINT_KERNELS`` asks for."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Literal, get_args

from hardpoint.environment import BadVariable

VARIABLE = "HARDPOINT_KERNELS"
Part = Literal["decode", "prefill"]
Mode = Literal["off", "auto", "on"]
PARTS: tuple[Part, ...] = get_args(Part)


def wanted(environment: Mapping[str, str] | None = None) -> dict[Part, Mode]:
    """Mode of each part of a GDN layer: ``off``, ``auto`` (where measured quicker), or ``on``.

    Raises:
        BadVariable: neither off, auto, all, nor a list out of decode and prefill.
    """
    text = (os.environ if environment is None else environment).get(VARIABLE, "").strip().lower()
    if text in ("", "off"):
        return dict.fromkeys(PARTS, "off")
    if text in ("auto", "all"):
        return dict.fromkeys(PARTS, "auto" if text == "auto" else "on")
    named = {word.strip() for word in text.split(",")}
    if not named <= set(PARTS):
        raise BadVariable(f"{VARIABLE} should be off, auto, all, or a list out of {', '.join(PARTS)}; found {text!r}.")
    return {part: "on" if part in named else "off" for part in PARTS}

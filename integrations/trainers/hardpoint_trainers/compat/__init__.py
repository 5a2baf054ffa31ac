"""Repairs for the trainer's side, each for one fault of transformers 5 and PEFT together, each gone when upstream is.

import hardpoint_trainers.compat
hardpoint_trainers.compat.install()      # before get_peft_model; `hardpoint doctor` lists what became of each
"""

from __future__ import annotations

from hardpoint.shims import ShimRow
from hardpoint_trainers.compat import peft_dropout, peft_targets
from hardpoint_trainers.compat.peft_dropout import refuse_dropout_on_experts

__all__ = ["SHIMS", "install", "refuse_dropout_on_experts", "remove", "rows"]

SHIMS = (peft_targets.SHIM, peft_dropout.SHIM)


def install() -> list[ShimRow]:
    """Put every repair in place that the installed packages need; what became of each. Idempotent."""
    return [shim.apply() for shim in SHIMS]


def remove() -> None:
    """Take all of them out again."""
    for shim in SHIMS:
        shim.take()


def rows() -> list[ShimRow]:
    """What became of each in this process, without installing anything."""
    return [shim.row() for shim in SHIMS]

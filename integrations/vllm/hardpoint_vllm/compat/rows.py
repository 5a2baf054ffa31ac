"""Rows of the table of overrides for what stands in `compat`, and what became of its shims."""

from __future__ import annotations

import sys
from typing import Any

from hardpoint.overrides import Override
from hardpoint.shims import Shim
from hardpoint_vllm.compat import rope
from hardpoint_vllm.compat.host import host
from hardpoint_vllm.patching import is_wrapped
from hardpoint_vllm.versions import SUPPORTED

SHIMS: tuple[Shim, ...] = (rope.SHIM,)
_LOADER = "vllm.model_executor.model_loader"


def rows() -> list[Override]:
    """What is replaced in this process, or should be: a shim that the host does not need has no row here."""
    found = [
        _row(
            f"{_LOADER}.utils:process_weights_after_loading",
            "compat.post_load",
            "called by hand on a model that is processed already, it moves expert weights a second time",
            is_wrapped(sys.modules.get(f"{_LOADER}.utils"), "process_weights_after_loading"),
            "also with HARDPOINT_BACKEND unset; ends a raw reload where HARDPOINT_RAW_RELOAD=session",
        )
    ]
    if host().owner == "plugin":
        loader = getattr(sys.modules.get(f"{_LOADER}.base_loader"), "BaseModelLoader", None)
        found.append(
            _row(
                f"{_LOADER}.base_loader:BaseModelLoader.load_model",
                "compat.keep",
                "the platform's plugin replaces post-load processing after us, and the tripwire around it is gone then",
                is_wrapped(loader, "load_model"),
                "only beside another platform plugin",
            )
        )
    found.extend(_of(shim) for shim in SHIMS if shim.installed())
    return found


def _of(shim: Shim) -> Override:
    note = f"shim {shim.name} for {shim.host}{shim.versions}; retires by itself"
    return _row(
        "vllm.engine.arg_utils:EngineArgs.create_engine_config", shim.owner.partition(".")[2], shim.reason, True, note
    )


def _row(target: str, owner: str, reason: str, installed: bool, note: str) -> Override:
    return Override(
        target=target,
        kind="patch",
        owner=f"hardpoint_vllm.{owner}",
        reason=reason,
        versions=SUPPORTED,
        installed=installed,
        note=note,
    )


def here() -> dict[str, Any]:
    """Who has the platform, what is left to them and what became of the shims, for JSON."""
    found = host()
    return {
        "platform": str(found),
        "left": dict(found.left_out()),
        "shims": [shim.row().as_dict() for shim in SHIMS],
    }

"""What the plugin has replaced in a process that vLLM loaded plugins in, next to what the table says."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import FunctionType
from typing import Any


def main(answer: str) -> None:
    from vllm.platforms import current_platform
    from vllm.plugins import load_general_plugins

    from hardpoint_vllm import overrides

    before = {row.target: row.installed for row in overrides.table()}
    found: dict[str, Any] = {"platform": type(current_platform).__name__, "error": None}
    try:
        load_general_plugins()
        from hardpoint_vllm.general import install

        install()  # a second time: plugins may run more than once
    except Exception as error:  # noqa: BLE001 - the test looks at it
        found["error"] = f"{type(error).__name__}: {error}"
    found["before"] = before
    found["table"] = [row.as_dict() for row in overrides.table()]
    found["replaced"] = sorted(_replaced())
    Path(answer).write_text(json.dumps(found))


def _replaced() -> set[str]:
    """Every function of a loaded vLLM module that our `wrap` put there, found by looking at all of them."""
    names = set()
    for module_name, module in list(sys.modules.items()):
        if not module_name.startswith("vllm.") or module is None:
            continue
        for name, value in list(vars(module).items()):
            if isinstance(value, FunctionType) and hasattr(value, "__hardpoint_original__"):
                names.add(f"{module_name}:{name}")
            if isinstance(value, type) and value.__module__ == module_name:
                names |= {
                    f"{module_name}:{name}.{member}"
                    for member, held in list(vars(value).items())
                    if isinstance(function := getattr(held, "__func__", held), FunctionType)
                    and hasattr(function, "__hardpoint_original__")
                }
    return names


if __name__ == "__main__":
    main(*sys.argv[1:])

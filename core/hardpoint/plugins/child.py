"""What runs in the child process of a trial: import the plugin, call its two harmless hooks, say how far it got.

Each stage is one JSON line, written before the stage begins, so that the parent knows where a crash or a hang happened.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any


def main() -> None:
    """Read the job from stdin, report on what was stdout; the plugin's own prints go to stderr."""
    report = os.dup(1)
    os.dup2(2, 1)
    job = json.load(sys.stdin)
    sys.path[:] = job["path"]

    def say(**fields: Any) -> None:
        os.write(report, (json.dumps(fields) + "\n").encode())

    _try(job["name"], job["value"], say)
    # Not sys.exit: atexit handlers and non-daemon threads of a plugin are not what is tried here, and may hang.
    os._exit(0)


def _try(name: str, value: str, say: Any) -> None:
    import importlib.metadata

    from hardpoint.plugins.sentence import one_line

    say(stage="import")
    try:
        plugin = importlib.metadata.EntryPoint(name, value, "hardpoint.backends").load()
    except BaseException as error:  # noqa: BLE001 - SystemExit is one of the things that are looked for
        say(stage="import", error=one_line(error))
        return
    for hook in ("hardpoint_info", "hardpoint_probe"):
        say(stage=hook)
        try:
            getattr(plugin, hook, lambda: None)()
        except BaseException:  # noqa: BLE001 - the parent calls it again, in isolation, and tells the reason
            continue
    say(stage="done")

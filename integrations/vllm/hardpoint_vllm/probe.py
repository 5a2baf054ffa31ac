"""What an engine process would have installed, found out in a process of its own: vLLM is slow to import and may exit.

python -m hardpoint_vllm.probe      one JSON object on the last line of stdout
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from hardpoint.environment import DEFAULT_DEADLINE, BadVariable, probe_deadline

PATIENCE = 3  # times what a plugin may take; doctor gives a section four times that


@dataclass(frozen=True)
class Probed:
    """Attributes:
    overrides: rows of `hardpoint_vllm.overrides.table`, as dictionaries.
    platform: class that vLLM uses, empty if it did not come so far.
    error: why an engine would not start, empty if it would.
    here: who has the platform, what is left to them, and what became of the shims (`hardpoint_vllm.compat.rows.here`).
    seconds: that it took, of which importing vLLM is nearly all.
    late: it was given up after `seconds`; nothing else is known then.
    """

    overrides: list[dict[str, Any]]
    platform: str
    error: str
    here: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    late: bool = False


def deadline_of(environment: Mapping[str, str]) -> float:
    """Seconds that vLLM may take here: some 15 s of a processor, and more of a busy machine's time."""
    try:
        return PATIENCE * probe_deadline(environment)
    except BadVariable:  # doctor's own section reports it
        return PATIENCE * DEFAULT_DEADLINE


def run(deadline: float | None = None) -> Probed:
    """Load vLLM's plugins in a child process; what goes wrong there is in the answer, as a sentence.

    Args:
        deadline: seconds; None for those of `deadline_of` this process.
    """
    begin = time.monotonic()
    found = _ask(deadline_of(os.environ) if deadline is None else deadline)
    return replace(found, seconds=time.monotonic() - begin)


def _ask(deadline: float) -> Probed:
    command = [sys.executable, "-m", "hardpoint_vllm.probe"]
    try:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=deadline, check=False)
    except subprocess.TimeoutExpired:
        return Probed([], "", "", late=True)
    lines = ran.stdout.strip().splitlines()
    try:
        found = json.loads(lines[-1] if lines else "")
        return Probed(found["overrides"], found["platform"], found["error"], found["here"])
    except (ValueError, KeyError, TypeError):
        last = (ran.stderr.strip().splitlines() or ["no output"])[-1]
        return Probed([], "", f"vLLM could not be loaded (exit status {ran.returncode}): {last}")


def main() -> None:
    """Do in this process what an engine does first."""
    from hardpoint_vllm import overrides
    from hardpoint_vllm.compat.rows import here

    platform, error = "", ""
    try:
        from vllm.platforms import current_platform
        from vllm.plugins import load_general_plugins

        platform = type(current_platform).__name__
        load_general_plugins()
    except Exception as caught:  # noqa: BLE001 - the report is the point
        error = f"{type(caught).__name__}: {caught}"
    rows = [row.as_dict() for row in overrides.table()]
    print(json.dumps({"overrides": rows, "platform": platform, "error": error, "here": here()}))


if __name__ == "__main__":
    main()

"""What an engine process would have installed, found out in a process of its own: vLLM is slow to import and may exit.

python -m hardpoint_vllm.probe      one JSON object on the last line of stdout
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, field
from typing import Any

DEADLINE = 35.0  # doctor gives a section 40 s


@dataclass(frozen=True)
class Probed:
    """Attributes:
    overrides: rows of `hardpoint_vllm.overrides.table`, as dictionaries.
    platform: class that vLLM uses, empty if it did not come so far.
    error: why an engine would not start, empty if it would.
    here: who has the platform, what is left to them, and what became of the shims (`hardpoint_vllm.compat.rows.here`).
    """

    overrides: list[dict[str, Any]]
    platform: str
    error: str
    here: dict[str, Any] = field(default_factory=dict)


def run(deadline: float = DEADLINE) -> Probed:
    """Load vLLM's plugins in a child process; what goes wrong there is in the answer, as a sentence."""
    command = [sys.executable, "-m", "hardpoint_vllm.probe"]
    try:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=deadline, check=False)
    except subprocess.TimeoutExpired:
        return Probed([], "", f"vLLM did not load its plugins within {deadline:g} s")
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

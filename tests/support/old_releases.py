"""Older releases of pure Python packages, to run a shim on the fault that it is for.

`ci/old_releases.py` installs them into ``<environment>/old/<name>-<version>``, beside the environment's own packages.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).resolve().parent.parent
FOLDER = Path(sys.prefix) / "old"


def run_with(release: str, code: str, **variables: str) -> Any:
    """Run `code` where `release` shadows the installed package; what it leaves in ``answer`` (plain data)."""
    folder = FOLDER / release
    if not folder.is_dir():
        pytest.skip(f"{release} is not in {FOLDER}: python ci/old_releases.py installs it")
    program = f"{textwrap.dedent(code)}\nimport json\nprint(json.dumps(answer))"
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("HARDPOINT_")},
        "PYTHONPATH": os.pathsep.join([str(folder), str(TESTS)]),
        "OMP_NUM_THREADS": "1",
        **variables,
    }
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    return json.loads(ran.stdout.strip().splitlines()[-1])

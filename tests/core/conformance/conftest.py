"""A browser for the tests that look at reports; without one they are skipped with the reason, in CI they fail."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.browser import Browser

FINDER = Path(__file__).resolve().parents[3] / "ci" / "browser.py"


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A headless Chromium, offline, for the whole session."""
    found = subprocess.run([sys.executable, FINDER], capture_output=True, text=True, timeout=1300, check=False)
    if found.returncode != 0:
        reason = found.stderr.strip()
        if os.environ.get("CI", "").casefold() in ("true", "1"):
            pytest.fail(f"CI renders the report in a browser, and there is none: {reason}", pytrace=False)
        pytest.skip(reason)
    with Browser(found.stdout.strip(), tmp_path_factory.mktemp("browser") / "profile") as running:
        yield running

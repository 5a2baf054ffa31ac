"""ci/browser.py finds a browser, installs one where that takes no password, and else says why there is none."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

FINDER = Path(__file__).resolve().parents[2] / "ci" / "browser.py"
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="apt-get is only tried as root")


def program(folder: Path, name: str, script: str = "exit 0") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)
    return folder / name


def find(folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run it where only the programs in `folder` are there."""
    folder.mkdir(exist_ok=True)
    environment = {"PATH": str(folder), **variables}
    return subprocess.run(
        [sys.executable, FINDER], env=environment, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize("name", ["chromium", "google-chrome"])
def test_one_that_is_there_is_used(tmp_path: Path, name: str) -> None:
    there = program(tmp_path / "bin", name)
    done = find(tmp_path / "bin")
    assert (done.returncode, done.stdout) == (0, f"{there}\n")


def test_one_that_is_named_is_used_or_refused(tmp_path: Path) -> None:
    program(tmp_path / "bin", "chromium")
    mine = program(tmp_path / "bin", "my-browser")
    assert find(tmp_path / "bin", CHROME_BIN=str(mine)).stdout == f"{mine}\n"
    refused = find(tmp_path / "bin", CHROME_BIN="/no/browser")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "CHROME_BIN=/no/browser is no program" in refused.stderr


def test_without_one_and_without_apt_get_the_reason_says_what_to_do(tmp_path: Path) -> None:
    done = find(tmp_path / "bin")
    assert done.returncode == 1
    assert "install the package chromium, or set CHROME_BIN" in done.stderr


@as_root
def test_it_is_installed_with_apt_get(tmp_path: Path) -> None:
    folder = tmp_path / "bin"
    log = tmp_path / "log"
    install = f'echo "$@" >> {log}; [ "$1" = update ] || {{ : > {folder}/chromium; /bin/chmod 755 {folder}/chromium; }}'
    program(folder, "apt-get", install)
    assert find(folder).stdout == f"{folder}/chromium\n"
    assert log.read_text().splitlines() == ["update", "install -y --no-install-recommends chromium"]


@as_root
def test_what_apt_get_says_is_the_reason(tmp_path: Path) -> None:
    program(tmp_path / "bin", "apt-get", "echo 'Temporary failure resolving the archive' >&2; exit 100")
    done = find(tmp_path / "bin")
    assert done.returncode == 1
    assert "apt-get update failed with exit code 100: Temporary failure resolving" in done.stderr

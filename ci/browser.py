"""Find a browser for the tests that look at reports, or install one.

    python3 ci/browser.py            print the path of a Chromium or Chrome; exit 1 with the reason if there is none

What is there is used; else, as root on Debian or Ubuntu, the package `chromium` is installed. Where that cannot be
done, the tests that need a browser are skipped with this reason; in CI (CI=true) they fail.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
VARIABLE = "CHROME_BIN"  # a path, for a browser with another name; the variable that others use for it
_INSTALL = ("apt-get", "install", "-y", "--no-install-recommends", "chromium")
_DEADLINE = 600


class NoBrowser(Exception):
    """There is none, and the message says why none could be installed."""


def find() -> str | None:
    """Path of a browser that is there, or None."""
    chosen = os.environ.get(VARIABLE)
    return next((path for name in ([chosen] if chosen else NAMES) if (path := shutil.which(name))), None)


def find_or_install() -> str:
    """Path of a browser; installs one where that takes no password. NoBrowser if there is none in the end."""
    if (found := find()) is not None:
        return found
    if os.environ.get(VARIABLE):
        raise NoBrowser(f"{VARIABLE}={os.environ[VARIABLE]} is no program that can be run")
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        raise NoBrowser(
            f"no Chromium or Chrome found ({', '.join(NAMES)}), and only root can install one with apt-get; "
            f"install the package chromium, or set {VARIABLE} to its path"
        )
    for command in (("apt-get", "update"), _INSTALL):
        _run(*command)
    if (found := find()) is None:
        raise NoBrowser("apt-get installed chromium, but no program of that name is on the PATH")
    return found


def _run(*command: str) -> None:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    try:
        done = subprocess.run(
            command,
            env=environment,
            capture_output=True,
            text=True,
            timeout=_DEADLINE,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        raise NoBrowser(f"{' '.join(command)} did not end within {_DEADLINE} s") from None
    if done.returncode != 0:
        last = (done.stderr.strip() or done.stdout.strip() or "it printed nothing").splitlines()[-1]
        raise NoBrowser(f"{' '.join(command)} failed with exit code {done.returncode}: {last}")


def main() -> int:
    """Print the path, or say why there is none."""
    try:
        print(find_or_install())
    except NoBrowser as reason:
        print(f"ci/browser.py: {reason}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

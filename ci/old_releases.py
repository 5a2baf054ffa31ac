"""Install older releases of pure Python packages beside the environment's own, on which tests run the shims.

    .venv/bin/python ci/old_releases.py

Each goes into a folder of its own (<environment>/old/<name>-<version>), without dependencies; nothing finds them unless
its path is named. The list: ci/requirements/old-releases.txt. Standard library only.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

LIST = Path(__file__).resolve().parent / "requirements" / "old-releases.txt"


def releases() -> list[str]:
    """``name==version`` lines of the list."""
    lines = (line.partition("#")[0].strip() for line in LIST.read_text().splitlines())
    return [line for line in lines if line]


def main(environment: Path) -> None:
    """Install what is missing."""
    for release in releases():
        folder = environment / "old" / release.replace("==", "-")
        if folder.is_dir():
            continue
        command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps"]
        partial = folder.with_name(f"{folder.name}.partial")
        subprocess.run([*command, "--no-compile", "--upgrade", "--target", str(partial), release], check=True)
        partial.rename(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(sys.prefix))

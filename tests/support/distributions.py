"""Real installed distributions, made on the fly: a module, a dist-info with RECORD, a folder for PYTHONPATH."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

GOOD = """
from hardpoint import Backend, BackendInfo, Probe, hookimpl

@hookimpl
def hardpoint_info():
    return BackendInfo(name={name!r}, device_type="cpu", priority={priority}, summary="made for a test"{more})

@hookimpl
def hardpoint_probe():
    return Probe({available}, {reason!r}, 1)

@hookimpl
def hardpoint_backend(options):
    from dataclasses import replace
    from hardpoint_cpu import hardpoint_backend
    return replace(hardpoint_backend({{}}), info=hardpoint_info())
"""


def good(
    name: str, *, priority: int = 50, available: bool = True, reason: str = "made for a test", more: str = ""
) -> str:
    """Source of a plugin that keeps the contract; `more` is appended to the arguments of BackendInfo."""
    return GOOD.format(name=name, priority=priority, available=available, reason=reason, more=more)


@dataclass(frozen=True)
class Site:
    """A folder of installed distributions, beside those of this environment, and a cache folder of its own."""

    folder: Path
    variables: dict[str, str] = field(default_factory=dict)

    def install(
        self,
        distribution: str,
        modules: dict[str, str],
        entry_points: str,
        *,
        version: str = "1.0",
        requires: tuple[str, ...] = (),
    ) -> None:
        """Write `modules` (name to source) and the metadata that pip would have left; again to upgrade."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for old in self.folder.glob(f"{distribution.replace('-', '_')}-*.dist-info/*"):
            old.unlink()
        for empty in self.folder.glob(f"{distribution.replace('-', '_')}-*.dist-info"):
            empty.rmdir()
        info = self.folder / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        needs = "".join(f"Requires-Dist: {line}\n" for line in requires)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n{needs}")
        (info / "entry_points.txt").write_text(entry_points)
        (info / "INSTALLER").write_text("pip\n")
        for name, source in modules.items():
            (self.folder / f"{name}.py").write_text(source)
        files = [f"{name}.py,," for name in modules] + [f"{info.name}/{part},," for part in ("METADATA", "RECORD")]
        (info / "RECORD").write_text("\n".join(files) + "\n")

    def backend(self, name: str, source: str, *, distribution: str | None = None, module: str | None = None) -> None:
        """One distribution with one backend plugin."""
        distribution = distribution or f"{name}-dist"
        module = module or distribution.replace("-", "_")
        self.install(distribution, {module: source}, f"[hardpoint.backends]\n{name} = {module}\n")

    def environment(self, **extra: str) -> dict[str, str]:
        """Variables of a subprocess that sees this site; none of ours leak in."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HARDPOINT_", "VLLM_"))}
        return {
            **kept,
            "PYTHONPATH": str(self.folder),
            "XDG_CACHE_HOME": str(self.folder.parent / "cache"),
            "TORCH_DEVICE_BACKEND_AUTOLOAD": "0",
            "OMP_NUM_THREADS": "1",
            **self.variables,
            **extra,
        }

    def python(self, code: str, **extra: str) -> subprocess.CompletedProcess[str]:
        """Run `code` in a fresh interpreter that sees this site."""
        return self._run([sys.executable, "-c", code], extra)

    def hardpoint(self, *arguments: str, **extra: str) -> subprocess.CompletedProcess[str]:
        """Run the command line as a user would."""
        return self._run([sys.executable, "-m", "hardpoint", *arguments], extra)

    def candidates(self, **extra: str) -> dict[str, list[dict[str, Any]]]:
        """Rows of ``hardpoint list --json`` by name."""
        done = self.hardpoint("list", "--json", **extra)
        rows: dict[str, list[dict[str, Any]]] = {}
        for row in json.loads(done.stdout)["candidates"]:
            rows.setdefault(row["name"], []).append(row)
        return rows

    def _run(self, command: list[str], extra: dict[str, str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            env=self.environment(**extra),
            cwd=self.folder.parent,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

"""The vendor's example: its wheel is built, installed beside ours and beside a broken vendor, and passes the kit."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "vendor-backend"
BROKEN_PYPROJECT = """
[build-system]
requires = ["hatchling>=1.27"]
build-backend = "hatchling.build"
[project]
name = "hardpoint-broken"
version = "3.1"
[project.entry-points."hardpoint.backends"]
broken = "hardpoint_broken"
[tool.hatch.build.targets.wheel]
packages = ["hardpoint_broken"]
"""


def run(*command: str, environment: dict[str, str], code: int | None = 0) -> subprocess.CompletedProcess[str]:
    """Run a command within a deadline; check its exit code unless `code` is None."""
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=280, check=False)
    assert code is None or done.returncode == code, f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def install(project: Path, wheels: Path, site: Path) -> None:
    """Build the wheel of `project` with its own build backend and install it into `site`."""
    hatch = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(wheels / project.name)]
    subprocess.run(hatch, cwd=project, check=True, capture_output=True, timeout=120)
    wheel = next((wheels / project.name).glob("*.whl"))
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(wheel)]
    subprocess.run(pip, check=True, capture_output=True, timeout=120)


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which the example and a broken vendor are installed."""
    scratch = tmp_path_factory.mktemp("vendors")
    copy = scratch / "acme"
    shutil.copytree(EXAMPLE, copy)
    broken = scratch / "broken"
    (broken / "hardpoint_broken").mkdir(parents=True)
    (broken / "pyproject.toml").write_text(BROKEN_PYPROJECT)
    (broken / "hardpoint_broken" / "__init__.py").write_text("import libvendor_sdk_that_is_not_here\n")
    site = scratch / "site"
    for project in (copy, broken):
        install(project, scratch / "wheels", site)
    clean = {key: value for key, value in os.environ.items() if not key.startswith("HARDPOINT_")}
    return {**clean, "PYTHONPATH": str(site), "XDG_CACHE_HOME": str(scratch / "cache"), "OMP_NUM_THREADS": "1"}


def test_the_broken_vendor_is_a_row_with_a_reason_and_the_example_is_available(environment: dict[str, str]) -> None:
    done = run(sys.executable, "-m", "hardpoint", "list", "--json", environment=environment, code=None)
    rows = {row["name"]: row for row in json.loads(done.stdout)["candidates"]}
    assert "libvendor_sdk_that_is_not_here" in rows["broken"]["reason"]
    assert "hardpoint-broken" in json.dumps(rows["broken"])
    assert rows["acme"]["available"] is True
    assert "hardpoint-acme" in json.dumps(rows["acme"])


def test_a_vendors_backend_can_be_chosen_by_name(environment: dict[str, str]) -> None:
    chosen = {**environment, "HARDPOINT_BACKEND": "acme"}
    code = "import hardpoint; b = hardpoint.get_backend(); print(b.info.name, b.dp_rule.multiple_of)"
    assert run(sys.executable, "-c", code, environment=chosen).stdout.split() == ["acme", "tp"]


def test_the_example_passes_the_whole_kit(environment: dict[str, str], tmp_path: Path) -> None:
    files = ["--json", str(tmp_path / "acme.json"), "--report", str(tmp_path / "acme.html")]
    run(sys.executable, "-m", "hardpoint", "conformance", "acme", *files, environment=environment)
    report = json.loads((tmp_path / "acme.json").read_text())
    assert report["totals"]["failed"] == 0
    assert report["totals"]["passed"] > 20
    assert "hardpoint-acme" in (tmp_path / "acme.html").read_text()


def test_the_example_stays_small_enough_to_read() -> None:
    lines = [line for path in (EXAMPLE / "hardpoint_acme").glob("*.py") for line in path.read_text().splitlines()]
    assert sum(bool(line.strip()) for line in lines) <= 300

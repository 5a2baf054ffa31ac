"""What is not imported: start-up time, and vendors' SDKs in a process that chose another backend."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from support.distributions import Site, good

ROOT = Path(__file__).parents[3]
SDK = "raise RuntimeError('the SDK must not be imported')\n"


def test_importing_hardpoint_imports_no_torch() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", "import hardpoint"], capture_output=True, text=True, check=True
    )
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "hardpoint" in imported
    assert not {name for name in imported if name.partition(".")[0] in ("torch", "rich", "numpy", "vllm", "triton")}


def test_choosing_cpu_imports_no_vendor_sdk_and_no_other_plugin(tmp_path: Path) -> None:
    site = Site(tmp_path / "site")
    site.install(
        "vendor-sdk",
        {"torch_vendor": SDK},
        "[torch.backends]\ntorch_vendor = torch_vendor:_autoload\n",
    )
    site.backend("vendor", good("vendor"))
    code = """
import json, sys
import hardpoint
hardpoint.get_backend()
print(json.dumps(sorted(sys.modules)))
"""
    done = site.python(code, HARDPOINT_BACKEND="cpu", TORCH_DEVICE_BACKEND_AUTOLOAD="0")
    modules = set(json.loads(done.stdout))
    assert "hardpoint_cpu.backend" in modules
    others = ("torch_vendor", "vendor_dist", "hardpoint_sim", "hardpoint_cuda", "torch_npu", "vllm", "triton")
    assert not {name for name in modules if name.partition(".")[0] in others}


def test_a_broken_vendor_that_torch_loads_by_itself_is_explained(tmp_path: Path) -> None:
    site = Site(tmp_path / "site")
    entry = "[torch.backends]\ntorch_vendor = torch_vendor:_autoload\n"
    site.install("vendor-sdk", {"torch_vendor": SDK}, entry)
    listed = site.hardpoint("list", "--json", TORCH_DEVICE_BACKEND_AUTOLOAD="1")
    rows = {row["name"]: row for row in json.loads(listed.stdout)["candidates"]}
    for name in ("cuda", "sim"):  # the second one to import torch would see another error, an effect of the first
        assert rows[name]["state"] == "probe failed"
        assert "the backend extension: torch_vendor" in rows[name]["reason"]
    chosen = site.python("import hardpoint; hardpoint.get_backend()", TORCH_DEVICE_BACKEND_AUTOLOAD="1")
    assert "the backend extension: torch_vendor" in chosen.stderr.splitlines()[-1]
    doctor = site.hardpoint("doctor", "--json", TORCH_DEVICE_BACKEND_AUTOLOAD="1", HARDPOINT_BACKEND="off")
    report = json.loads(doctor.stdout)
    (finding,) = [finding for finding in report["findings"] if "`import torch` fails" in finding["what"]]
    assert "vendor-sdk 1.0" in finding["what"]
    assert "TORCH_DEVICE_BACKEND_AUTOLOAD=0" in finding["do"]
    assert doctor.returncode == 1


@pytest.mark.parametrize("package", sorted(path.parent for path in ROOT.glob("backends/*/hardpoint_*/__init__.py")))
def test_own_plugins_import_only_hardpoint_and_the_standard_library(package: Path) -> None:
    """The reason why they are not tried in a child process first."""
    allowed = sys.stdlib_module_names | {"hardpoint"}
    tree = ast.parse((package / "__init__.py").read_text())
    for node in tree.body:
        if isinstance(node, ast.Import):
            assert {alias.name.partition(".")[0] for alias in node.names} <= allowed
        elif isinstance(node, ast.ImportFrom):
            assert (node.module or "").partition(".")[0] in allowed

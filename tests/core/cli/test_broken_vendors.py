"""Vendors' packages that are wrong in every way at once: each is named, none is imported, nothing else breaks."""

from __future__ import annotations

import json
from pathlib import Path

from support.distributions import Site

ENDS_THE_PROCESS = "import os\nprint('imported', flush=True)\nos._exit(77)\n"  # as ipex does beside another torch


def test_they_are_named_and_nothing_else_breaks(tmp_path: Path) -> None:
    site = Site(tmp_path / "site", {"HARDPOINT_BACKEND": "cpu"})
    for name, version, requires in (
        ("torch-npu", "2.4.0", ("torch==2.4.0",)),
        ("intel-extension-for-pytorch", "2.8.0", ()),
        ("vllm-ascend", "0.23.0", ("torch==2.10.0", "torch-npu==2.10.0.post4")),
        ("vllm-xpu-kernels", "0.1.16.2", ()),
    ):
        site.install(name, {name.replace("-", "_"): ENDS_THE_PROCESS}, "", version=version, requires=requires)
    lost = site.folder / "vllm_xpu_kernels-0.1.16.2.dist-info/RECORD"
    lost.write_text("vllm_xpu_kernels/_C.abi3.so,,1000\n")

    code = """
import json, sys
from hardpoint import get_backend
from hardpoint.cli.doctor.vendors import vendors
from hardpoint.cli.vendors import Machine
section = vendors(Machine(), ())
wrong = {"torch_npu", "intel_extension_for_pytorch", "vllm_ascend", "vllm_xpu_kernels"} & set(sys.modules)
print(json.dumps({"backend": get_backend().info.name, "rows": dict(section.rows), "imported": sorted(wrong),
                  "findings": [[f.severity, f.what] for f in section.findings]}))
"""
    done = site.python(code)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["backend"] == "cpu"
    assert found["imported"] == []
    assert found["rows"]["npu"].startswith("wrong torch version: torch-npu 2.4.0 requires torch==2.4.0, found torch ")
    assert {severity for severity, _what in found["findings"]} == {"error"}
    said = " ".join(what for _severity, what in found["findings"])
    assert "intel-extension-for-pytorch 2.8.0 is installed beside torch" in said
    assert "vllm-xpu-kernels is half installed: vllm_xpu_kernels/_C.abi3.so is missing" in said
    assert "vllm-ascend 0.23.0 requires torch==2.10.0, found torch " in said

    listed = site.hardpoint("list", "--json")
    assert listed.returncode == 0, listed.stderr
    report = json.loads(listed.stdout)
    assert report["chosen"] == "cpu"
    assert {row["vendor"]: row["state"] for row in report["vendors"]}["npu"] == "wrong torch version"

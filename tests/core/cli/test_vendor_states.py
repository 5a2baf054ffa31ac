"""Which of the things that can be wrong with a vendor's stack is told, on file trees of machines that have it."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

from hardpoint.cli.doctor.section import DoctorSection
from hardpoint.cli.doctor.vendors import vendors
from hardpoint.cli.list_command import asked
from hardpoint.cli.vendors import VENDORS, Machine, VendorState, Verdict, companions_in_trouble, judge
from hardpoint.cli.vendors.versions import fits

XPU, NPU = VENDORS


@dataclass
class Tree:
    """A machine under construction."""

    root: Path

    def file(self, path: str, text: str = "") -> Path:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    def install(self, name: str, version: str, *requires: str, files: dict[str, str] | None = None) -> None:
        """A distribution with metadata and a record of its files."""
        package = name.replace("-", "_")
        files = {f"{package}/__init__.py": "raise SystemExit('imported')", **(files or {})}
        for path, text in files.items():
            self.file(f"site/{path}", text)
        info = f"site/{package}-{version}.dist-info"
        lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
        self.file(f"{info}/METADATA", "\n".join([*lines, *(f"Requires-Dist: {line}" for line in requires)]) + "\n")
        self.file(f"{info}/RECORD", "".join(f"{path},,{len(text)}\n" for path, text in files.items()))

    def torch(self, version: str, xpu: str | None = None) -> None:
        text = f"cuda: Optional[str] = None\nxpu: Optional[str] = {xpu!r}\n"
        self.install("torch", version, files={"torch/version.py": text})

    def intel_gpu(self, *, node: bool = True) -> None:
        self.file("sys/bus/pci/devices/0000:03:00.0/vendor", "0x8086\n")
        self.file("sys/bus/pci/devices/0000:03:00.0/class", "0x030000\n")
        if node:
            self.file("dev/dri/renderD128")
            self.file("sys/class/drm/renderD128/device/vendor", "0x8086\n")

    def npus(self, count: int, *, node: bool = True) -> None:
        for index in range(count):
            self.file(f"sys/bus/pci/devices/0000:{index}1:00.0/vendor", "0x19e5\n")
            self.file(f"sys/bus/pci/devices/0000:{index}1:00.0/class", "0x120000\n")
            if node:
                self.file(f"dev/davinci{index}")
                self.file("dev/davinci_manager")

    def machine(self, **environment: str) -> Machine:
        path = [str(self.root / "site")]

        def distribution(name: str) -> importlib.metadata.Distribution | None:
            return next(iter(importlib.metadata.distributions(name=name, path=path)), None)

        return Machine(self.root, environment, distribution, path, ())


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


@pytest.fixture
def arc(tree: Tree) -> Tree:
    """An Intel GPU with all that it needs."""
    tree.torch("2.14.0+xpu", "20260000")
    tree.intel_gpu()
    tree.file("usr/lib/x86_64-linux-gnu/libze_loader.so.1")
    tree.file("usr/lib/x86_64-linux-gnu/libze_intel_gpu.so.1")
    return tree


@pytest.fixture
def atlas(tree: Tree) -> Tree:
    """Two NPUs with all that they need."""
    tree.torch("2.14.0+cpu")
    tree.install("torch-npu", "2.14.0", "torch==2.14.0.*", files={"torch_npu/lib/libtorch_npu.so": "x" * 100})
    tree.npus(2)
    tree.file("usr/local/Ascend/driver/lib64/driver/libascend_hal.so")
    tree.file("opt/cann/lib64/libascendcl.so")
    return tree


def npu(tree: Tree, **environment: str) -> Verdict:
    return judge(NPU, tree.machine(LD_LIBRARY_PATH=f"{tree.root}/opt/cann/lib64", **environment))


def told(verdict: Verdict, state: VendorState, reason: str, do: str) -> None:
    assert verdict.state is state, verdict
    assert reason in verdict.reason
    assert do in verdict.do


def test_a_complete_machine_lacks_nothing(arc: Tree) -> None:
    told(judge(XPU, arc.machine()), VendorState.READY, "1 Intel GPU", "")


def test_a_complete_atlas_lacks_nothing(atlas: Tree) -> None:
    told(npu(atlas), VendorState.READY, "2 Ascend NPUs", "")
    assert npu(atlas, ASCEND_RT_VISIBLE_DEVICES="1").state is VendorState.READY


def test_an_empty_machine_concerns_nobody(tree: Tree) -> None:
    tree.torch("2.14.0+cpu")
    verdicts = [judge(vendor, tree.machine()) for vendor in VENDORS]
    assert [v.state for v in verdicts] == [VendorState.NO_PACKAGE] * 2
    assert not any(v.concerns for v in verdicts)
    assert vendors(tree.machine(), ()).findings == ()
    (finding,) = vendors(tree.machine(), ("npu",)).findings
    assert finding.severity == "error"
    assert finding.what == "npu: package missing: torch-npu is not installed."


def test_package_missing(arc: Tree) -> None:
    arc.torch("2.14.0+cpu")
    for old in (arc.root / "site").glob("torch-2.14.0+xpu*"):
        (old / "METADATA").unlink()
        (old / "RECORD").unlink()
        old.rmdir()
    verdict = judge(XPU, arc.machine())
    told(verdict, VendorState.NO_PACKAGE, "(2.14.0+cpu) is built without xpu; 1 Intel GPU is here", "xpu builds")
    assert verdict.concerns
    arc.npus(1)
    told(
        npu(arc),
        VendorState.NO_PACKAGE,
        "torch-npu is not installed; 1 Ascend NPU is here",
        "pip install the torch-npu",
    )


@pytest.mark.parametrize(
    ("torch", "sdk", "requires", "reason"),
    [
        (
            "2.13.0+cpu",
            "2.14.0",
            "torch==2.14.0.*",
            "torch-npu 2.14.0 requires torch==2.14.0.*, found torch 2.13.0+cpu",
        ),
        ("2.12.1", "2.12.0.post3", "torch ==2.12.0", "requires torch==2.12.0, found torch 2.12.1"),
        ("2.13.0", "2.12.0", "numpy", "torch-npu 2.12.0 is built for torch 2.12, found torch 2.13.0"),
    ],
)
def test_wrong_torch_version(tree: Tree, torch: str, sdk: str, requires: str, reason: str) -> None:
    tree.torch(torch)
    tree.install("torch-npu", sdk, requires)
    tree.npus(1)
    told(npu(tree), VendorState.WRONG_TORCH, reason, "torch")


def test_a_requirement_with_a_local_part_is_met_by_that_build() -> None:
    """torch-npu 2.11.0.post3 requires ``torch ==2.11.0+cpu``."""
    assert fits("2.11.0+cpu", SpecifierSet("==2.11.0+cpu"))
    assert fits("2.14.0+cpu", SpecifierSet("==2.14.0.*"))
    assert not fits("2.11.0", SpecifierSet("==2.11.0+cpu"))
    assert not fits("torn", SpecifierSet("==2.11.0"))


def test_half_installed(atlas: Tree) -> None:
    library = atlas.root / "site/torch_npu/lib/libtorch_npu.so"
    library.write_text("x" * 40)
    told(
        npu(atlas), VendorState.HALF_INSTALLED, "libtorch_npu.so has 40 bytes, its record says 100", "--force-reinstall"
    )
    library.unlink()
    told(npu(atlas), VendorState.HALF_INSTALLED, "libtorch_npu.so is missing", "--force-reinstall")
    info = atlas.root / "site/torch_npu-2.14.0.dist-info"
    (info / "RECORD").unlink()
    told(npu(atlas), VendorState.HALF_INSTALLED, "record of torch-npu's files is missing", "--force-reinstall")
    (info / "METADATA").unlink()
    info.rmdir()
    told(npu(atlas), VendorState.HALF_INSTALLED, "site/torch_npu is there, but no metadata", "--force-reinstall")
    assert npu(atlas).concerns


def test_driver_absent(atlas: Tree) -> None:
    (atlas.root / "usr/local/Ascend/driver/lib64/driver/libascend_hal.so").unlink()
    told(
        npu(atlas),
        VendorState.NO_DRIVER,
        "2 Ascend NPUs, but libascend_hal.so cannot be found",
        "Ascend driver and CANN",
    )
    for node in (atlas.root / "dev").iterdir():
        node.unlink()
    told(
        npu(atlas),
        VendorState.NO_DRIVER,
        "2 Ascend NPUs on the PCI bus (0000:01:00.0, 0000:11:00.0)",
        "--device /dev/davinci0",
    )


def test_driver_absent_for_intel(arc: Tree) -> None:
    (arc.root / "usr/lib/x86_64-linux-gnu/libze_intel_gpu.so.1").unlink()
    told(judge(XPU, arc.machine()), VendorState.NO_DRIVER, "libze_intel_gpu.so cannot be found", "Level Zero loader")


def test_no_device(atlas: Tree) -> None:
    for top in ("dev", "sys"):
        for path in sorted((atlas.root / top).rglob("*"), reverse=True):
            path.unlink() if path.is_file() else path.rmdir()
    verdict = npu(atlas)
    told(verdict, VendorState.NO_DEVICE, "no Ascend NPU is on the PCI bus", "Ascend Docker Runtime")
    assert verdict.concerns  # torch-npu is installed: somebody expects one


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("", "hides every device"),
        ("-1", "hides every device"),
        ("2", "there are 2 devices, numbered from 0"),
        ("1,0", "does not ascend; torch_npu sees no device then"),
        ("0-1", "'0-1' is a range"),
    ],
)
def test_device_invisible_by_its_variable(atlas: Tree, value: str, reason: str) -> None:
    told(
        npu(atlas, ASCEND_RT_VISIBLE_DEVICES=value), VendorState.INVISIBLE, reason, "Correct ASCEND_RT_VISIBLE_DEVICES"
    )


def test_device_invisible_by_its_rights(arc: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, _mode: "renderD" not in str(path))
    told(judge(XPU, arc.machine()), VendorState.INVISIBLE, "may not open", "group render")


@pytest.fixture
def holder(atlas: Tree) -> Iterator[int]:
    """A process that has the first NPU's node open."""
    code = "import sys; file = open(sys.argv[1]); print('open', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", code, str(atlas.root / "dev/davinci0")]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        assert process.stdout.readline() == "open\n"
        yield process.pid
    finally:
        process.stdin.close()
        process.wait(30)
        process.stdout.close()


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="this system does not show what processes have open")
def test_device_busy(atlas: Tree, holder: int) -> None:
    (atlas.root / "proc").symlink_to("/proc")
    verdict = npu(atlas)
    told(verdict, VendorState.BUSY, f"dev/davinci0 is open in process {holder} (", "ASCEND_RT_VISIBLE_DEVICES")
    section = vendors(atlas.machine(LD_LIBRARY_PATH=f"{atlas.root}/opt/cann/lib64"), ("npu",))
    assert [finding.severity for finding in section.findings] == ["note"]


def troubles(tree: Tree) -> list[str]:
    return [t.what for vendor in VENDORS for t in companions_in_trouble(vendor, tree.machine())]


def test_companions_that_do_not_fit(arc: Tree) -> None:
    arc.install("intel-extension-for-pytorch", "2.8.0")
    arc.install("vllm-ascend", "0.23.0", "torch==2.10.0", "torch-npu==2.10.0.post4", "numpy<2")
    arc.install("vllm-xpu-kernels", "0.1.16.2", files={"vllm_xpu_kernels/_C.abi3.so": "x"})
    (arc.root / "site/vllm_xpu_kernels/_C.abi3.so").unlink()
    ipex, kernels, ascend = troubles(arc)
    assert "intel-extension-for-pytorch 2.8.0 is installed beside torch 2.14.0+xpu; its last releases end" in ipex
    assert kernels == "vllm-xpu-kernels is half installed: vllm_xpu_kernels/_C.abi3.so is missing."
    assert ascend == (
        "vllm-ascend 0.23.0 requires torch==2.10.0, found torch 2.14.0+xpu; "
        "torch-npu==2.10.0.post4, which is not installed."
    )
    section: DoctorSection = vendors(arc.machine(), ())
    assert [finding.severity for finding in section.findings] == ["error"] * 3
    assert "pip uninstall intel-extension-for-pytorch" in section.findings[0].do


def test_companions_that_fit(tree: Tree) -> None:
    tree.torch("2.8.0+xpu", "2025")
    tree.install("intel-extension-for-pytorch", "2.8.0")
    assert troubles(tree) == []


def test_names_that_the_variable_asks_for() -> None:
    assert asked({"HARDPOINT_BACKEND": "ascend,xpu,cpu"}) == ("npu", "xpu", "cpu")
    assert asked({}) == asked({"HARDPOINT_BACKEND": "auto"}) == asked({"HARDPOINT_BACKEND": ",,"}) == ()


def test_list_says_it() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "hardpoint", "list", "--json"],
        env={**os.environ, "HARDPOINT_BACKEND": "cpu", "TORCH_DEVICE_BACKEND_AUTOLOAD": "0"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    found = json.loads(done.stdout)
    states = {row["vendor"]: row["state"] for row in found["vendors"]}
    assert set(states) == {"xpu", "npu"}
    assert set(states.values()) <= {state.value for state in VendorState}

"""The kit inside pytest, run as a vendor runs it: by package name, and from the vendor's own conftest."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.faulty_backends import exits, id_of, passes, raises

TESTS = Path(__file__).resolve().parents[2]
PASSED, NOT_CLAIMED, NOT_APPLICABLE = (
    "dp_rule.plans-are-pure",
    "graphs.kernels-stay-loaded",
    "launcher.device-from-tensors",
)
BY_NAME = ("--pyargs", "hardpoint.conformance", "-p", "hardpoint.conformance.plugin")
CONFTEST = 'pytest_plugins = ["hardpoint.conformance.plugin"]\n'
INI = "[pytest]\nhardpoint_factory = support.faulty_backends:one_fault\nhardpoint_known_failures = known\n"


def run(folder: Path, *arguments: str, code: int) -> str:
    """Run pytest in `folder` and give what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(TESTS), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


def test_laws_are_items_and_what_is_skipped_says_why(tmp_path: Path) -> None:
    chosen = " or ".join((PASSED, NOT_CLAIMED, NOT_APPLICABLE))
    printed = run(tmp_path, *BY_NAME, "--backend=cpu", "-k", chosen, "-v", code=0)
    assert f"{PASSED} PASSED" in printed
    assert f"{NOT_CLAIMED} SKIPPED (not claimed: the backend does not declare graph)" in printed
    assert f"{NOT_APPLICABLE} SKIPPED (not applicable: needs 2 devices, 1 visible)" in printed
    assert "hardpoint conformance: cpu, seed 0" in printed
    assert f"not claimed: the backend does not declare graph: {NOT_CLAIMED}" in printed
    assert "1 passed, 2 skipped" in printed


def test_without_a_backend_it_says_how_to_name_one(tmp_path: Path) -> None:
    assert "which backend? Give --backend=NAME" in run(tmp_path, *BY_NAME, code=2)


@pytest.fixture
def vendor(tmp_path: Path) -> Path:
    """A vendor's tests: a two-line conftest, an ini file that names the backend, and a test of the vendor's own."""
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "conftest.py").write_text(CONFTEST)
    (tmp_path / "tests" / "test_own.py").write_text("def test_own():\n    pass\n")
    (tmp_path / "pytest.ini").write_text(INI)
    return tmp_path


def test_a_vendors_conftest_brings_the_laws_beside_the_vendors_tests(vendor: Path) -> None:
    (vendor / "known").write_text(f"{id_of(passes)} ticket 8\n{id_of(exits)} ticket 9\n")
    chosen = " or ".join(("test_own", PASSED, *(id_of(case) for case in (raises, exits, passes))))
    printed = run(vendor, "tests", "-k", chosen, "-v", "-rx", code=1)
    assert "tests/test_own.py::test_own PASSED" in printed
    assert f"tests/conftest.py::{PASSED} PASSED" in printed
    assert "law:   What the vendor says." in printed
    assert "found: RuntimeError: ACME error 17" in printed
    rerun = f"hardpoint conformance --factory support.faulty_backends:one_fault --law {id_of(raises)} --seed 0"
    assert f"rerun: {rerun}" in printed
    # An entry of the known-failures file whose law passes has to go.
    assert f"lists {id_of(passes)}, but it passes now" in printed
    # One whose law still fails is an expected failure.
    assert "ticket 9 (found: SystemExit: the vendor's licence has expired)" in printed
    assert "2 failed, 2 passed" in printed and "1 xfailed" in printed


def test_a_conftest_that_does_not_ask_for_the_kit_brings_no_laws(vendor: Path) -> None:
    (vendor / "known").write_text("")
    (vendor / "tests" / "conftest.py").write_text("")
    printed = run(vendor, "tests", "-p", "hardpoint.conformance.plugin", code=0)
    assert "1 passed" in printed and "hardpoint conformance" not in printed

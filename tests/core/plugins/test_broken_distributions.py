"""Every way in which an installed plugin can be broken: a row with a reason, within the deadline, and never a crash."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from support.distributions import Site, good

DEADLINE = 6.0
IN_TRIAL_ONLY = "import os\nassert 'HARDPOINT_IN_TRIAL' in os.environ, 'imported outside of the trial'\n"


def instead(name: str, hook_returns: str, does: str) -> str:
    """A good plugin that does `does` where it would return `hook_returns`."""
    source = good(name)
    assert hook_returns in source
    return source.replace(hook_returns, f"{does}; {hook_returns}")


# name: (source, state, words of the reason)
BROKEN: dict[str, tuple[str, str, str]] = {
    "raises": (
        "import libvendor_sdk_that_is_not_here\n",
        "fails to load",
        "fails when imported: ModuleNotFoundError: No module named 'libvendor_sdk_that_is_not_here'",
    ),
    "exits": (IN_TRIAL_ONLY + "raise SystemExit(3)\n", "fails to load", "calls sys.exit(3)"),
    "vanishes": (IN_TRIAL_ONLY + "os._exit(0)\n", "fails to load", "ends the process when imported (exit status 0)"),
    "aborts": (IN_TRIAL_ONLY + "os.abort()\n", "fails to load", "crashes the interpreter when imported (SIGABRT)"),
    "segfaults": (
        IN_TRIAL_ONLY + "import ctypes\nctypes.string_at(0)\n",
        "fails to load",
        "crashes the interpreter when imported (SIGSEGV)",
    ),
    "hangs": (IN_TRIAL_ONLY + "import time\ntime.sleep(600)\n", "fails to load", "hangs when imported"),
    "recurses": ("import hardpoint\nhardpoint.get_backend()\n", "fails to load", "may not choose or list backends"),
    "syntax": ("def\n", "fails to load", "SyntaxError"),
    "future": (good("future", more=", api=(2, 0)"), "wrong API version", "built for plugin API 2.0"),
    "newer": (good("newer", more=", api=(1, 99)"), "wrong API version", "upgrade hardpoint"),
    "typo": (
        good("typo").replace("def hardpoint_probe", "def hardpoint_prob"),
        "fails to load",
        "does not have: hardpoint_prob (did you mean hardpoint_probe?)",
    ),
    "unmarked": (
        good("unmarked").replace("@hookimpl\ndef hardpoint_probe", "def hardpoint_probe"),
        "fails to load",
        "hardpoint_probe lacks @hardpoint.hookimpl",
    ),
    "argument": (good("argument").replace("(options)", "(options, chip)"), "fails to load", "Argument(s) {'chip'}"),
    "futurehook": (
        good("futurehook", more=", api=(2, 0)").replace("(options)", "(options, chip)"),
        "wrong API version",
        "built for plugin API 2.0",
    ),
    "garbage": (instead("garbage", "return BackendInfo(", "return 'x'"), "fails to load", "returned 'x' (str)"),
    "badapi": (good("badapi", more=", api='1.0'"), "fails to load", "api should be two integers"),
    "inforaises": (
        instead("inforaises", "return BackendInfo(", "1/0"),
        "fails to load",
        "hardpoint_info raises: ZeroDivisionError",
    ),
    "misnamed": (good("other"), "fails to load", "name is 'other', the entry point's is 'misnamed'"),
    "proberaises": (
        instead("proberaises", "return Probe(", "1/0"),
        "probe failed",
        "hardpoint_probe raises: ZeroDivisionError",
    ),
    "probeexits": (instead("probeexits", "return Probe(", "raise SystemExit(1)"), "probe failed", "sys.exit(1)"),
    "probecrashes": (
        instead("probecrashes", "return Probe(", "import os; os.abort()"),
        "probe failed",
        "crashes the interpreter in hardpoint_probe (SIGABRT)",
    ),
    "probehangs": (
        instead("probehangs", "return Probe(", "import time; time.sleep(600)"),
        "probe failed",
        "hangs in hardpoint_probe",
    ),
    "probegarbage": (instead("probegarbage", "return Probe(", "return True"), "probe failed", "returned True (bool)"),
    "absent": (good("absent", available=False, reason="/dev/absent is not there"), "no device", "/dev/absent is not"),
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    site = Site(tmp_path_factory.mktemp("broken") / "site", {"HARDPOINT_PROBE_DEADLINE": str(DEADLINE)})
    for name, (source, _, _) in BROKEN.items():
        site.backend(name, source)
    site.backend("fine", good("fine", priority=7))
    site.backend("twice", good("twice"), distribution="twice-one")
    site.backend("twice", good("twice"), distribution="twice-two")
    torn = site.folder / "torn-1.0.dist-info"
    torn.mkdir()
    (torn / "METADATA").write_text("Metadata-Version: 2.1\nName: torn\nVersion: 1.0\n")
    (torn / "entry_points.txt").write_bytes(b"[hardpoint.backends]\n\xff\xfe torn = torn\n")
    return site


@pytest.fixture(scope="module")
def listed(site: Site) -> dict[str, Any]:
    started = time.monotonic()
    rows = site.candidates()
    return {"rows": rows, "seconds": time.monotonic() - started}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_plugin_is_a_row_with_its_reason_and_its_distribution(listed: dict[str, Any], name: str) -> None:
    _, state, words = BROKEN[name]
    (row,) = listed["rows"][name]
    assert row["state"] == state
    assert words in row["reason"]
    assert (row["distribution"], row["version"]) == (f"{name}-dist", "1.0")
    assert not row["available"]


def test_the_others_are_not_disturbed(listed: dict[str, Any]) -> None:
    assert listed["rows"]["fine"][0]["available"]
    assert listed["rows"]["cpu"][0]["available"]


def test_two_distributions_that_claim_a_name_are_both_named(listed: dict[str, Any]) -> None:
    rows = listed["rows"]["twice"]
    assert [row["distribution"] for row in rows] == ["twice-one", "twice-two"]
    for row in rows:
        assert row["state"] == "name claimed twice"
        assert "twice-one 1.0" in row["reason"]
        assert "twice-two 1.0" in row["reason"]


def test_hangs_cost_one_deadline_each_at_most(listed: dict[str, Any]) -> None:
    hanging = 2
    assert listed["seconds"] < (hanging + 1) * DEADLINE + 20


def test_a_torn_metadata_file_is_said_and_hides_nobody(site: Site, listed: dict[str, Any]) -> None:
    done = site.hardpoint("list")
    assert "torn-1.0.dist-info cannot be read: UnicodeDecodeError" in done.stdout
    assert done.returncode == 1


def test_failures_are_remembered_and_tried_again_by_doctor(site: Site, listed: dict[str, Any]) -> None:
    (row,) = site.candidates()["aborts"]
    assert "seen" in row["reason"]
    assert "`hardpoint doctor` tries again" in row["reason"]


def test_a_plugin_that_hangs_only_after_its_trial(tmp_path: Path) -> None:
    """A driver may hang from the second process on; the deadline holds in this process too."""
    site = Site(tmp_path / "site", {"HARDPOINT_PROBE_DEADLINE": "5"})
    later = "import os, time; 'HARDPOINT_IN_TRIAL' in os.environ or time.sleep(600)"
    site.backend("later", instead("later", "return Probe(", later))
    (row,) = site.candidates()["later"]
    assert (row["state"], row["reason"]) == ("probe failed", "hardpoint_probe did not return within 5 s")


def test_an_allow_list_decides_between_two_claims_and_imports_no_other(site: Site) -> None:
    rows = site.candidates(HARDPOINT_PLUGINS="hardpoint, Twice_Two,fin", HARDPOINT_TRACE="1")
    assert [(row["distribution"], row["state"]) for row in rows["twice"]] == [
        ("twice-two", "available"),
        ("twice-one", "not allowed"),
    ]
    assert {row["state"] for name, (row, *_) in rows.items() if name in BROKEN} == {"not allowed"}
    done = site.hardpoint("list", HARDPOINT_PLUGINS="hardpoint, Twice_Two,fin", HARDPOINT_TRACE="1")
    assert "HARDPOINT_PLUGINS lists 'fin', but no installed plugin or distribution is called that" in done.stdout
    imports = [line for line in done.stderr.splitlines() if "import of" in line and line.endswith("...")]
    assert imports, "HARDPOINT_TRACE=1 should show imports"
    assert all("hardpoint" in line.split("import of ")[1] or "twice_two" in line for line in imports)


def test_the_machine_readable_reports_survive_all_of_them(site: Site, listed: dict[str, Any]) -> None:
    done = site.hardpoint("doctor", "--json", HARDPOINT_BACKEND="off", HARDPOINT_PROBE_DEADLINE="2")
    report = json.loads(done.stdout)
    assert report["schema"] == 1
    said = " ".join(finding["what"] for finding in report["findings"])
    for name in BROKEN:
        assert (f"'{name}'" in said) == (name != "absent")
    assert all(finding["do"] for finding in report["findings"])
    assert done.returncode == 1

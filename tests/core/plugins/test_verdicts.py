"""The memory of trials: when it is believed, and that losing it costs time and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.distributions import Site, good

COUNTED = "import pathlib\nwith pathlib.Path({log!r}).open('a') as log: log.write('imported\\n')\n"


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path / "site", {"HARDPOINT_BACKEND": "vendor", "HARDPOINT_PROBE_DEADLINE": "20"})


def counted(tmp_path: Path) -> str:
    return COUNTED.format(log=str(tmp_path / "log")) + good("vendor")


def imports(tmp_path: Path) -> int:
    log = tmp_path / "log"
    return len(log.read_text().splitlines()) if log.exists() else 0


CODE = """
from hardpoint.plugins import Registry
(row,) = Registry().rows("vendor")
print(row.state.value, row.reason)
"""


def test_a_plugin_is_tried_once_until_its_files_change(site: Site, tmp_path: Path) -> None:
    site.backend("vendor", counted(tmp_path))
    assert site.python(CODE).stdout.startswith("available")
    assert imports(tmp_path) == 2, "once in the trial, once here"
    site.python(CODE)
    assert imports(tmp_path) == 3, "remembered"
    site.backend("vendor", counted(tmp_path) + "# edited in place, as in an editable install\n")
    site.python(CODE)
    assert imports(tmp_path) == 5, "changed, so tried again"


@pytest.mark.parametrize("torn", ["", "{", "[]", '{"format": 2}', '{"format": 2, "key": 1, "reason": 1, "time": "x"}'])
def test_a_torn_memory_is_replaced(site: Site, tmp_path: Path, torn: str) -> None:
    site.backend("vendor", counted(tmp_path))
    site.python(CODE)
    (stored,) = (tmp_path / "cache" / "hardpoint" / "plugins").iterdir()
    whole = stored.read_text()
    stored.write_text(torn)
    assert site.python(CODE).stdout.startswith("available")
    assert imports(tmp_path) == 4
    assert stored.read_text().startswith(whole[:20])


def test_a_memory_that_cannot_be_written_is_said_once_and_not_fatal(site: Site, tmp_path: Path) -> None:
    site.backend("vendor", good("vendor"))
    site.backend("second", good("second"))
    (tmp_path / "cache").write_text("a file where the folder should be")
    done = site.python("import hardpoint\nhardpoint.get_backend('auto')")
    assert "have the same priority" in done.stderr, done.stderr
    done = site.python("import hardpoint\nfrom hardpoint.plugins import Registry\nRegistry().candidates()")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("hardpoint cannot remember which plugins are safe to import") == 1
    assert "XDG_CACHE_HOME" in done.stderr


def test_a_repaired_machine_is_believed_by_doctor_at_once(site: Site, tmp_path: Path) -> None:
    sdk = "import pathlib\nassert pathlib.Path({path!r}).exists(), 'the SDK is missing'\n"
    site.backend("vendor", sdk.format(path=str(tmp_path / "sdk")) + good("vendor"))
    assert "the SDK is missing" in site.python(CODE).stdout
    (tmp_path / "sdk").touch()
    assert "the SDK is missing" in site.python(CODE).stdout, "remembered for ten minutes"
    again = CODE.replace("Registry()", "Registry(retry_failures=True)")
    assert site.python(again).stdout.startswith("available")
    assert site.python(CODE).stdout.startswith("available"), "and that is remembered"


def test_a_grandchild_that_stays_behind_is_ended_and_does_not_keep_us(site: Site, tmp_path: Path) -> None:
    source = """
import os, pathlib, subprocess, sys
if 'HARDPOINT_IN_TRIAL' in os.environ:
    stays = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(300)'])
    pathlib.Path({path!r}).write_text(str(stays.pid))
"""
    pid_file = tmp_path / "pid"
    site.backend("vendor", source.format(path=str(pid_file)) + good("vendor"))
    assert site.python(CODE).stdout.startswith("available")  # the helper's own deadline is below 300 s
    assert not running(int(pid_file.read_text()))


def running(pid: int) -> bool:
    """Whether `pid` lives; a zombie that nobody has waited for does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"

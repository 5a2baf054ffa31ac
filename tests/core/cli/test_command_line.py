"""The command line as a user and as a program see it."""

from __future__ import annotations

import json
import sys

import pytest

from support.distributions import Site, good

COMMANDS = """
[hardpoint.commands]
greet = extension:GREET
nothing = extension:NOTHING
broken = extension_that_is_broken:COMMAND
[hardpoint.doctor]
fine = extension:section
broken = extension_that_is_broken:section
hangs = extension:hangs
"""
EXTENSION = """
from hardpoint.cli.command import Command
from hardpoint.cli.doctor import DoctorSection, Finding
from hardpoint.overrides import Override
NOTHING = 7
def add(parser):
    parser.add_argument("--who")
def greet(args):
    print("hello", args.who)
    return 1
GREET = Command("greet", "say hello", add, greet)
def section():
    override = Override("host.f", "patch", "ext.g", "host.f is wrong", ">=1,<2", True, "until 2")
    return DoctorSection("Extension", (("fact", "value"),), (Finding("note", "Something.", "Nothing."),), (override,))
def hangs():
    import time
    time.sleep(600)
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    site = Site(tmp_path_factory.mktemp("cli") / "site", {"HARDPOINT_BACKEND": "cpu"})
    site.backend("vendor", good("vendor"))
    broken = "import a_module_that_is_not_here\n"
    site.install("extension", {"extension": EXTENSION, "extension_that_is_broken": broken}, COMMANDS)
    return site


def test_list(site: Site) -> None:
    done = site.hardpoint("list")
    lines = done.stdout.splitlines()
    assert any(line.startswith("* cpu") for line in lines)
    assert any(line.startswith("  vendor") and "vendor-dist 1.0" in line for line in lines)
    assert "\x1b" not in done.stdout, "plain where it is no terminal"
    assert done.returncode == 0


def test_list_json(site: Site) -> None:
    report = json.loads(site.hardpoint("list", "--json").stdout)
    assert (report["schema"], report["kind"], report["chosen"]) == (1, "list", "cpu")
    (cpu,) = [row for row in report["candidates"] if row["name"] == "cpu"]
    assert cpu["available"]
    assert cpu["api"] == [1, 0]


def test_an_unknown_backend_exits_2_and_lists_every_candidate(site: Site) -> None:
    done = site.hardpoint("info", HARDPOINT_BACKEND="nope")
    assert done.returncode == 2
    assert "HARDPOINT_BACKEND='nope' cannot be used" in done.stderr
    for name in ("cpu", "sim", "vendor", "xpu", "npu"):
        assert f"\n  {name}  " in done.stderr
    assert site.hardpoint("list", HARDPOINT_BACKEND="nope").returncode == 2
    done = site.hardpoint("info", "nope", "--json")
    assert done.returncode == 2
    assert len(json.loads(done.stdout)["candidates"]) >= 5


def test_info(site: Site) -> None:
    done = site.hardpoint("info", "vendor", "--json")
    facts = json.loads(done.stdout)
    assert (facts["schema"], facts["name"], facts["distribution"]) == (1, "vendor", "vendor-dist")
    assert facts["parts"]["device"].endswith("HostDevice")
    assert facts["identity"]["devices"] == [{"logical": 0, "physical": "0", "uuid": None}]
    assert facts["identity"]["problem"] is None
    text = site.hardpoint("info", ZE_AFFINITY_MASK="1", RAY_EXPERIMENTAL_NOSET_ZE_AFFINITY_MASK="1").stdout
    assert "cpu:0" in text
    assert "physical 0" in text
    assert "RAY_EXPERIMENTAL_NOSET_ZE_AFFINITY_MASK  1 (Ray leaves it)" in text
    assert "not claimed" in text
    assert "hardpoint_cpu" in text


@pytest.mark.parametrize(
    ("arguments", "status", "stream", "words"),
    [
        ((), 2, "stdout", "commands:"),
        (("--help",), 0, "stdout", "greet"),
        (("--version",), 0, "stdout", "hardpoint 0."),
        (("nope",), 2, "stderr", "invalid choice: 'nope'"),
        (("list", "--nope"), 2, "stderr", "unrecognized arguments"),
        (("greet", "--who", "you"), 1, "stdout", "hello you"),
        (("greet", "--help"), 0, "stdout", "--who"),
        (
            ("broken",),
            2,
            "stderr",
            "cannot be loaded: extension_that_is_broken:COMMAND (from extension 1.0)",
        ),
        (("nothing",), 2, "stderr", "should be a hardpoint.cli.command.Command, is int"),
        (("conformance", "--help"), 0, "stdout", "laws"),
        (("matrix", "--help"), 0, "stdout", "matrix"),
    ],
)
def test_sub_commands(site: Site, arguments: tuple[str, ...], status: int, stream: str, words: str) -> None:
    done = site.hardpoint(*arguments)
    assert done.returncode == status, done.stderr
    assert words in getattr(done, stream)
    assert "Traceback" not in done.stderr


def test_a_bad_variable_of_ours_is_a_sentence(site: Site) -> None:
    done = site.hardpoint("list", HARDPOINT_PROBE_DEADLINE="soon")
    assert done.returncode == 2
    assert done.stderr.strip().endswith("found 'soon'.")
    assert "Traceback" not in done.stderr


def test_doctor_shows_what_integrations_bring_and_survives_the_broken_ones(site: Site) -> None:
    given = {"HARDPOINT_PROBE_DEADLINE": "2", "HARDPOINT_BAKEND": "x", "HARDPOINT_BACKEND": "off"}
    done = site.hardpoint("doctor", "--json", **given)
    report = json.loads(done.stdout)
    sections = {section["title"]: section for section in report["sections"]}
    assert sections["Extension"]["overrides"][0]["target"] == "host.f"
    assert sections["Versions"]["rows"]["python"].startswith(".".join(map(str, sys.version_info[:2])))
    assert set(sections["Vendors"]["rows"]) == {"xpu", "npu"}
    said = {finding["what"]: finding for finding in report["findings"]}
    assert any("'broken' of extension 1.0" in what and "a_module_that_is_not_here" in what for what in said)
    assert any("'hangs' of extension 1.0" in what and "did not return within 8 s" in what for what in said)
    assert any("HARDPOINT_BAKEND is set" in what and "HARDPOINT_BACKEND" in said[what]["do"] for what in said)
    assert done.returncode == 1

"""`hardpoint conformance` from outside: what it prints, writes and exits with."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from hardpoint.cli.main import main
from hardpoint.conformance.registry import laws
from support.faulty_backends import id_of, passes, raises

ONE_FAULT = ["conformance", "--factory", "support.faulty_backends:one_fault"]
FAULT, FINE = id_of(raises), id_of(passes)


def only(*ids: str) -> list[str]:
    return [word for id in ids for word in ("--law", id)]


def test_a_failure_prints_law_finding_and_a_command_that_reruns_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*ONE_FAULT, *only(FAULT, FINE), "--seed", "9", "--json", str(tmp_path / "a.json")]) == 1
    printed = capsys.readouterr().out
    rerun = next(line.partition("rerun: ")[2] for line in printed.splitlines() if "rerun: " in line)
    assert "law:   What the vendor says." in printed
    assert "found: RuntimeError: ACME error 17" in printed
    assert "broken: 1 failed, 1 passed" in printed
    first = json.loads((tmp_path / "a.json").read_text())
    program, *arguments = shlex.split(rerun)
    assert program == "hardpoint"
    assert main([*arguments, "--json", str(tmp_path / "b.json")]) == 1
    again = json.loads((tmp_path / "b.json").read_text())
    assert [entry["id"] for entry in again["results"]] == [FAULT]
    assert (again["seed"], again["results"][0]["reason"]) == (9, first["results"][0]["reason"])


def test_a_known_failure_is_no_failure_and_an_entry_that_passes_breaks_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known = tmp_path / "known"
    known.write_text(f"{FAULT} ticket 17\n{FINE} ticket 18\n")
    assert main([*ONE_FAULT, *only(FAULT, FINE), "--known-failures", str(known)]) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "found: ticket 17 (found: RuntimeError: ACME error 17)" in said
    assert "broken: 1 known failure, 1 passed" in said
    assert f"problem: the known-failures file lists {FINE}, but it passes now" in said


def test_list_names_every_law_with_its_claim_and_statement(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["conformance", "--list"]) == 0
    printed = capsys.readouterr().out
    said = " ".join(printed.split())
    for law in laws().values():
        about = law.claim.name if law.claim else "required"
        assert f"{law.id} ({about}) {law.statement}" in said


def test_an_unknown_backend_is_an_error_that_lists_the_candidates_and_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["conformance", "nope", "--part", "dp_rule", "--report", str(tmp_path / "nope.html")]) == 2
    said = capsys.readouterr()
    assert all(f"\n  {name} " in said.err for name in ("cpu", "sim", "cuda"))
    assert said.err.count("'nope' is an unknown name") == 1
    data = json.loads((tmp_path / "nope.json").read_text())
    assert (data["available"], data["kept"]) == (False, False)
    assert all("unknown name" in entry["reason"] for entry in data["results"])
    assert "unknown name" in (tmp_path / "nope.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "which backend? Give its name"),
        (["cpu", "--factory", "a:b"], "not both: cpu, a:b"),
        (["cpu", "--part", "dp_rul"], "there is no part 'dp_rul'; known: device, "),
        (["cpu", "--known-failures", "/no/such/file"], "/no/such/file cannot be read"),
        (["--self-test", "--json", "a.json"], "--json cannot be used with --self-test"),
    ],
)
def test_wrong_usage_is_a_sentence_and_exit_code_2(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["conformance", *arguments]) == 2
    assert sentence in capsys.readouterr().err

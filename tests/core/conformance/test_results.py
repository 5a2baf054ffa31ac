"""Reports as JSON: valid against the schema, and the same report when read back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from hardpoint.conformance.files import read_report, write_json
from hardpoint.conformance.results import Report, Status, to_json
from hardpoint.errors import HardpointError
from support.reports import one_of_each, report, result, schema


def validate(data: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator(schema()).validate(data)


def test_the_schema_itself_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(schema())


def test_a_report_with_every_status_is_valid_and_comes_back_equal(tmp_path: Path) -> None:
    made = one_of_each()
    write_json(made, tmp_path / "deep" / "acme.json")
    data = json.loads((tmp_path / "deep" / "acme.json").read_text())
    validate(data)
    assert data["totals"] == dict.fromkeys((status.value for status in Status), 1)
    assert data["kept"] is False
    assert read_report(tmp_path / "deep" / "acme.json") == made


def test_a_report_that_cannot_be_written_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HardpointError, match=r"the report .*file/a\.json cannot be written"):
        write_json(one_of_each(), tmp_path / "file" / "a.json")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: data.update(surprise=1),
        lambda data: data.pop("seed"),
        lambda data: data["results"][1].update(reason=""),  # a failure must say why
        lambda data: data["results"][0].update(status="fine"),
        lambda data: data["results"][0].update(rerun="ask the vendor"),
        lambda data: data.update(results=[]),
    ],
)
def test_the_schema_refuses_what_a_report_must_not_be(spoil: Any) -> None:
    data = to_json(one_of_each())
    spoil(data)
    with pytest.raises(jsonschema.ValidationError):
        validate(data)


@pytest.mark.parametrize(
    ("kept", "made"),
    [
        (True, report(result("device.a"), result("device.b", Status.KNOWN_FAILURE))),
        (True, report(result("device.a", Status.NOT_CLAIMED))),
        (False, report(result("device.a"), result("device.b", Status.FAILED))),
        (False, report(result("device.a"), problems=("an entry has expired",))),
    ],
)
def test_a_backend_is_kept_unless_a_law_failed_or_the_run_has_a_problem(kept: bool, made: Report) -> None:
    assert made.kept is kept


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "cannot be read"),
        ("[]", "found a list"),
        ('{"schema": 7}', "expected a conformance report of schema 1, found schema 7"),
        ('{"schema": 1}', "not a conformance report: KeyError"),
    ],
)
def test_a_file_that_is_no_report_is_named(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "odd.json").write_text(text)
    with pytest.raises(HardpointError, match=rf"odd\.json.*{sentence}"):
        read_report(tmp_path / "odd.json")

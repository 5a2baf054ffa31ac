"""A backend that hangs, crashes, leaves or writes rubbish fails its law with the reason, and nothing else."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jsonschema
import pytest

from hardpoint.cli.main import main
from hardpoint.conformance import LawContext
from hardpoint.conformance import pool as pool_module
from hardpoint.conformance.pool import Job, Pool
from hardpoint.conformance.results import LawResult, Report, Status, to_json
from hardpoint.conformance.runner import run_kit
from hardpoint.conformance.source import BackendSource
from support import faulty_backends
from support.faulty_backends import FAULTS, RANK_FAULTS, id_of
from support.reports import schema

FAULTY = BackendSource("", "support.faulty_backends:backend")
CONTROL = "dp_rule.plans-are-pure"

REASONS = {
    "hangs": "did not end within its deadline of 2 s",
    "hangs_in_c": "did not end within its deadline of 2 s",
    "aborts": "the process was killed by SIGABRT",
    "segfaults": "the process was killed by SIGSEGV",
    "leaves": "the process ended with exit code 0",
    "exits": "SystemExit: the vendor's licence has expired",
    "raises": "RuntimeError: ACME error 17",
    "prints_garbage": "the backend printed 4096 bytes that are not text",
    "closes_descriptors": "stopped answering: the other end closed the channel",
    "writes_into_every_descriptor": "the channel carried something that is no message",
    "a_rank_dies": "rank 1 of 2: the process was killed by SIGKILL; rank 0 of 2: still waiting 3 s after another rank",
    "a_rank_hangs": "rank 1 of 2: it did not end within its deadline of 10 s",
}

BUILD_REASONS = {
    "build_raises": "RuntimeError: no driver, error 35",
    "build_aborts": "the process was killed by SIGABRT",
    "build_hangs": "building the backend took more than 1 s",
    "build_gives_nothing": "should return a Backend or a Subject, returned NoneType",
    "not_there": "has no attribute",
}


@dataclass(frozen=True)
class Ran:
    """One run over every fault, the processes that the faults left behind, and a run per backend without a backend."""

    report: Report
    pids: list[int]
    builds: dict[str, Report]


def alive(pid: int) -> bool:
    """Whether the process runs; one that only waits to be collected by its parent does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """Everything in one pool: starting a worker is what takes the time."""
    folder = tmp_path_factory.mktemp("pids")
    ids = [CONTROL, *(id_of(fault) for fault in (*FAULTS, *RANK_FAULTS, faulty_backends.passes))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(faulty_backends.PIDS, str(folder))
        with Pool(slots=2) as pool:
            report = run_kit(pool, FAULTY, ids=ids, seed=5)
            builds: dict[str, Report] = {}
            for factory in BUILD_REASONS:
                patch.setattr(pool_module, "BUILD_DEADLINE", 1.0 if factory == "build_hangs" else 120.0)
                source = BackendSource("", f"support.faulty_backends:{factory}")
                builds[factory] = run_kit(pool, source, parts=["dp_rule"])
    return Ran(report, [int(path.name) for path in folder.iterdir()], builds)


def of(report: Report, fault: Callable[[LawContext], None]) -> LawResult:
    return next(result for result in report.results if result.id == id_of(fault))


@pytest.mark.parametrize("fault", [*FAULTS, *RANK_FAULTS], ids=lambda fault: fault.__name__)
def test_a_fault_fails_its_law_with_the_reason(ran: Ran, fault: Callable[[LawContext], None]) -> None:
    result = of(ran.report, fault)
    assert result.status is Status.FAILED
    assert REASONS[fault.__name__] in result.reason
    assert result.rerun == f"hardpoint conformance {FAULTY.arguments} --law {result.id} --seed 5"


def test_the_run_goes_on_and_the_other_laws_hold(ran: Ran) -> None:
    report = ran.report
    assert of(report, faulty_backends.passes).status is Status.PASSED
    assert next(result for result in report.results if result.id == CONTROL).status is Status.PASSED
    assert report.count(Status.FAILED) == len(FAULTS) + len(RANK_FAULTS)
    jsonschema.validate(to_json(report), schema())


def test_a_hang_is_shown_with_the_stack_where_it_hangs(ran: Ran) -> None:
    assert "in hangs" in of(ran.report, faulty_backends.hangs).printed


def test_what_a_backend_prints_is_shown_with_the_law(ran: Ran) -> None:
    assert of(ran.report, faulty_backends.closes_descriptors).printed == "closing\n"
    assert "ACME error 17" in of(ran.report, faulty_backends.raises).traceback


def test_nothing_that_a_fault_started_is_left(ran: Ran) -> None:
    pids = ran.pids
    assert len(pids) == 2 * (1 + 2 + 2)  # a rank and its child: one law of one rank, two of two
    end = time.monotonic() + 5
    while (left := [pid for pid in pids if alive(pid)]) and time.monotonic() < end:
        time.sleep(0.05)
    assert left == []


@pytest.mark.parametrize("factory", BUILD_REASONS)
def test_a_backend_that_cannot_be_built_fails_every_law_with_the_reason(ran: Ran, factory: str) -> None:
    report, reason = ran.builds[factory], BUILD_REASONS[factory]
    assert {result.status for result in report.results} == {Status.FAILED}
    assert all(reason in result.reason for result in report.results)
    assert reason in report.problems[0]
    assert report.available and not report.kept
    jsonschema.validate(to_json(report), schema())


def test_the_report_is_written_also_if_nothing_could_be_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--report", str(tmp_path / "acme.html"), "--json", str(tmp_path / "more" / "acme.json")]
    chosen = ["--factory", "support.faulty_backends:build_aborts", "--part", "dp_rule"]
    assert main(["conformance", *chosen, *where]) == 1
    reason = BUILD_REASONS["build_aborts"]
    assert " ".join(capsys.readouterr().out.split()).count(reason) == 1
    data = json.loads((tmp_path / "more" / "acme.json").read_text())
    assert {entry["status"] for entry in data["results"]} == {"failed"}
    assert json.loads((tmp_path / "acme.json").read_text()) == data
    assert reason in (tmp_path / "acme.html").read_text()


def test_the_kit_leaves_no_process_when_its_caller_raises() -> None:
    pids: list[int] = []
    with pytest.raises(KeyError), Pool(slots=1) as pool:
        pool._warm(deque([Job(FAULTY, None)]))
        pids += [worker.pid for worker in pool._idle]
        assert all(alive(pid) for pid in pids)
        raise KeyError("the caller")
    assert pids and not any(alive(pid) for pid in pids)

"""First import of a plugin, in a child process with a deadline: it may exit, hang or crash the interpreter."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from typing import IO, Any

from hardpoint.environment import IN_TRIAL
from hardpoint.plugins.candidate import State
from hardpoint.plugins.claims import Claim

# The child is given our sys.path before it imports anything of ours: a program may have found hardpoint by editing it.
_CODE = "import sys; sys.path[:] = {path!r}; from hardpoint.plugins.child import main; main()"
_WHERE = {
    "start": "before it was imported",
    "import": "when imported",
    "hardpoint_info": "in hardpoint_info",
    "hardpoint_probe": "in hardpoint_probe",
}


@dataclass(frozen=True)
class Verdict:
    """Outcome of a trial.

    Attributes:
        reason: a sentence if the plugin must not be imported in this process, None if it may.
        state: what that makes of the plugin; AVAILABLE stands for "no objection", the probe comes later.
    """

    reason: str | None
    state: State = State.FAILS_TO_LOAD

    @classmethod
    def passed(cls) -> Verdict:
        return cls(None, State.AVAILABLE)


def try_in_child(claim: Claim, deadline: float) -> Verdict:
    """Import `claim` and call its `hardpoint_info` and `hardpoint_probe` in a child, for at most `deadline` seconds."""
    if not sys.executable:
        return Verdict("cannot be tried in a child process: this interpreter does not know its own path")
    with tempfile.TemporaryFile() as report, tempfile.TemporaryFile() as noise:
        # Files, not pipes: a grandchild that keeps a pipe open would keep us waiting for its end.
        child = subprocess.Popen(
            [sys.executable, "-c", _CODE.format(path=sys.path)],
            stdin=subprocess.PIPE,
            stdout=report,
            stderr=noise,
            env={**os.environ, IN_TRIAL: "1"},
            start_new_session=True,
        )
        try:
            _send(child.stdin, {"path": sys.path, "name": claim.name, "value": claim.value})
            status: int | None = child.wait(deadline)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            _end(child)
        lines = _read(report)
        last_words = _last_line(noise)
    return _judge(lines, status, deadline, last_words)


def _judge(lines: list[dict[str, Any]], status: int | None, deadline: float, last_words: str) -> Verdict:
    last = lines[-1] if lines else {"stage": "start"}
    if "error" in last:
        return Verdict(f"fails when imported: {last['error']}")
    if last["stage"] == "done":
        return Verdict.passed()
    where = _WHERE[last["stage"]]
    state = State.PROBE_FAILED if last["stage"] == "hardpoint_probe" else State.FAILS_TO_LOAD
    if status is None:
        return Verdict(f"hangs {where}: it had not come back after {deadline:g} s in a child process", state)
    said = f"; its last line was: {last_words}" if last_words else ""
    if status < 0:
        return Verdict(f"crashes the interpreter {where} ({_signal_name(-status)}){said}", state)
    return Verdict(f"ends the process {where} (exit status {status}){said}", state)


def _send(stream: IO[bytes] | None, job: dict[str, Any]) -> None:
    if stream is None:
        return
    with contextlib.suppress(BrokenPipeError):  # the child died at start: its exit status tells
        stream.write(json.dumps(job).encode())
        stream.close()


def _end(child: subprocess.Popen[bytes]) -> None:
    """Kill the child and what it started; its session is its own."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _read(report: IO[bytes]) -> list[dict[str, Any]]:
    report.seek(0)
    lines = []
    for line in report.read().splitlines():
        try:
            lines.append(json.loads(line))
        except ValueError:
            break  # cut off in the middle by a crash
    return [line for line in lines if isinstance(line, dict) and "stage" in line]


def _last_line(noise: IO[bytes]) -> str:
    noise.seek(0)
    lines = [line.strip() for line in noise.read().decode(errors="replace").splitlines() if line.strip()]
    return lines[-1][:200] if lines else ""


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"

"""``hardpoint report NAME``: list, doctor, info and the conformance kit in one file, to send from such a machine."""

from __future__ import annotations

import argparse
import contextlib
import getpass
import json
import os
import platform
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hardpoint import __version__
from hardpoint.cli.command import FOUND, GOOD, UNUSABLE, Command
from hardpoint.cli.output import SCHEMA, console, print_line
from hardpoint.environment import BACKEND

_TAIL = 20_000  # characters that are kept of what a step printed
_STEPS: dict[str, float] = {"list": 120.0, "doctor": 240.0, "info": 120.0, "conformance": 780.0}


@dataclass(frozen=True)
class Step:
    """One command of the report.

    Attributes:
        name: the sub-command.
        command: what a person would type.
        status: its exit status; None if it was ended by its deadline.
        seconds: how long it took.
        result: the JSON that it wrote, None if it wrote none.
        said: the end of what it printed for people.
    """

    name: str
    command: str
    status: int | None
    seconds: float
    result: Any
    said: str

    @property
    def words(self) -> str:
        """What came of it, for people."""
        if self.status is None:
            return f"ended by its deadline after {self.seconds:.0f} s"
        if self.status < 0:
            return f"ended by signal {-self.status} after {self.seconds:.0f} s"
        meaning = {GOOD: "good", FOUND: "found something", UNUSABLE: "cannot be used"}
        return f"{meaning.get(self.status, 'failed')} (exit status {self.status}) after {self.seconds:.0f} s"


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="backend, such as xpu, npu or cuda")
    parser.add_argument("--out", metavar="F", type=Path, help="file to write (default: hardpoint-NAME-report.json)")
    parser.add_argument("--steps", metavar="A,B", default=",".join(_STEPS), help=f"of {', '.join(_STEPS)}")
    parser.add_argument("--deadline", type=float, default=840.0, help="seconds for all steps together (default 840)")


def _run(args: argparse.Namespace) -> int:
    names = [name.strip() for name in args.steps.split(",") if name.strip()]
    unknown = [name for name in names if name not in _STEPS]
    if unknown or not names:
        print(f"hardpoint: --steps {args.steps!r}: expected some of {', '.join(_STEPS)}.", file=sys.stderr)
        return UNUSABLE
    out = console()
    path: Path = args.out or Path(f"hardpoint-{args.name.replace(':', '-')}-report.json")
    started, steps = time.time(), []
    for name in names:
        left = args.deadline - (time.time() - started)
        step = run_step(name, args.name, min(_STEPS[name], max(left, 1.0)), os.environ)
        steps.append(step)
        print_line(out, f"{name:12} {step.words}")
        write(path, args.name, started, steps)  # after each: what is known survives a machine that hangs
    print_line(out, f"Wrote {path} ({path.stat().st_size // 1024} KiB). Look through it, then attach it to an issue.")
    return GOOD if all(step.status == GOOD for step in steps) else FOUND


def run_step(name: str, backend: str, deadline: float, environment: Mapping[str, str]) -> Step:
    """Run one sub-command in a process of its own, within `deadline` seconds; its children end with it."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "result.json"
        words = {"info": [backend, "--json"], "conformance": [backend, "--json", str(file)]}.get(name, ["--json"])
        chosen = {**environment, BACKEND: backend}
        started = time.monotonic()
        with (Path(folder) / "out").open("w+b") as printed, (Path(folder) / "err").open("w+b") as errors:
            process = subprocess.Popen(
                [sys.executable, "-m", "hardpoint", name, *words],
                env=chosen,
                stdin=subprocess.DEVNULL,
                stdout=printed,
                stderr=errors,
                start_new_session=True,
            )
            status = _wait(process, deadline)
            seconds = time.monotonic() - started
            printed.seek(0)
            errors.seek(0)
            text, noise = printed.read().decode(errors="replace"), errors.read().decode(errors="replace")
        result = _json(file.read_text() if file.exists() else text)
        said = noise if result is not None and not file.exists() else f"{text}\n{noise}"
    command = f"{BACKEND}={backend} hardpoint {' '.join([name, *words])}".replace(str(file), "result.json")
    return Step(name, command, status, seconds, result, said.strip()[-_TAIL:])


def _wait(process: subprocess.Popen[bytes], deadline: float) -> int | None:
    try:
        return process.wait(deadline)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # its own session: nobody else is in that group
        process.wait(30)
        return None


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def write(path: Path, backend: str, started: float, steps: list[Step]) -> None:
    """Write the report, with this machine's name, user and home folder taken out."""
    report = {
        "schema": SCHEMA,
        "kind": "report",
        "backend": backend,
        "hardpoint": __version__,
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
        "seconds": round(time.time() - started, 1),
        "machine": {
            "system": platform.platform(),
            "processor": platform.machine(),
            "python": platform.python_version(),
        },
        "steps": [asdict(step) for step in steps],
    }
    path.write_text(without_names(json.dumps(report, indent=1, default=str)) + "\n")


def without_names(text: str) -> str:
    """`text` without the host's name, the user's name in paths, and the home folder."""
    home = str(Path.home())
    if len(home) > 1:
        text = text.replace(home, "~")
    host = socket.gethostname()
    if len(host) > 3:
        text = text.replace(host, "HOST")
    with contextlib.suppress(OSError, KeyError):
        text = text.replace(f"/home/{getpass.getuser()}", "~")
    return text


COMMAND = Command(
    "report", "run list, doctor, info and the conformance kit, and write one file to send", _arguments, _run
)

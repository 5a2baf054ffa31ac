"""Backends that misbehave in a law: the cpu backend with cases of its own that hang, crash, print garbage or leave."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from hardpoint import Backend, get_backend
from hardpoint.conformance import ExtraCase, LawContext
from hardpoint.conformance.source import Subject

PIDS = "HARDPOINT_TEST_PIDS"  # folder in which a rank leaves its process id, and that of a child, as file names


def _leave_pids() -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    for pid in (os.getpid(), child.pid):
        (Path(os.environ[PIDS]) / str(pid)).touch()


def hangs(context: LawContext) -> None:
    _leave_pids()
    time.sleep(600)


def hangs_in_c(context: LawContext) -> None:
    # Blocks signals first: an end that depends on the process's goodwill would not come.
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGINT])
    reader, _writer = os.pipe()
    os.read(reader, 1)


def aborts(context: LawContext) -> None:
    os.abort()


def segfaults(context: LawContext) -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def leaves(context: LawContext) -> None:
    os._exit(0)


def exits(context: LawContext) -> None:
    sys.exit("the vendor's licence has expired")


def raises(context: LawContext) -> None:
    raise RuntimeError("ACME error 17")


def prints_garbage(context: LawContext) -> None:
    os.write(1, bytes(range(256)) * 16)


def closes_descriptors(context: LawContext) -> None:
    os.write(1, b"closing\n")
    os.closerange(0, 256)
    time.sleep(600)  # else it is a matter of time whether the kit finds a closed channel or a process that has ended


def writes_into_every_descriptor(context: LawContext) -> None:
    for number in range(3, 256):
        with contextlib.suppress(OSError):
            os.set_blocking(number, False)
            os.write(number, b"\xff" * 4096)


def a_rank_dies(context: LawContext) -> None:
    _leave_pids()
    if context.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(600)


def a_rank_hangs(context: LawContext) -> None:
    _leave_pids()
    if context.rank == 1:
        time.sleep(600)


def passes(context: LawContext) -> None:
    context.note("nothing is wrong here")


FAULTS = (
    hangs,
    hangs_in_c,
    aborts,
    segfaults,
    leaves,
    exits,
    raises,
    prints_garbage,
    closes_descriptors,
    writes_into_every_descriptor,
)
RANK_FAULTS = (a_rank_dies, a_rank_hangs)


def id_of(function: object) -> str:
    """Id of the case that `function` is."""
    return f"faults.{getattr(function, '__name__', '').replace('_', '-')}"


def backend() -> Subject:
    """cpu with every fault, each a case, and a case that passes at the end of them all."""
    cases = [ExtraCase(id_of(f), "The backend misbehaves here.", f, deadline=2.0) for f in FAULTS]
    # After a death the other rank is ended long before its deadline; a rank that hangs is ended by it.
    cases += [ExtraCase(id_of(a_rank_dies), "A rank dies here.", a_rank_dies, ranks=(2,), deadline=120.0)]
    cases += [ExtraCase(id_of(a_rank_hangs), "A rank hangs here.", a_rank_hangs, ranks=(2,), deadline=10.0)]
    cases += [ExtraCase(id_of(passes), "Nothing is wrong.", passes, ranks=(1, 4))]
    return Subject(get_backend("cpu"), tuple(cases))


def one_fault() -> Subject:
    """cpu with cases that fail in an ordinary way, and one that passes."""
    cases = [ExtraCase(id_of(f), "What the vendor says.", f) for f in (raises, exits, passes)]
    return Subject(get_backend("cpu"), tuple(cases))


def build_raises() -> Backend:
    raise RuntimeError("no driver, error 35")


def build_aborts() -> Backend:
    os.abort()


def build_hangs() -> Backend:
    time.sleep(600)
    raise AssertionError("not reached")


def build_gives_nothing() -> object:
    return None

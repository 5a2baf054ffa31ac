"""The known-failures file: laws that a backend is known to break, each with a reason. An entry expires when it passes.

# one law per line, then why
communicator.deadline-is-obeyed   the vendor's library ignores it until release 2.4, ticket 1234
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from hardpoint.conformance.results import LawResult, Status
from hardpoint.errors import HardpointError


def read_known_failures(path: Path) -> dict[str, str]:
    """Law id -> reason. HardpointError with file and line for an entry without a reason, or one that is there twice."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise HardpointError(f"the known-failures file {path} cannot be read: {error}") from error
    found: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        entry = line.strip()
        if not entry or entry.startswith("#"):
            continue
        law, *reason = entry.split(maxsplit=1)
        if not reason:
            raise HardpointError(f"{path}:{number}: {law} has no reason; write it behind the law's id")
        if law in found:
            raise HardpointError(f"{path}:{number}: {law} is listed twice")
        found[law] = reason[0]
    return found


def expired(known: Mapping[str, str], results: Iterable[LawResult]) -> list[str]:
    """Sentences for entries that have to go: the law passes, was not run, or does not exist.

    Meant for a complete run; in a selection only the laws in it can be judged, so pass only their entries.
    """
    status = {result.id: result.status for result in results}
    sentences: list[str] = []
    for law in known:
        if law not in status:
            sentences.append(f"the known-failures file lists {law}, but there is no such law; remove the entry")
        elif status[law] is Status.PASSED:
            sentences.append(f"the known-failures file lists {law}, but it passes now; remove the entry")
        elif status[law] in (Status.NOT_CLAIMED, Status.NOT_APPLICABLE):
            sentences.append(f"the known-failures file lists {law}, but it is {status[law].value}; remove the entry")
    return sentences

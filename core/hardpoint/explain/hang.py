"""Why a collective hangs, from the flight records of all ranks of a group."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hardpoint.communicator.recorder import FAILED, KIND, SCHEMA
from hardpoint.explain.explanation import Explanation, Origin
from hardpoint.probe.report import UnreadableReport

_COLUMNS = ("group", "rank", "last call", "op and form", "state", "seconds ago", "where the main thread is")
_APART = 900.0  # seconds: ranks of one hang write within a deadline of each other
_OURS = ("/hardpoint/communicator/", "/threading.py", "/multiprocessing/")


@dataclass(frozen=True)
class Call:
    """One call of one rank."""

    sequence: int
    op: str
    form: str
    state: str
    entered: float

    @property
    def text(self) -> str:
        return f"{self.op} {self.form}".rstrip()


@dataclass(frozen=True)
class Record:
    """What one rank wrote.

    Attributes:
        calls: by sequence number.
        written: when, seconds since the epoch.
        why: it was written.
        at: innermost frames of its main thread, outermost of them first.
    """

    group: str
    rank: int
    world_size: int
    pid: int
    host: str
    written: float
    why: str
    calls: dict[int, Call]
    at: tuple[str, ...]

    @property
    def last(self) -> Call | None:
        """The call that it entered last."""
        return self.calls[max(self.calls)] if self.calls else None

    @property
    def frame(self) -> str:
        """Where its main thread is, outside of the communicator."""
        own = [frame for frame in self.at if not any(part in frame for part in _OURS)]
        return (own or list(self.at) or ["not recorded"])[-1]


def read_record(data: Mapping[str, Any], source: str) -> Record:
    """The record in `data`, read from `source`.

    Raises:
        UnreadableReport: another kind, a newer schema, or fields that are missing.
    """
    if data.get("kind") != KIND or data.get("schema") != SCHEMA:
        raise UnreadableReport(
            f"{source} should be a {KIND} of schema {SCHEMA}, is {data.get('kind')!r} of {data.get('schema')!r}."
        )
    try:
        calls = [
            Call(int(c["sequence"]), str(c["op"]), str(c["form"]), str(c["state"]), float(c["entered"]))
            for c in data["calls"]
        ]
        return Record(
            group=str(data["group"]),
            rank=int(data["rank"]),
            world_size=int(data["world_size"]),
            pid=int(data["pid"]),
            host=str(data["host"]),
            written=float(data["written"]),
            why=str(data["why"]),
            calls={call.sequence: call for call in calls},
            at=tuple(map(str, data.get("threads", {}).get("MainThread", ()))),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UnreadableReport(f"{source} is no record that this hardpoint can read: {error!r}.") from error


def explain_hang(records: Sequence[Record]) -> Explanation:
    """Per group, the first call at which the ranks part, and how."""
    groups: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        groups[record.group].append(record)
    origins: list[Origin] = []
    unproven: list[str] = []
    for group, members in sorted(groups.items()):
        ranks = {record.rank: record for record in sorted(members, key=lambda record: record.written)}
        found = _origin(group, ranks)
        if found is not None:
            origins.append(found)
        missing = sorted(set(range(members[0].world_size)) - set(ranks))
        if missing:
            who = "rank " + ", ".join(map(str, missing))
            unproven.append(
                f"No record of {who} of group {group!r}: it died without a word, ran without HARDPOINT_RECORDS, "
                "or its file is not here. What it was in can only be told from the others."
            )
        times = [record.written for record in ranks.values()]
        if max(times) - min(times) > _APART:
            oldest = min(ranks.values(), key=lambda record: record.written)
            unproven.append(
                f"The records of group {group!r} were written up to {max(times) - min(times):.0f} s apart, that of "
                f"rank {oldest.rank} (pid {oldest.pid}) first: it may be of an earlier run. Empty the folder before "
                "each run."
            )
    if len({record.host for record in records}) > 1:
        unproven.append("The records come from several hosts: times of different ranks are as good as their clocks.")
    if records:
        unproven.append("A record holds the last calls of a rank: what parted the ranks before is not in it.")
    summary = "; ".join(origin.title for origin in origins) or "No group in which the ranks part"
    rows = tuple(_row(record) for record in sorted(records, key=lambda record: (record.group, record.rank)))
    return Explanation("hang", f"{summary}.", tuple(origins), (), tuple(unproven), (), _COLUMNS, rows)


def _origin(group: str, ranks: Mapping[int, Record]) -> Origin | None:
    """The earliest of: ranks disagree about a number; a rank did not come to a call that others are in."""
    known = [set(record.calls) for record in ranks.values()]
    for sequence in sorted(set.union(*known) if known else set()):
        here = {rank: record.calls[sequence] for rank, record in ranks.items() if sequence in record.calls}
        texts = {call.text for call in here.values()}
        if len(texts) > 1:
            return _disagreement(group, sequence, here, ranks)
        # A rank that has later calls has merely forgotten this one.
        absent = [
            rank
            for rank, record in ranks.items()
            if sequence not in record.calls and max(record.calls, default=-1) < sequence
        ]
        if absent and here:
            return _absence(group, sequence, here, absent, ranks)
    failed = [
        (call.sequence, rank, call)
        for rank, record in ranks.items()
        for call in record.calls.values()
        if call.state == FAILED
    ]
    if failed:
        sequence, rank, call = min(failed)
        silent = sorted(set(range(next(iter(ranks.values())).world_size)) - set(ranks))
        who = f"rank {', '.join(map(str, silent))}" if silent else "no rank"
        return Origin(
            f"call {sequence} of {group!r} ({call.text}) failed on rank {rank}; without a record: {who}",
            (f"rank {rank}: {ranks[rank].why}",),
            "Every rank of a group makes every call.",
            "Look at the ranks without a record first.",
        )
    return None


def _disagreement(group: str, sequence: int, here: Mapping[int, Call], ranks: Mapping[int, Record]) -> Origin:
    said = [
        f"rank {rank} calls {call.text} as number {sequence}, at {ranks[rank].frame}" for rank, call in here.items()
    ]
    what, advice = _how(sequence, here, ranks)
    return Origin(
        f"ranks of {group!r} disagree about call {sequence}: {what}",
        tuple(said),
        "Every rank of a group makes the same calls in the same order, with the same shapes and dtypes.",
        advice,
    )


def _how(sequence: int, here: Mapping[int, Call], ranks: Mapping[int, Record]) -> tuple[str, str]:
    """Order, op, shape or dtype; and what to do."""
    base, call = next(iter(here.items()))
    for rank, other in here.items():
        if other.text == call.text:
            continue
        after_base, after_other = ranks[base].calls.get(sequence + 1), ranks[rank].calls.get(sequence + 1)
        if after_base is not None and after_base.text == other.text:
            if after_other is not None and after_other.text == call.text:
                return (
                    f"order: ranks {base} and {rank} make {call.text} and {other.text} the other way round",
                    "Issue both in one order on every rank; two streams or threads must not race for a group.",
                )
            return (
                f"order: rank {rank} left out {call.text}, which rank {base} makes first",
                f"Find why rank {rank} skips it: a rank without tokens has to take part with a dummy forward.",
            )
        if after_other is not None and after_other.text == call.text:
            return (
                f"order: rank {base} left out {other.text}, which rank {rank} makes first",
                f"Find why rank {base} skips it: a rank without tokens has to take part with a dummy forward.",
            )
        if other.op != call.op:
            return f"op: {call.op} on rank {base}, {other.op} on rank {rank}", "Compare the two frames above."
        if other.form.partition(" ")[0] != call.form.partition(" ")[0]:
            return (
                f"dtype: {call.form} on rank {base}, {other.form} on rank {rank}",
                "Convert to one dtype before the call.",
            )
        return (
            f"shape: {call.form} on rank {base}, {other.form} on rank {rank}",
            "Pad to one count on all ranks (DpRule.plan), or use the ragged form with the counts of all ranks.",
        )
    return "they differ", ""


def _absence(
    group: str, sequence: int, here: Mapping[int, Call], absent: Sequence[int], ranks: Mapping[int, Record]
) -> Origin:
    call = next(iter(here.values()))
    came = ", ".join(map(str, here))
    evidence = []
    for rank in absent:
        record = ranks[rank]
        last = record.last
        done = f"last made call {last.sequence}, {last.text} ({last.state})" if last is not None else "made no call"
        evidence.append(f"rank {rank} (pid {record.pid} on {record.host}) {done}; its main thread is at {record.frame}")
    waited = max(record.written for record in ranks.values()) - call.entered
    evidence.append(f"rank {came} entered it {waited:.1f} s before the last record was written")
    who = ", ".join(map(str, absent))
    return Origin(
        f"rank {who} of {group!r} did not come to call {sequence}, {call.text}, in which rank {came} waits",
        tuple(evidence),
        "Every rank of a group makes every call; a rank without tokens takes part with a dummy forward (DpRule).",
        f"Look at where rank {who} is: it computes, waits for something else, or has left the loop.",
    )


def _row(record: Record) -> tuple[str, ...]:
    last = record.last
    return (
        record.group,
        str(record.rank),
        "none" if last is None else str(last.sequence),
        "" if last is None else last.text,
        "" if last is None else last.state,
        "" if last is None else f"{record.written - last.entered:.1f}",
        record.frame.rpartition("/")[2],
    )

"""`Report`: what the probe says once per layer kind, phase and rank; a file each, for ``hardpoint explain nan``."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from hardpoint.environment import BadVariable
from hardpoint.errors import HardpointError

SCHEMA = 1
KIND = "nan-report"
PROBE = "HARDPOINT_PROBE"
REPORTS = "HARDPOINT_PROBE_REPORTS"
CHOICES = frozenset({"nan", "mask"})
Finding = Literal["nan", "mask", "batch"]


@dataclass(frozen=True)
class Ranks:
    """Where a process stands; -1 where the group does not exist."""

    dp: int = 0
    tp: int = 0
    pp: int = 0
    ep: int = 0

    def __str__(self) -> str:
        return f"dp_rank {self.dp} (tp {self.tp}, pp {self.pp}, ep {self.ep})"


@dataclass(frozen=True)
class Report:
    """One finding.

    Attributes:
        finding: ``nan`` values that are no numbers; ``mask`` counts of the batch that do not fit each other; ``batch``
            the first batch of a phase, without a fault: what a clean run leaves to compare with.
        ranks: who says it.
        step: number of the step of this process, from 0, warm-up not counted.
        layer: number of the layer in the model, -1 for none.
        layer_kind: ``attention``, ``gdn`` or ``moe``.
        layer_name: as the host calls it.
        where: ``before`` or ``after`` the layer; ``state`` of a GDN layer: what it read of its slots, a row a request.
        phase: prefill, decode or mixed.
        shape: of the scanned tensor, ``[rows, width]``.
        dtype: of it.
        rows: rows with a value that is no number.
        counts: how many in each of these.
        num_actual_tokens, query_start_loc, seq_lens: the batch as its metadata has it.
        input_clean: whether the layer's input had none; None if it was not scanned.
        state_clean: of a GDN layer, whether the state that it read had none; None if that was not scanned.
        faults: sentences about counts that do not fit each other (`check_token_counts`).
    """

    finding: Finding
    ranks: Ranks
    step: int
    phase: str
    num_actual_tokens: int
    query_start_loc: tuple[int, ...]
    seq_lens: tuple[int, ...]
    shape: tuple[int, ...] = ()
    dtype: str = ""
    layer: int = -1
    layer_kind: str = ""
    layer_name: str = ""
    where: str = ""
    rows: tuple[int, ...] = ()
    counts: tuple[int, ...] = ()
    input_clean: bool | None = None
    state_clean: bool | None = None
    faults: tuple[str, ...] = ()

    @property
    def elements(self) -> int:
        """Values that are no numbers."""
        return sum(self.counts)

    @property
    def real(self) -> int:
        """Rows that belong to a request, by `query_start_loc`."""
        return self.query_start_loc[-1] if self.query_start_loc else 0

    @property
    def padding_rows(self) -> tuple[int, ...]:
        """Those of `rows` that belong to no request; slots of state are read for requests alone."""
        return () if self.where == "state" else tuple(row for row in self.rows if row >= self.real)

    @property
    def real_rows(self) -> tuple[int, ...]:
        """Those of `rows` that belong to a request."""
        return self.rows if self.where == "state" else tuple(row for row in self.rows if row < self.real)

    @property
    def place(self) -> str:
        """``after full attention of layer 3``-like words."""
        kind = {"attention": "attention", "gdn": "GDN", "moe": "MoE"}.get(self.layer_kind, self.layer_kind)
        if self.where == "state":
            return f"in the state read by {kind} layer {self.layer}"
        return f"{self.where} {kind} layer {self.layer}" if self.layer >= 0 else self.layer_name

    def as_json(self) -> dict[str, Any]:
        """For the file."""
        return {"schema": SCHEMA, "kind": KIND, **asdict(self)}

    @property
    def file_name(self) -> str:
        """One file per finding, layer kind, phase and rank."""
        ranks = f"dp{self.ranks.dp}-tp{self.ranks.tp}-pp{self.ranks.pp}"
        kind = "-".join(filter(None, (self.finding, self.layer_kind, self.where, self.phase)))
        return f"{ranks}-{kind}.json"

    def write(self, folder: Path) -> Path:
        """Write it into `folder`, unless an earlier one of its kind is there; its path."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / self.file_name
        beside = path.with_suffix(f".{os.getpid()}.part")
        beside.write_text(json.dumps(self.as_json(), indent=1))
        beside.replace(path)
        return path


class UnreadableReport(HardpointError):
    """A file that was given as a report or record is none."""


def read_report(data: Mapping[str, Any], source: str) -> Report:
    """The report in `data`, read from `source`.

    Raises:
        UnreadableReport: it is of another kind, of a newer schema, or fields are missing or of another type.
    """
    if data.get("kind") != KIND:
        raise UnreadableReport(f"{source} should hold a {KIND}, holds kind {data.get('kind')!r}.")
    if data.get("schema") != SCHEMA:
        raise UnreadableReport(f"{source} has schema {data.get('schema')!r}, this hardpoint reads {SCHEMA}.")
    fields = {name: value for name, value in data.items() if name not in ("schema", "kind")}
    try:
        ranks = Ranks(**{name: int(rank) for name, rank in fields.pop("ranks").items()})
        for name in ("query_start_loc", "seq_lens", "shape", "rows", "counts"):
            fields[name] = tuple(int(number) for number in fields.get(name, ()))
        fields["faults"] = tuple(map(str, fields.get("faults", ())))
        return Report(ranks=ranks, **fields)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UnreadableReport(f"{source} is no report that this hardpoint can read: {error!r}.") from error


def wanted(environment: Mapping[str, str] | None = None) -> frozenset[str]:
    """What ``HARDPOINT_PROBE`` asks for: names out of ``nan, mask``; empty if it is unset or ``off``.

    Raises:
        BadVariable: another name.
    """
    text = (os.environ if environment is None else environment).get(PROBE, "").strip().lower()
    names = frozenset(name.strip() for name in text.split(",") if name.strip())
    if names <= {"off", "0"}:
        return frozenset()
    if not names <= CHOICES:
        raise BadVariable(f"{PROBE} should be a list out of {', '.join(sorted(CHOICES))}, or off; found {text!r}.")
    return names


def reports_folder(environment: Mapping[str, str] | None = None) -> Path:
    """Where reports go: ``HARDPOINT_PROBE_REPORTS``, or ``hardpoint-reports`` in the working directory."""
    text = (os.environ if environment is None else environment).get(REPORTS, "").strip()
    return Path(text or "hardpoint-reports")

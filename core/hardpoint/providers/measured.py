"""Tables of what each provider of an op took on a device, shipped as data in ``data/*.json``.

``benchmarks/kernels.py`` writes such a table (providers.json); it is used when it is put beside the others.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from types import MappingProxyType
from typing import Any

# Sizes of a batch, as against sizes of a model: between them the nearest measured one stands for the asked one.
BATCH_SIZES = ("requests", "tokens", "sequences")


@dataclass(frozen=True)
class Measurement:
    """One provider on one shape.

    Attributes:
        op: for example ``gdn_chunk_rule``.
        provider: for example ``hardpoint``, ``vllm``, ``fla``, ``flashinfer``.
        device: name as its runtime says it.
        shape: sizes by name.
        us: median microseconds on the device.
        error: relative error of the output against float64, None if it was not taken.
        date: when.
        how: what a reader has to know about the number, for example "eager calls".
    """

    op: str
    provider: str
    device: str
    shape: Mapping[str, int]
    us: float
    error: float | None = None
    date: str = ""
    how: str = ""


@dataclass(frozen=True)
class Table:
    """Measurements of any number of devices."""

    measurements: Sequence[Measurement] = field(default_factory=tuple)

    def ops(self) -> tuple[str, ...]:
        """Ops that were measured anywhere."""
        return tuple(sorted({m.op for m in self.measurements}))

    def devices(self) -> tuple[str, ...]:
        """Devices that were measured."""
        return tuple(sorted({m.device for m in self.measurements}))

    def names(self, op: str) -> tuple[str, ...]:
        """Names of the sizes that `op` was measured by."""
        return tuple(dict.fromkeys(name for m in self.measurements if m.op == op for name in m.shape))

    def nearest(self, op: str, device: str, shape: Mapping[str, int]) -> tuple[Mapping[str, int], list[Measurement]]:
        """The measured shape that stands for `shape` on `device`, and all measurements of it; empty if there is none.

        Sizes of the model have to agree; among sizes of the batch the nearest is taken, by ratio.
        """
        fitting = [
            m
            for m in self.measurements
            if (m.op, m.device) == (op, device)
            and all(m.shape.get(name) == size for name, size in shape.items() if name not in BATCH_SIZES)
        ]
        if not fitting:
            return MappingProxyType({}), []
        chosen = min((m.shape for m in fitting), key=lambda measured: distance(measured, shape))
        return chosen, [m for m in fitting if m.shape == chosen]


def distance(measured: Mapping[str, int], asked: Mapping[str, int]) -> float:
    """How many doublings lie between two batches, over all sizes that both name."""
    return sum(
        abs(math.log2(measured[name] / max(asked[name], 1)))
        for name in BATCH_SIZES
        if name in measured and name in asked
    )


def parse(text: str) -> list[Measurement]:
    """One table file: ``{"device": ..., "date": ..., "entries": [{"op", "provider", "shape", "us", ...}]}``."""
    table: dict[str, Any] = json.loads(text)
    return [
        Measurement(
            op=entry["op"],
            provider=entry["provider"],
            device=table["device"],
            shape=MappingProxyType({name: int(size) for name, size in entry["shape"].items()}),
            us=float(entry["us"]),
            error=entry.get("error"),
            date=entry.get("date", table.get("date", "")),
            how=entry.get("how", table.get("how", "")),
        )
        for entry in table["entries"]
    ]


@functools.cache
def shipped() -> Table:
    """Every table that this distribution ships."""
    folder = resources.files("hardpoint.providers").joinpath("data")
    files = sorted((item for item in folder.iterdir() if item.name.endswith(".json")), key=lambda item: item.name)
    return Table(tuple(m for item in files for m in parse(item.read_text())))

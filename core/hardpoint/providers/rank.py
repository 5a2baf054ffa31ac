"""`rank`: which of the offers serves an op of a shape on a device, and why. Pure: offers and table in, ranking out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hardpoint.launcher.protocol import KernelOffer, Refusal
from hardpoint.providers.measured import Measurement, Table

# Above this relative error against float64 a provider is not eligible, however quick.
MAX_ERROR = 1e-2


@dataclass(frozen=True)
class Row:
    """One provider in a ranking, best first.

    Attributes:
        provider: its name.
        state: ``chosen``, ``offered``, ``refused``, ``too inexact``, or ``not offered`` (by any plugin).
        us: measured microseconds for the shape that stands for the asked one, None if not measured there.
        error: measured relative error, None if it was not taken.
        reason: a sentence.
        offer: what to launch, None unless it was offered.
    """

    provider: str
    state: str
    us: float | None
    error: float | None
    reason: str
    offer: KernelOffer | None = None


@dataclass(frozen=True)
class Ranking:
    """The answer.

    Attributes:
        op, device, shape: what was asked.
        measured: the shape that the numbers are of, empty if this op was never measured on this device.
        rows: every provider, the chosen one first, then by time.
        why: a sentence.
    """

    op: str
    device: str
    shape: Mapping[str, int]
    measured: Mapping[str, int]
    rows: tuple[Row, ...]
    why: str

    @property
    def chosen(self) -> KernelOffer | None:
        """What serves it here, None if nothing does."""
        return next((row.offer for row in self.rows if row.state == "chosen"), None)


def rank(
    op: str, shape: Mapping[str, int], device: str, answers: Sequence[KernelOffer | Refusal], table: Table
) -> Ranking:
    """Rank `answers` for `op`.

    An offer that was measured on this device goes before one that was not; of the measured ones the quickest whose
    error is at most `MAX_ERROR` is chosen. Offers that were never measured keep the order they came in.
    """
    measured, found = table.nearest(op, device, shape)
    times = {m.provider: m for m in found}
    offers = {answer.provider: answer for answer in answers if isinstance(answer, KernelOffer) and answer.op == op}
    refusals = {answer.provider: answer for answer in answers if isinstance(answer, Refusal) and answer.op == op}
    eligible = [name for name in offers if not _inexact(times.get(name))]
    eligible.sort(key=lambda name: times[name].us if name in times else float("inf"))
    first = eligible[0] if eligible else None
    rows = [_row(name, "chosen" if name == first else "offered", times.get(name), offers[name].note, offers[name])
            for name in eligible]  # fmt: skip
    rest = [_row(name, "too inexact", times[name], f"its error is above {MAX_ERROR:g}") for name in offers
            if name not in eligible]  # fmt: skip
    rest += [_row(name, "refused", times.get(name), refusal.reason) for name, refusal in refusals.items()
             if name not in offers]  # fmt: skip
    rest += [_row(name, "not offered", m, "no plugin here offers it") for name, m in times.items()
             if name not in offers and name not in refusals]  # fmt: skip
    rest.sort(key=lambda row: row.us if row.us is not None else float("inf"))
    return Ranking(op, device, shape, measured, (*rows, *rest), _why(op, device, first, eligible, times, measured))


def _inexact(measurement: Measurement | None) -> bool:
    return measurement is not None and measurement.error is not None and not measurement.error <= MAX_ERROR


def _row(
    provider: str, state: str, measurement: Measurement | None, reason: str, offer: KernelOffer | None = None
) -> Row:
    if measurement is None:
        return Row(provider, state, None, None, reason, offer)
    how = "; ".join(word for word in (reason, measurement.how, measurement.date) if word)
    return Row(provider, state, measurement.us, measurement.error, how, offer)


def _why(
    op: str,
    device: str,
    first: str | None,
    eligible: list[str],
    times: Mapping[str, Measurement],
    measured: Mapping[str, int],
) -> str:
    shape = " ".join(f"{name}={size}" for name, size in measured.items())
    if first is None:
        return f"nothing that is offered here can serve {op}"
    if first not in times:
        return f"{first} is taken as the first that is offered: no offer for {op} was measured on {device}"
    others = [name for name in eligible[1:] if name in times]
    if not others:
        return f"{first} is the only offer that was measured on {device} at {shape}"
    ratio = times[others[0]].us / times[first].us
    return (
        f"{first} is the quickest of {1 + len(others)} measured offers at {shape}, {ratio:.2f} times as quick as "
        f"{others[0]}"
    )

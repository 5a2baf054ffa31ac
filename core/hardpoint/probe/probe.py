"""`Probe`: scans before and after layers, and reports the first fault of each kind once."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hardpoint.attention import check_token_counts
from hardpoint.probe.batch import Batch
from hardpoint.probe.report import Ranks, Report

if TYPE_CHECKING:
    import torch

_logger = logging.getLogger("hardpoint.probe")


@dataclass(frozen=True)
class Layer:
    """A layer that is watched.

    Attributes:
        number: in the model.
        kind: ``attention``, ``gdn`` or ``moe``.
        name: as the host calls it.
    """

    number: int
    kind: str
    name: str


@dataclass
class _Place:
    layer: Layer
    where: str
    shape: tuple[int, ...] = ()
    dtype: str = ""
    step: int = -1  # that it was last scanned in


class Probe:
    """One process's probe. `begin`, then `look` before and after each layer, then `end`, in every step.

    Args:
        modes: what `wanted` answered: ``nan`` scans values, ``mask`` checks the counts of each batch.
        layers: in the order of the model.
        ranks: of this process.
        rows: most rows of a step.
        folder: where reports go.
        say: gets one sentence per report (default: a warning in the log).
    """

    def __init__(
        self,
        modes: frozenset[str],
        layers: list[Layer],
        ranks: Ranks,
        rows: int,
        folder: Path,
        say: Callable[[str], object] = _logger.warning,
    ) -> None:
        self._modes, self._ranks, self._rows, self._folder, self._say = modes, ranks, rows, folder, say
        # Of a GDN layer the state that it reads, last: the place before ``after`` has to be its input.
        self._places = [
            _Place(layer, where)
            for layer in layers
            for where in ("before", "after", *(("state",) if layer.kind == "gdn" else ()))
        ]
        self._index = {(place.layer.name, place.where): number for number, place in enumerate(self._places)}
        self._scan: RowScan | None = None
        self._batch: Batch | None = None
        self._step = -1
        self._finished: tuple[int, Batch] | None = None
        self._said: set[tuple[str, ...]] = set()

    def begin(self, batch: Batch | None, rows: int) -> None:
        """A step with `rows` rows of hidden states begins; `batch` is None in warm-up, which is not looked at."""
        self._collect(wait=False)
        self._batch = batch
        if batch is None:
            return
        self._step += 1
        if "mask" in self._modes:
            self._check(batch, rows)

    def look(self, layer_name: str, where: str, tensor: torch.Tensor) -> None:
        """Scan `tensor` ``[rows, ...]`` before or after a layer, or, ``state``, the slots that a GDN layer reads."""
        if self._batch is None or "nan" not in self._modes:
            return
        if self._scan is None:
            from hardpoint.probe.scan import RowScan

            self._scan = RowScan(len(self._places), self._rows, tensor.device)
        number = self._index[layer_name, where]
        place = self._places[number]
        place.shape, place.dtype = tuple(tensor.shape), str(tensor.dtype).removeprefix("torch.")
        place.step = self._step
        self._scan.look(number, tensor)

    def end(self) -> None:
        """The step is over; what it found is reported now if the host knows it already, else with the next step."""
        if self._batch is None or self._scan is None:
            return
        self._collect(wait=True)  # of the step before this one: the device has long gone on
        self._scan.finish_step()
        self._finished = (self._step, self._batch)
        self._collect(wait=False)

    def close(self) -> None:
        """Report what the last step found."""
        self._collect(wait=True)

    def _collect(self, *, wait: bool) -> None:
        if self._scan is None or self._finished is None:
            return
        if wait:
            self._scan.wait()
        counts = self._scan.found()
        if counts is None:
            if wait:
                self._finished = None
            return
        (step, batch), self._finished = self._finished, None
        table = counts.tolist()
        for number, place in enumerate(self._places):
            bad = [(row, count) for row, count in enumerate(table[number]) if count]
            if bad:
                after = place.where == "after"
                clean = not any(table[number - 1]) if after else None
                state = after and place.layer.kind == "gdn" and self._places[number + 1].step == step
                self._report(step, batch, place, bad, clean, not any(table[number + 1]) if state else None)

    def _check(self, batch: Batch, rows: int) -> None:
        faults = check_token_counts(
            num_actual_tokens=batch.num_actual_tokens,
            query_start_loc=batch.query_start_loc,
            seq_lens=batch.seq_lens,
            hidden_rows=rows,
        )
        if not self._first("mask" if faults else "batch", batch.phase):
            return
        report = Report(
            finding="mask" if faults else "batch",
            ranks=self._ranks,
            step=self._step,
            phase=batch.phase,
            num_actual_tokens=batch.num_actual_tokens,
            query_start_loc=batch.query_start_loc,
            seq_lens=batch.seq_lens,
            shape=(rows,),
            faults=tuple(fault.sentence for fault in faults),
        )
        self._write(report, f"{'; '.join(report.faults)}" if faults else "")

    def _report(
        self,
        step: int,
        batch: Batch,
        place: _Place,
        bad: list[tuple[int, int]],
        input_clean: bool | None,
        state_clean: bool | None,
    ) -> None:
        if not self._first("nan", place.layer.kind, place.where, batch.phase):
            return
        report = Report(
            finding="nan",
            ranks=self._ranks,
            step=step,
            phase=batch.phase,
            num_actual_tokens=batch.num_actual_tokens,
            query_start_loc=batch.query_start_loc,
            seq_lens=batch.seq_lens,
            shape=place.shape,
            dtype=place.dtype,
            layer=place.layer.number,
            layer_kind=place.layer.kind,
            layer_name=place.layer.name,
            where=place.where,
            rows=tuple(row for row, _ in bad),
            counts=tuple(count for _, count in bad),
            input_clean=input_clean,
            state_clean=state_clean,
        )
        padding, real = len(report.padding_rows), len(report.real_rows)
        self._write(
            report,
            f"{report.elements} values that are no numbers {report.place} ({place.layer.name}), {batch.phase}: "
            f"{real} real and {padding} padding rows of {place.shape}",
        )

    def _first(self, *key: str) -> bool:
        if key in self._said:
            return False
        self._said.add(key)
        return True

    def _write(self, report: Report, sentence: str) -> None:
        try:
            path = report.write(self._folder)
        except OSError as error:
            self._say(f"hardpoint probe: {self._ranks}: {sentence}; no report could be written: {error}")
            return
        if sentence:
            self._say(f"hardpoint probe: {self._ranks}, step {report.step}: {sentence}; {path}")


if TYPE_CHECKING:
    from hardpoint.probe.scan import RowScan

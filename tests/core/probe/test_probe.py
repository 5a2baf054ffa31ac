"""The probe on a step: which rows, which layer, once, and nothing in warm-up."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from hardpoint.environment import BadVariable
from hardpoint.explain import explain_nan, read_sources
from hardpoint.probe import KIND, Batch, Probe, Ranks, Report, phase_of, read_report, wanted
from hardpoint.probe.probe import Layer
from hardpoint.probe.report import UnreadableReport, reports_folder

LAYERS = [Layer(1, "gdn", "layers.1"), Layer(3, "attention", "layers.3")]
PREFILL = Batch(30, (0, 5, 10, 18, 26), (5, 5, 8, 8))
DECODE = Batch(4, (0, 1, 2, 3, 4), (8, 6, 12, 8))
NAN = float("nan")


class Bench:
    """A probe with what it said and wrote."""

    def __init__(self, folder: Path, modes: str = "nan,mask") -> None:
        self.said: list[str] = []
        self.folder = folder
        self.probe = Probe(frozenset(modes.split(",")), LAYERS, Ranks(dp=1, ep=2), 40, folder, self.said.append)

    def step(self, batch: Batch | None, rows: int, bad: dict[tuple[str, str], list[tuple[int, int]]]) -> None:
        """One step of `rows` rows of 8; `bad` is (layer, where) -> elements that are NaN."""
        self.probe.begin(batch, rows)
        for layer in LAYERS:
            for where in ("before", "after"):
                hidden = torch.ones(rows, 8, dtype=torch.bfloat16)
                for row, column in bad.get((layer.name, where), ()):
                    hidden[row, column] = NAN
                self.probe.look(layer.name, where, hidden)
        self.probe.end()

    def reports(self) -> list[Report]:
        return [read_report(data, source) for source, data in read_sources([self.folder], KIND)]


def whole(*rows: int) -> list[tuple[int, int]]:
    return [(row, column) for row in rows for column in range(8)]


def test_fr4_from_the_tensors_to_the_words(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.step(None, 30, {("layers.3", "after"): whole(*range(30))})  # warm-up: nothing was written, and nobody minds
    bench.step(PREFILL, 30, {("layers.3", "after"): whole(26, 27, 28, 29)})
    bench.step(DECODE, 4, {("layers.1", "after"): [(2, 0), (2, 5)], ("layers.3", "before"): whole(2)})
    bench.probe.close()
    found = explain_nan(bench.reports())
    assert [origin.title for origin in found.origins] == [
        "padding rows 26-29 counted as real on dp_rank 1",
        "2 elements after GDN layer 1 in decode on dp_rank 1",
    ]
    assert any("rows 26 to 29 are padding counted as real" in line for line in found.origins[0].evidence)
    assert any("0 real and 4 padding rows" in line for line in bench.said)


def test_each_kind_phase_and_place_is_said_once(tmp_path: Path) -> None:
    bench = Bench(tmp_path, "nan")
    for _ in range(3):
        bench.step(DECODE, 4, {("layers.1", "after"): whole(1)})
    bench.probe.close()
    assert len(bench.said) == 1
    (report,) = bench.reports()
    assert (report.step, report.rows, report.counts, report.input_clean) == (0, (1,), (8,), True)


def test_an_input_that_is_not_clean_is_no_origin(tmp_path: Path) -> None:
    bench = Bench(tmp_path, "nan")
    bench.step(DECODE, 4, {("layers.1", "before"): whole(1), ("layers.1", "after"): whole(1)})
    bench.probe.close()
    assert {(report.where, report.input_clean) for report in bench.reports()} == {("before", None), ("after", False)}


def test_counts_of_a_longer_step_do_not_stay(tmp_path: Path) -> None:
    bench = Bench(tmp_path, "nan")
    bench.step(PREFILL, 30, {("layers.1", "after"): whole(20)})
    bench.step(DECODE, 4, {})
    bench.probe.close()
    assert [report.phase for report in bench.reports()] == ["prefill"]


def test_infinity_counts_too_and_a_clean_run_leaves_its_batches(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.step(Batch(4, DECODE.query_start_loc, DECODE.seq_lens), 4, {})
    bench.probe.close()
    (report,) = bench.reports()
    assert (report.finding, report.faults, bench.said) == ("batch", (), [])
    bench.probe.begin(DECODE, 4)
    bench.probe.look("layers.1", "after", torch.full((4, 8), float("inf")))
    bench.probe.end()
    bench.probe.close()
    assert any(report.elements == 32 for report in bench.reports())


def test_a_folder_that_cannot_be_written_is_said_and_harms_nobody(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    bench = Bench(tmp_path / "file" / "below", "nan")
    bench.step(DECODE, 4, {("layers.1", "after"): whole(1)})
    bench.probe.close()
    assert "no report could be written" in bench.said[0]


@pytest.mark.parametrize(
    ("starts", "lengths", "phase"),
    [
        ((0, 5, 10), (5, 5), "prefill"),
        ((0, 1, 2), (9, 4), "decode"),
        ((0, 1, 6), (9, 5), "mixed"),
        ((0, 1), (1,), "prefill"),
        ((0,), (), "prefill"),
    ],
)
def test_phase(starts: tuple[int, ...], lengths: tuple[int, ...], phase: str) -> None:
    assert phase_of(starts, lengths) == phase


def test_the_variable() -> None:
    assert wanted({}) == wanted({"HARDPOINT_PROBE": "off"}) == frozenset()
    assert wanted({"HARDPOINT_PROBE": " NaN, mask"}) == {"nan", "mask"}
    with pytest.raises(BadVariable, match=r"mask, nan, or off; found 'nans'"):
        wanted({"HARDPOINT_PROBE": "nans"})
    assert reports_folder({"HARDPOINT_PROBE_REPORTS": "/x"}) == Path("/x")


@pytest.mark.parametrize(
    "change", [{"schema": 9}, {"kind": "x"}, {"ranks": None}, {"rows": ["a"]}, {"surprise": 1}, {"ranks": {"zz": 1}}]
)
def test_what_is_no_report_is_refused_by_name(tmp_path: Path, change: dict[str, object]) -> None:
    bench = Bench(tmp_path, "nan")
    bench.step(DECODE, 4, {("layers.1", "after"): whole(1)})
    bench.probe.close()
    data = json.loads(next(tmp_path.glob("*.json")).read_text())
    assert read_report(data, "here.json").elements == 8
    with pytest.raises(UnreadableReport, match=r"here\.json"):
        read_report(data | change, "here.json")

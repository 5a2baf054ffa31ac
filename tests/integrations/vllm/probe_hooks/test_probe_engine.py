"""The probe in a stock engine on CPU: silent when clean, and a NaN in an expert or a GDN layer is found where it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from hardpoint.explain import Explanation, explain_nan, read_sources
from hardpoint.probe import KIND, Report, read_report
from support.tiny_models import qwen3_next
from support.vllm_engine import ask

pytestmark = pytest.mark.vllm
GDN = "model.layers.1.linear_attn.norm.weight"


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> list[Report]:
    folder: Path = tmp_path_factory.mktemp("probe")
    model = qwen3_next(folder / "model")
    kept = folder / "reports"
    ask("probed", folder, "cpu", str(model), GDN, HARDPOINT_PROBE="nan,mask", HARDPOINT_PROBE_REPORTS=str(kept))
    return [read_report(data, source) for source, data in read_sources([kept], KIND)]


@pytest.fixture(scope="module")
def explained(reports: list[Report]) -> Explanation:
    return explain_nan(reports)


def test_it_began_in_the_layer_that_was_spoiled(explained: Explanation) -> None:
    first = explained.origins[0]
    assert "after GDN layer 1 in prefill on dp_rank 0" in first.title
    assert any("model.layers.1.linear_attn" in line for line in first.evidence)


def test_clean_steps_and_warm_up_say_nothing_but_their_batches(reports: list[Report]) -> None:
    bad = [report for report in reports if report.finding == "nan"]
    batches = [report for report in reports if report.finding == "batch"]
    assert min(report.step for report in bad) > max(report.step for report in batches), "the clean run came first"
    assert {report.phase for report in batches} >= {"prefill", "decode"}
    assert all(report.query_start_loc[-1] == report.num_actual_tokens for report in batches)
    assert not [report for report in reports if report.finding == "mask"]
    assert all(not report.padding_rows for report in bad)

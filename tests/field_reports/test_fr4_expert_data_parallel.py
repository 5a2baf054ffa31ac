"""FR4: expert + data parallel (TP=2, DP=2, EP). It hangs, and once it does not, the answers are "!!!!" (NaN)."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest
import torch

from hardpoint import Backend
from hardpoint.attention import check_token_counts
from hardpoint.conformance.mutant import Mutant
from hardpoint.dp import DpRule, GraphMode
from hardpoint.explain import explain_nan
from hardpoint_sim.backend import build
from support import field_report_faults as faults
from support import field_report_ranks as rank_work
from support import fr4_reports
from support.field_report_faults import (
    CountsPaddingAsTokens,
    MasksByMultiplication,
    PadsForGraphsOnly,
    ReadsWhateverIsThere,
    StateFromEmpty,
    TrustsNumActualTokens,
)
from support.field_report_kit import Kit
from support.ranks import RankPool

NAN_STATE = 86
HIDDEN = 2048
CAUGHT = (
    (faults.trusts_num_actual_tokens, "attention_buffers.query-start-loc-bounds-tokens", "[0, 5, 10, 18, 26], 30 rows"),
    (faults.leaves_the_tail, "attention_buffers.tail-is-zero", "rows of padding that"),
    (faults.leaves_profile_runs, "attention_buffers.no-metadata-is-all-zero", "without metadata"),
    (faults.state_from_empty, "attention_buffers.state-starts-at-zero", "new conv_state"),
    (faults.masks_by_multiplication, "attention_buffers.masks-select", "mask ["),
    (faults.reads_whatever_is_there, "attention_buffers.reads-need-initial-state", "read at (slot, has_initial_state)"),
    (faults.pads_for_graphs_only, "dp_rule.same-count-on-all-ranks", "padded counts (26, 30) differ between ranks"),
    (
        faults.counts_padding_as_tokens,
        "dp_rule.actual-tokens-end-query-start-loc",
        "num_actual_tokens is 30 but query_start_loc ends at 26: rows 26 to 29 are padding counted as real",
    ),
    (faults.idle_ranks_stay_out, "dp_rule.ranks-without-tokens-take-part", "rank 0 stays out"),
    (faults.gathers_into_one_output, "communicator.gather-is-in-rank-order", "all_gather of"),
    (faults.waits_much_longer, "communicator.deadline-is-obeyed", "s raised after 3."),
)


@dataclass(frozen=True)
class Metadata:
    """What one dp_rank logged."""

    num_actual_tokens: int
    seq_lens: tuple[int, ...]
    query_start_loc: tuple[int, ...]
    hidden_shape: tuple[int, int] = (30, HIDDEN)


DP_RANKS = (
    Metadata(num_actual_tokens=30, seq_lens=(5, 5, 8, 8), query_start_loc=(0, 5, 10, 18, 26)),
    Metadata(num_actual_tokens=30, seq_lens=(7, 5, 11, 7), query_start_loc=(0, 7, 12, 23, 30)),
)


@pytest.fixture
def backend() -> Backend:
    return build({"devices": 2})


def full_attention(out: torch.Tensor, hidden: torch.Tensor, starts: tuple[int, ...]) -> None:
    """The kernel of layer 3: each request attends to itself; rows of no request are not written."""
    for begin, end in pairwise(starts):
        out[begin:end].copy_(hidden[begin:end].float().cumsum(0).to(out.dtype))


def nan_rows(tensor: torch.Tensor) -> tuple[list[int], int]:
    """Rows with NaN, and the number of NaN elements."""
    nan = tensor.cpu().isnan()
    return nan.any(dim=1).nonzero().flatten().tolist(), int(nan.sum())


def layer_3(backend: Backend, buffers: Any, batch: Metadata, *, on_device: bool = False) -> torch.Tensor:
    """Hidden states after the layer: what attention wrote, added to the residual whole."""
    hidden = torch.randn(batch.hidden_shape, generator=torch.Generator().manual_seed(3)).to(torch.bfloat16).to("sim:0")
    output = buffers.allocate("output", batch.hidden_shape, dtype=torch.bfloat16, device=torch.device("sim:0"))
    backend.launcher.launch(full_attention, output, hidden, batch.query_start_loc)
    count: Any = batch.num_actual_tokens
    starts: Any = batch.query_start_loc
    if on_device:
        count, starts = torch.tensor(count).to("sim:0"), torch.tensor(starts).to("sim:0")
    assert nan_rows(hidden) == ([], 0)
    return hidden + buffers.finish(output, count, query_start_loc=starts)


# -- rows that nobody wrote -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dp_rank", "rows", "elements"), [(0, [26, 27, 28, 29], 8192), (1, [], 0)])
def test_the_log_of_the_report(backend: Backend, dp_rank: int, rows: list[int], elements: int) -> None:
    after = layer_3(backend, TrustsNumActualTokens(backend.attention_buffers), DP_RANKS[dp_rank])
    assert nan_rows(after) == (rows, elements)


@pytest.mark.parametrize("on_device", [False, True], ids=["host counts", "device counts"])
@pytest.mark.parametrize("dp_rank", [0, 1])
def test_rows_past_query_start_loc_are_zero_and_the_others_untouched(
    backend: Backend, dp_rank: int, on_device: bool
) -> None:
    batch = DP_RANKS[dp_rank]
    stock = layer_3(backend, TrustsNumActualTokens(backend.attention_buffers), batch).cpu()
    after = layer_3(backend, backend.attention_buffers, batch, on_device=on_device).cpu()
    real = batch.query_start_loc[-1]
    assert nan_rows(after) == ([], 0)
    assert torch.equal(after[:real].view(torch.int16), stock[:real].view(torch.int16))
    hidden = torch.randn(batch.hidden_shape, generator=torch.Generator().manual_seed(3)).to(torch.bfloat16)
    assert torch.equal(after[real:], hidden[real:]), "padding rows of the residual are what they were"


def test_the_check_names_the_rows_on_one_rank_and_nothing_on_the_other() -> None:
    found = [
        check_token_counts(
            num_actual_tokens=batch.num_actual_tokens,
            query_start_loc=batch.query_start_loc,
            seq_lens=batch.seq_lens,
            hidden_rows=batch.hidden_shape[0],
        )
        for batch in DP_RANKS
    ]
    (fault,) = found[0]
    assert (fault.rule, fault.rows) == ("actual_tokens", range(26, 30))
    assert fault.sentence == (
        "num_actual_tokens is 30 but query_start_loc ends at 26: rows 26 to 29 are padding counted as real, which no "
        "kernel writes; set num_actual_tokens to query_start_loc[-1]"
    )
    assert found[1] == ()


def test_a_profile_run_has_no_metadata_and_is_all_zero(backend: Backend) -> None:
    poisoned = backend.attention_buffers.poisoned()
    for kind in ("output", "core_output", "z"):
        buffer = poisoned.allocate(kind, (30, HIDDEN), dtype=torch.bfloat16, device=torch.device("sim:0"))
        assert nan_rows(buffer)[1] == 30 * HIDDEN
        assert backend.attention_buffers.finish(buffer, None).cpu().eq(0).all()


def test_the_logs_of_both_ranks_lead_to_two_origins() -> None:
    found = explain_nan(fr4_reports.log())
    assert [origin.title for origin in found.origins] == [
        "padding rows 26-29 counted as real on dp_rank 0",
        f"{NAN_STATE} elements after GDN layer 1 in decode on dp_rank 1",
    ]


# -- state that nobody initialised ------------------------------------------------------------------------------------


def decode_gdn_layer_1(buffers: Any) -> torch.Tensor:
    """``[4, 2048]`` after GDN layer 1 on dp_rank 1, in decode: four requests in slots 1 to 4, the third one is new.

    Its slot was used before, and whoever used it wrote all but 86 elements.
    """
    device = torch.device("sim:0")
    state = buffers.allocate("recurrent_state", (6, HIDDEN), dtype=torch.bfloat16, device=device)
    slots, has_initial_state = [1, 2, 3, 4], [True, True, False, True]
    for slot, has in zip(slots, has_initial_state, strict=True):
        state[slot, : None if has else HIDDEN - NAN_STATE] = float(slot)
    hidden = torch.full((4, HIDDEN), 0.5, dtype=torch.bfloat16, device=device)
    rows = buffers.read_state(state, torch.tensor(slots).to(device), torch.tensor(has_initial_state).to(device))
    return hidden + rows


class _StockState(StateFromEmpty, ReadsWhateverIsThere):
    """What the report ran: state from an allocator, read whether the request has any or not."""


class _MaskedState(StateFromEmpty):
    """The first thing that one tries: what a new request reads is multiplied by zero."""

    def read_state(self, state: torch.Tensor, slots: torch.Tensor, has_initial_state: torch.Tensor) -> torch.Tensor:
        return MasksByMultiplication(self.base).mask_rows(state.index_select(0, slots), has_initial_state)


@pytest.mark.parametrize("buffers", [_StockState, _MaskedState])
def test_a_slot_that_nobody_initialised_is_nan_in_one_row(backend: Backend, buffers: Any) -> None:
    assert nan_rows(decode_gdn_layer_1(buffers(backend.attention_buffers))) == ([2], NAN_STATE)


def test_a_request_without_state_reads_zero_and_the_others_their_own(backend: Backend) -> None:
    # With poisoned buffers the slot is NaN whatever the allocator does: reading has to be right by itself.
    for buffers in (backend.attention_buffers, backend.attention_buffers.poisoned()):
        after = decode_gdn_layer_1(buffers).cpu()
        assert [row.unique().tolist() for row in after] == [[1.5], [2.5], [0.5], [4.5]]


def test_a_slot_that_is_reset_when_it_is_given_out_is_zero_and_no_other_changes(backend: Backend) -> None:
    buffers = backend.attention_buffers
    state = torch.empty(6, HIDDEN, device="sim:0")
    state[5] = 7.0
    buffers.reset_state(state, [3, -1])
    assert nan_rows(state) == ([0, 1, 2, 4], 4 * HIDDEN)
    assert state[3].cpu().eq(0).all()
    assert state[5].cpu().eq(7).all(), "slot -1 is padding, never the last slot"


# -- ranks that bring different counts --------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", list(GraphMode))
def test_the_plan_pads_both_ranks_alike_and_keeps_what_is_real(mode: GraphMode) -> None:
    tokens = tuple(batch.query_start_loc[-1] for batch in DP_RANKS)
    assert tokens == (26, 30)
    plan = DpRule().plan(tokens, tp=2, synced_mode=mode, expert_parallel=True)
    assert (plan.num_actual_tokens, plan.num_padded_tokens) == ((26, 30), (30, 30))
    for rank, batch in enumerate(DP_RANKS):
        assert not check_token_counts(
            num_actual_tokens=plan.num_actual_tokens[rank],
            query_start_loc=batch.query_start_loc,
            seq_lens=batch.seq_lens,
            hidden_rows=plan.num_padded_tokens[rank],
        )


def test_the_rules_of_the_report_planned_otherwise() -> None:
    assert PadsForGraphsOnly().plan((26, 30), tp=2, expert_parallel=True).num_padded_tokens == (26, 30)
    assert CountsPaddingAsTokens().plan((26, 30), tp=2, expert_parallel=True).num_actual_tokens == (30, 30)


def test_unequal_counts_are_a_sentence_on_every_rank_and_padded_or_ragged_they_arrive(ranks: RankPool) -> None:
    found = [result.unwrap() for result in ranks.run(2, rank_work.unequal_counts, (26, 30), deadline=120.0)]
    expected = torch.cat([rank_work.tokens_of(0, 26), rank_work.tokens_of(1, 30)])
    for rank, here in enumerate(found):
        kind, text, seconds = here["unpadded"]
        assert kind == "CollectiveMismatch"
        assert "ranks disagree about the next collective" in text
        assert "float32 [26, 16]" in text
        assert "float32 [30, 16]" in text
        assert seconds < 10.0, "known at once, not at the deadline"
        assert here["after"][0] == "CommunicatorError", "nobody goes on with a group in which a collective failed"
        rows = (26, 30)[rank]
        assert here["one output"][0] == "CommunicatorError"
        assert f"expected tensor [{rows}, 16] and output [{2 * rows}, 16], found" in here["one output"][1]
        assert here["plan"] == ((26, 30), (30, 30), (False, False))
        assert torch.equal(here["padded"], expected)
        assert torch.equal(here["ragged"], expected)


def test_a_rank_without_tokens_takes_part(ranks: RankPool) -> None:
    for result in ranks.run(2, rank_work.unequal_counts, (0, 5), deadline=120.0):
        here = result.unwrap()
        assert here["plan"] == ((0, 5), (5, 5), (True, False))
        assert torch.equal(here["padded"], rank_work.tokens_of(1, 5))


def test_one_output_for_the_group_is_refused_by_gloo_and_deadlocks_elsewhere(ranks: RankPool) -> None:
    for result in ranks.run(2, rank_work.one_output_by_torch, deadline=120.0):
        kind, text, _ = result.unwrap()
        assert kind == "RuntimeError"
        assert "invalid output tensor list" in text


def test_without_the_check_unequal_counts_end_a_process_and_leave_garbage_on_the_other(ranks: RankPool) -> None:
    low, high = ranks.run(2, rank_work.unequal_counts_by_torch, (26, 30), deadline=90.0)
    assert not low.returned
    assert low.exit_code == -signal.SIGABRT, "gloo ends the process that is sent too much"
    if high.returned:
        right = torch.cat([rank_work.tokens_of(0, 26), torch.zeros(4, 16), rank_work.tokens_of(1, 30)])
        assert high.value.shape == (60, 16)
        assert not torch.equal(high.value[:56], torch.cat([right[:26], right[30:]]))


@pytest.mark.parametrize(("fault", "law", "words"), CAUGHT, ids=lambda value: getattr(value, "name", ""))
def test_the_kit_names_the_fault(kit: Kit, fault: Mutant, law: str, words: str) -> None:
    assert fault.law == law
    assert words in kit.caught(fault, among=[each for each, _, _ in CAUGHT])

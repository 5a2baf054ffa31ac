"""State slots of a GDN layer: which are read, and what is said of values in them that are no numbers."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from hardpoint.explain import Explanation, explain_nan, read_sources
from hardpoint.probe import KIND, Batch, Probe, Ranks, read_report
from hardpoint.probe.probe import Layer
from hardpoint_vllm.probe_hooks.state import state_read

NAME, NAN = "layers.1.linear_attn", float("nan")


def layer(spoiled: dict[int, int]) -> Any:
    """A GDN layer with four slots; `spoiled`: slot -> which of its two states holds a NaN."""
    caches = [torch.ones(4, 2, 3, dtype=torch.bfloat16), torch.ones(4, 2, 2)]
    for slot, which in spoiled.items():
        caches[which][slot].view(-1)[0] = NAN
    return SimpleNamespace(prefix=NAME, kv_cache=caches)


def metadata(slots: list[int], started: list[bool] | None) -> Any:
    held = None if started is None else torch.tensor(started)
    return {NAME: SimpleNamespace(non_spec_state_indices_tensor=torch.tensor(slots), has_initial_state=held)}


@pytest.mark.parametrize(
    ("slots", "started", "bad"),
    [
        ([2, 3], None, [True, False]),  # all decode
        ([2, 3], [True, True], [True, False]),
        ([2, 3], [False, True], [False, False]),  # a new request does not read what its slot held
        ([-1, 1], None, [False, True]),
    ],
)
def test_what_a_step_reads_and_no_other_slot(slots: list[int], started: list[bool] | None, bad: list[bool]) -> None:
    found = state_read(layer({2: 0, 1: 1}), metadata(slots, started))
    assert found is not None
    assert found.shape == (2, 6 + 4), "conv and recurrent state of each request"
    assert found.isnan().any(dim=1).tolist() == bad


def test_without_slots_or_cache_there_is_nothing_to_look_at() -> None:
    assert state_read(layer({}), None) is None
    assert state_read(layer({}), {"another": object()}) is None
    assert state_read(layer({}), {NAME: SimpleNamespace(non_spec_state_indices_tensor=None)}) is None
    assert state_read(SimpleNamespace(prefix=NAME, kv_cache=()), metadata([0], None)) is None
    assert state_read(SimpleNamespace(prefix=NAME, kv_cache=[torch.empty(0)]), metadata([0], None)) is None


def explained(folder: Path, state: torch.Tensor | None) -> Explanation:
    """A decode step of two requests whose second row leaves the layer with a NaN."""
    probe = Probe(frozenset({"nan"}), [Layer(1, "gdn", NAME)], Ranks(), 8, folder, lambda _: None)
    probe.begin(Batch(2, (0, 1, 2), (5, 6)), 2)
    if state is not None:
        probe.look(NAME, "state", state)
    probe.look(NAME, "before", torch.ones(2, 4))
    output = torch.ones(2, 4)
    output[1, 2] = NAN
    probe.look(NAME, "after", output)
    probe.end()
    probe.close()
    return explain_nan([read_report(data, source) for source, data in read_sources([folder], KIND)])


def test_state_that_held_nan_is_where_it_came_from(tmp_path: Path) -> None:
    state = torch.ones(2, 10)
    state[1, 3:5] = NAN
    found = explained(tmp_path, state)
    (origin,) = found.origins
    assert "held values that are no numbers before the layer ran, of request 1 of the batch (2 values)" in str(origin)
    assert "the state itself was not scanned" not in str(origin)
    assert found.followed == (), "the state is told with the layer"


def test_clean_state_leaves_the_layer_itself(tmp_path: Path) -> None:
    (origin,) = explained(tmp_path, torch.ones(2, 10)).origins
    assert "was clean: the layer made the values" in str(origin)


def test_state_that_was_not_scanned_proves_nothing(tmp_path: Path) -> None:
    (origin,) = explained(tmp_path, None).origins
    assert "the state itself was not scanned" in str(origin)

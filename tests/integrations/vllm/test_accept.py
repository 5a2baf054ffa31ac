"""A manifest is accepted if and only if it brings what the first load took, in the same form."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardpoint.errors import SyncError
from hardpoint.sync import Manifest, TensorSpec
from hardpoint_vllm.weight_transfer.accept import check
from hardpoint_vllm.weight_transfer.first_load import FirstLoad

NAMES = [
    f"layers.{layer}.mlp.experts.{expert}.{part}"
    for layer in range(2)
    for expert in range(3)
    for part in ("up", "down")
]
SPECS = {name: TensorSpec(name, (4, 8) if name.endswith("up") else (8, 4), "bfloat16") for name in NAMES}
SPECS["inv_freq"] = TensorSpec("inv_freq", (4,), "float32")
FIRST = FirstLoad(SPECS, frozenset(NAMES))


def _manifest(*specs: TensorSpec) -> Manifest:
    return Manifest(1, specs, 64)


@given(st.sets(st.sampled_from(sorted(SPECS))))
def test_accepted_if_and_only_if_all_that_was_taken_is_there(sent: set[str]) -> None:
    manifest = _manifest(*(SPECS[name] for name in sorted(sent)))
    missing = FIRST.required - sent
    if not missing:
        check(manifest, FIRST)
        return
    with pytest.raises(SyncError, match=f"{len(missing)} missing: {min(missing)} "):
        check(manifest, FIRST)


@pytest.mark.parametrize(
    "wrong", [{"shape": (8, 4)}, {"shape": (4, 7)}, {"shape": (4, 8, 1)}, {"dtype": "float32"}, {"dtype": "float16"}]
)
def test_another_form_is_refused_with_both(wrong: dict[str, object]) -> None:
    spec = replace(SPECS[NAMES[0]], **wrong)  # type: ignore[arg-type]
    with pytest.raises(SyncError) as caught:
        check(_manifest(spec, *(SPECS[name] for name in NAMES[1:])), FIRST)
    assert f"{spec} instead of bfloat16[4, 8]" in str(caught.value)


def test_a_name_that_the_model_does_not_know_is_refused() -> None:
    extra = TensorSpec("layers.0.mlp.experts.99.up", (4, 8), "bfloat16")
    with pytest.raises(SyncError, match=r"1 not of this model: layers\.0\.mlp\.experts\.99\.up"):
        check(_manifest(extra, *SPECS.values()), FIRST)


def test_experts_of_other_ranks_are_known_by_their_siblings_only_with_expert_parallelism() -> None:
    elsewhere = TensorSpec("layers.1.mlp.experts.7.up", (4, 8), "bfloat16")
    manifest = _manifest(elsewhere, *SPECS.values())
    check(manifest, FIRST, experts_elsewhere=8)
    for experts in (0, 7):
        with pytest.raises(SyncError, match="not of this model"):
            check(manifest, FIRST, experts_elsewhere=experts)
    with pytest.raises(SyncError, match="in another form"):
        check(_manifest(replace(elsewhere, shape=(8, 4)), *SPECS.values()), FIRST, experts_elsewhere=8)


def test_long_lists_are_cut_and_counted() -> None:
    with pytest.raises(SyncError, match=r"12 missing: .* and 7 more"):
        check(_manifest(), FIRST)

"""The derived attention backend: rows past the tokens are zero, and padding never counts as real."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from hardpoint_vllm.parallel import zero_tail

NAN = float("nan")


class Builder:
    def build(self, common_prefix_len: int, common_attn_metadata: Any, fast_build: bool = False) -> Any:
        return common_attn_metadata.num_actual_tokens


class Impl:
    def forward(
        self, layer: Any, query: Any, key: Any, value: Any, kv_cache: Any, attn_metadata: Any, output: Any,
        output_scale: Any = None,
    ) -> Any:  # fmt: skip
        if attn_metadata is not None:
            output[: attn_metadata.num_actual_tokens] = 1.0
        return output


class Backend:
    @staticmethod
    def get_name() -> str:
        return "CPU_ATTN"

    @staticmethod
    def get_impl_cls() -> type[Impl]:
        return Impl

    @staticmethod
    def get_builder_cls() -> type[Builder]:
        return Builder


@pytest.fixture(params=["stub", "vllm"])
def derived(request: pytest.FixtureRequest) -> Any:
    if request.param == "stub":
        return zero_tail.derived(Backend, "CPU_ATTN")
    return zero_tail.CPU_ATTN


def test_names_and_kinds_stay(derived: Any) -> None:
    base = derived.__mro__[1]
    assert derived.get_name() == base.get_name() == "CPU_ATTN"
    assert issubclass(derived.get_impl_cls(), base.get_impl_cls())
    assert issubclass(derived.get_builder_cls(), base.get_builder_cls())
    assert derived.get_impl_cls() is derived.get_impl_cls(), "vLLM compares classes"


@pytest.mark.parametrize("tokens", [0, 3, 5, None])
def test_what_nobody_wrote_is_zero(tokens: int | None) -> None:
    impl = zero_tail.derived(Backend, "CPU_ATTN").get_impl_cls()()
    output = torch.full((5, 2), NAN)
    metadata = None if tokens is None else SimpleNamespace(num_actual_tokens=tokens)
    answer = impl.forward(None, None, None, None, None, metadata, output)
    assert answer is output
    written = tokens or 0
    assert output[:written].eq(1).all()
    assert output[written:].eq(0).all()


def test_a_nan_of_a_real_row_stays() -> None:
    class Broken(Impl):
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            return args[6]

    output = torch.full((5, 2), NAN)
    impl = zero_tail._implementation(Broken)()
    impl.forward(None, None, None, None, None, SimpleNamespace(num_actual_tokens=3), output)
    assert output[:3].isnan().all(), "a fault of a kernel is not to be hidden"
    assert output[3:].eq(0).all()


@pytest.mark.parametrize(("said", "starts", "real"), [(30, [0, 5, 10, 18, 26], 26), (30, [0, 30], 30), (4, None, 4)])
def test_padding_is_not_counted(said: int, starts: list[int] | None, real: int) -> None:
    builder = zero_tail.derived(Backend, "CPU_ATTN").get_builder_cls()()
    cpu = None if starts is None else torch.tensor(starts)
    assert builder.build(0, SimpleNamespace(num_actual_tokens=said, query_start_loc_cpu=cpu)) == real


def test_it_takes_the_place_of_vllms_own_and_only_there() -> None:
    from vllm.v1.attention.backends.registry import AttentionBackendEnum

    member = AttentionBackendEnum.CPU_ATTN
    try:
        assert zero_tail.install("cpu") == ["CPU_ATTN"]
        assert zero_tail.installed("CPU_ATTN")
        assert zero_tail.install("cpu") == [], "plugins run more than once"
        assert member.get_class() is zero_tail.CPU_ATTN
        assert zero_tail.install("tpu") == []
    finally:
        member.clear_override()
    with pytest.raises(AttributeError):
        zero_tail.NO_SUCH_BACKEND  # noqa: B018


class ThreeRows(Impl):
    """A kernel that goes by ``query_start_loc``: it writes three rows, whatever the count says."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        args[6][:3] = 1.0
        return args[6]


def test_a_capture_clears_all_of_it_before_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """The graph is captured at the padded count, where no tail is seen, and replayed with fewer tokens."""
    impl = zero_tail._implementation(ThreeRows)()
    metadata = SimpleNamespace(num_actual_tokens=5)
    left = torch.full((5, 2), NAN)
    impl.forward(None, None, None, None, None, metadata, left)
    assert left[3:].isnan().all(), "by the count alone nothing is past the tokens"
    monkeypatch.setattr(zero_tail, "capturing", lambda: True)
    output = torch.full((5, 2), NAN)
    impl.forward(None, None, None, None, None, metadata, output)
    assert output[:3].eq(1).all()
    assert output[3:].eq(0).all()


def test_where_full_graphs_are_on_the_count_stays_and_the_real_one_is_kept_beside_it() -> None:
    class Keeps(Builder):
        def build(self, common_prefix_len: int, common_attn_metadata: Any, fast_build: bool = False) -> Any:
            return SimpleNamespace(num_actual_tokens=common_attn_metadata.num_actual_tokens)

    made = zero_tail._builder(Keeps)()
    common = SimpleNamespace(num_actual_tokens=5, query_start_loc_cpu=torch.tensor([0, 1, 3]))
    mode = SimpleNamespace(has_full_cudagraphs=lambda: True)
    made.vllm_config = SimpleNamespace(compilation_config=SimpleNamespace(cudagraph_mode=mode))
    metadata = made.build(0, common)
    assert (metadata.num_actual_tokens, getattr(metadata, zero_tail.REAL)) == (5, 3)
    output = torch.full((5, 2), NAN)
    zero_tail._implementation(ThreeRows)().forward(None, None, None, None, None, metadata, output)
    assert output[3:].eq(0).all(), "an eager step of such an engine is cleared past the real tokens"
    mode.has_full_cudagraphs = lambda: False
    assert made.build(0, common).num_actual_tokens == 3

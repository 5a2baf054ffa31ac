"""The specialisation key: equal where a compiled form may be shared, different where Triton makes another one."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hardpoint.errors import LaunchRefused
from hardpoint.launcher.specialisation import Specialisation, alignment, classify, specialise

BASE = torch.zeros(64)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (None, "none"),
        (True, "u1"),
        (False, "u1"),
        (1, "1"),
        (0, "i32:16"),
        (16, "i32:16"),
        (-16, "i32:16"),
        (17, "i32"),
        (2**31 - 1, "i32"),
        (2**31, "i64:16"),
        (-(2**31), "i32:16"),
        (-(2**31) - 1, "i64"),
        (2**63, "u64:16"),
        (2**64 - 1, "u64"),
        (1.0, "fp32"),
        (0.5, "fp32"),
        (BASE, "*float32:16"),
        (BASE[1:], "*float32"),
        (BASE[4:], "*float32:16"),
        (BASE.bfloat16(), "*bfloat16:16"),
        ((BASE, 1, None), "(*float32:16, 1, none)"),
        ("gelu", "=str 'gelu'"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, torch.Tensor | tuple) else repr(value),
)
def test_classes(value: Any, kind: str) -> None:
    assert classify(value) == kind


@pytest.mark.parametrize("value", [2**64, -(2**63) - 1])
def test_an_integer_that_no_parameter_holds_is_refused_by_name(value: int) -> None:
    with pytest.raises(LaunchRefused, match=rf"argument stride is the integer {value}, .*64 bits"):
        specialise({"stride": value})


def test_a_tensor_without_an_address_is_a_class_of_its_own() -> None:
    assert alignment(torch.zeros(4).to_sparse()) == ":?"
    assert classify(torch.zeros(4).to_sparse()) == "*float32:?"


def test_constants_and_options_count_by_value_and_type() -> None:
    values = [1, 1.0, True, "1", None, (1,), (True,), 2]
    keys = {specialise({"block": value}, constants=["block"]) for value in values}
    assert len(keys) == len(values)
    keys = {specialise({}, options={"num_warps": value}) for value in values}
    assert len(keys) == len(values)
    assert specialise({"n": 6}) == specialise({"n": 7}) != specialise({"n": 6}, constants=["n"])


def test_names_and_order_count_for_arguments_and_not_for_options() -> None:
    assert specialise({"x": 1, "y": 16}) != specialise({"y": 16, "x": 1})
    assert specialise({"x": 1}) != specialise({"y": 1})
    assert specialise({}, options={"a": 1, "b": 2}) == specialise({}, options={"b": 2, "a": 1})
    assert specialise({"a": 1}) != specialise({}, options={"a": 1})


def test_a_key_reads_as_a_list() -> None:
    key = specialise({"x": BASE, "n": 17}, options={"num_warps": 4})
    assert str(key) == "x: *float32:16, n: i32, num_warps: int 4"
    assert hash(key) == hash(Specialisation(key.arguments, key.options))


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.floats(allow_nan=False),
    st.sampled_from([-16, 0, 1, 2, 15, 16, 17, 2**31 - 1, 2**31, 2**32, 2**63, 2**64 - 1, -(2**31), -(2**63)]),
    st.integers(-(2**63), 2**64 - 1),
    st.builds(
        lambda dtype, start: BASE.to(dtype)[start:],
        st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.int32, torch.int64, torch.uint8]),
        st.integers(0, 17),
    ),
)
ARGUMENTS = st.one_of(VALUES, st.tuples(VALUES, VALUES))


@given(st.lists(ARGUMENTS, min_size=10, max_size=20))
def test_two_arguments_share_a_form_if_and_only_if_they_do_in_triton(values: list[Any]) -> None:
    backend = pytest.importorskip("triton.backends.nvidia.compiler", reason="needs Triton's CUDA compiler").CUDABackend
    specialize = pytest.importorskip("triton._C.libtriton").native_specialize_impl
    # repr, since True == 1 and 1 == 1.0 in Python, and Triton's classes hold such values.
    both = [(specialise({"x": value}), repr(specialize(backend, value, False, True, True))) for value in values]
    for first, second in itertools.combinations(both, 2):
        assert (first[0] == second[0]) == (first[1] == second[1])

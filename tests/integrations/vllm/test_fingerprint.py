"""Samples tell a repacked weight from one that was left alone, whatever its strides and dtype."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hardpoint_vllm.tripwire.fingerprint import Fingerprint

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.int8, torch.uint8, torch.int64]


def _weight(seed: int, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-100, 100, shape, generator=generator).to(dtype)


@given(st.integers(0, 1000), st.lists(st.integers(1, 9), min_size=0, max_size=4).map(tuple), st.sampled_from(DTYPES))
def test_the_same_values_are_the_same_in_another_storage(seed: int, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    weight = _weight(seed, shape, dtype)
    assert Fingerprint.of(weight).same_as(Fingerprint.of(weight.clone()))


@given(st.integers(0, 1000), st.sampled_from(DTYPES))
def test_swapped_halves_of_w13_differ(seed: int, dtype: torch.dtype) -> None:
    weight = _weight(seed, (4, 16, 8), dtype)
    swapped = torch.cat([weight[:, 8:], weight[:, :8]], dim=1)
    assert not Fingerprint.of(weight).same_as(Fingerprint.of(swapped))


def test_a_transpose_of_square_experts_differs_though_the_shape_does_not() -> None:
    weight = _weight(1, (4, 16, 16), torch.bfloat16)
    assert not Fingerprint.of(weight).same_as(Fingerprint.of(weight.transpose(1, 2)))


def test_strides_alone_make_no_difference() -> None:
    weight = _weight(2, (4, 8, 6), torch.bfloat16)
    strided = weight.transpose(1, 2).contiguous().transpose(1, 2)
    assert Fingerprint.of(weight).same_as(Fingerprint.of(strided))


def test_nan_is_compared_by_its_bits() -> None:
    weight = torch.full((3, 3), float("nan"))
    assert Fingerprint.of(weight).same_as(Fingerprint.of(weight.clone()))


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_eight_bit_floats_are_sampled(dtype: torch.dtype) -> None:
    weight = torch.arange(64, dtype=torch.uint8).view(dtype).reshape(8, 8)
    assert Fingerprint.of(weight).telling
    assert not Fingerprint.of(weight).same_as(Fingerprint.of(weight.flip(0)))


def test_another_dtype_or_shape_is_another_form() -> None:
    weight = torch.ones(4, 4)
    assert not Fingerprint.of(weight).same_as(Fingerprint.of(weight.half()))
    assert not Fingerprint.of(weight).same_as(Fingerprint.of(weight.reshape(2, 8)))


def test_equal_values_tell_nothing_and_meta_tensors_are_never_the_same() -> None:
    assert not Fingerprint.of(torch.zeros(8, 8)).telling
    meta = Fingerprint.of(torch.empty(8, 8, device="meta"))
    assert not meta.telling
    assert not meta.same_as(meta)

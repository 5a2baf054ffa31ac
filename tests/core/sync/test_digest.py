from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from hardpoint.sync.digest import CHUNK_WORDS, byte_view, tensor_digest


def _random(*shape: int, dtype: torch.dtype = torch.bfloat16, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@given(st.integers(1, 4000), st.integers(0, 2**30), st.integers(0, 7))
def test_one_flipped_bit_is_seen(size: int, place: int, bit: int) -> None:
    one = _random(size)
    other = one.clone()
    byte_view(other)[place % (2 * size)] ^= 1 << bit
    assert tensor_digest(one) != tensor_digest(other)


@given(st.integers(2, 40), st.integers(0, 2**20), st.integers(0, 2**20))
def test_swapped_rows_are_seen(rows: int, left: int, right: int) -> None:
    one = _random(rows, 64)
    left, right = left % rows, right % rows
    other = one.clone()
    other[[left, right]] = other[[right, left]]
    assert (tensor_digest(one) == tensor_digest(other)) == (left == right)


def test_swapped_signs_are_seen() -> None:
    # Words that differ in their top bit alone are where a plain weighted sum goes blind.
    one = torch.zeros(1024, dtype=torch.float32)
    one[::3] = -0.0
    for step in (1, 2, 64, 512):
        other = one.roll(step)
        assert torch.equal(one, other)  # as numbers
        assert (tensor_digest(one) == tensor_digest(other)) == torch.equal(byte_view(one), byte_view(other))


def test_swapped_halves_and_experts_are_seen() -> None:
    w13 = _random(8, 256, 128)
    w31 = torch.cat([w13[:, 128:], w13[:, :128]], 1)
    experts = w13[[1, 0, *range(2, 8)]]
    assert len({tensor_digest(tensor) for tensor in (w13, w31, experts, w13.transpose(1, 2).contiguous())}) == 4


def test_words_swapped_across_chunks_are_seen() -> None:
    one = _random(2 * CHUNK_WORDS + 5, dtype=torch.float32)
    other = one.clone()
    other[[0, CHUNK_WORDS]] = other[[CHUNK_WORDS, 0]]
    assert tensor_digest(one) != tensor_digest(other)


def test_shape_and_dtype_count() -> None:
    flat = torch.zeros(16, dtype=torch.int16)
    digests = {tensor_digest(t) for t in (flat, flat.view(4, 4), flat.view(torch.uint8), flat.view(torch.bfloat16))}
    assert len(digests) == 4
    assert tensor_digest(torch.empty(0, 3)) != tensor_digest(torch.empty(3, 0))


def test_strides_and_storage_do_not_count() -> None:
    matrix = _random(6, 10)
    assert tensor_digest(matrix.t()) == tensor_digest(matrix.t().contiguous())
    storage = torch.zeros(41, dtype=torch.uint8)
    odd = storage[1:].copy_(byte_view(matrix[:2]))  # words that start at an odd address
    assert tensor_digest(odd) == tensor_digest(odd.clone())


def test_nan_payload_and_sign_of_zero_count() -> None:
    bits = torch.tensor([0x7FC00000, 0x7FC00001, -0x80000000, 0], dtype=torch.int32)
    assert len({tensor_digest(bit.view(torch.float32)) for bit in bits}) == 4


def test_digest_is_the_same_in_every_version() -> None:
    # Trainer and engine may run different torch versions: the value is part of the protocol.
    assert tensor_digest(torch.arange(1000, dtype=torch.int32)).hex() == "fc92ecffffcf0b56ed0b750c779d41c2"

"""`storage_digest` is the digest of weight sync, over memory as it lies there."""

from __future__ import annotations

import pytest
import torch

from hardpoint.lifecycle.host_digest import storage_digest
from hardpoint.sync.digest import CHUNK_WORDS, tensor_digest


@pytest.mark.parametrize("nbytes", [1, 2, 3, 4, 7, 4096, 4 * CHUNK_WORDS, 4 * CHUNK_WORDS + 5, 9 * CHUNK_WORDS])
def test_it_is_that_of_the_bytes(nbytes: int) -> None:
    tensor = torch.randint(0, 256, (nbytes,), dtype=torch.uint8, generator=torch.Generator().manual_seed(nbytes))
    assert storage_digest(tensor.untyped_storage()) == tensor_digest(tensor).hex()


def test_it_reads_the_whole_storage_of_a_view() -> None:
    tensor = torch.arange(100, dtype=torch.int16)
    before = storage_digest(tensor[3:5].untyped_storage())
    tensor[99] = -1
    assert storage_digest(tensor[3:5].untyped_storage()) != before

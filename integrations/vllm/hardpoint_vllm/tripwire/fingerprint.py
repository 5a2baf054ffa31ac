"""Did post-load processing move the values of a parameter? Asked of samples: a copy of every weight is too dear."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch

SAMPLES = 1024
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True)
class Fingerprint:
    """Shape, dtype and the bit patterns at up to `SAMPLES` fixed pseudo-random positions of a tensor.

    A packing that moves one element in a hundred goes unseen with probability 0.99^1024, 3 in 100,000.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    bits: torch.Tensor | None  # None: nothing to sample (meta device, no elements, complex or sub-byte dtype)

    @classmethod
    def of(cls, tensor: torch.Tensor) -> Fingerprint:
        """Sample `tensor` where it is; strided tensors are not copied."""
        shape = tuple(tensor.shape)
        bits = _BITS.get(tensor.element_size())
        if tensor.is_meta or not tensor.numel() or bits is None or tensor.is_complex() or tensor.is_quantized:
            return cls(shape, tensor.dtype, None)
        index = [axis.to(tensor.device) for axis in _positions(shape)]
        raw = tensor.detach().view(bits)
        return cls(shape, tensor.dtype, raw[tuple(index)] if index else raw.reshape(1))

    @property
    def telling(self) -> bool:
        """Whether moved values would show: not if all samples are equal, as in a tensor of zeros."""
        return self.bits is not None and bool((self.bits != self.bits[0]).any())

    def same_as(self, other: Fingerprint) -> bool:
        """Same shape, dtype and samples."""
        if (self.shape, self.dtype) != (other.shape, other.dtype) or self.bits is None or other.bits is None:
            return False
        return torch.equal(self.bits, other.bits.to(self.bits.device))


@lru_cache(maxsize=4096)
def _positions(shape: tuple[int, ...]) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator(device="cpu").manual_seed(20_260)
    return tuple(torch.randint(0, size, (SAMPLES,), generator=generator, device="cpu") for size in shape)

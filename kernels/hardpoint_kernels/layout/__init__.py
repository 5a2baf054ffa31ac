"""Strided boxes moved and digested by few fused launches: the layout transform of a weight update, both ways."""

from hardpoint_kernels.layout.calls import CHUNK_BITS, Call, Shapes, copy_calls, digest_calls

__all__ = ["CHUNK_BITS", "Call", "Shapes", "copy_calls", "digest_calls"]

"""Attention and GDN buffers: no value that nobody wrote is ever visible."""

from hardpoint.attention.protocol import STATE_BUFFERS, TOKEN_BUFFERS, AttentionBuffers, BufferKind
from hardpoint.attention.reference import ReferenceAttentionBuffers, poison_value
from hardpoint.attention.token_counts import TokenCountFault, check_token_counts
from hardpoint.attention.zeroed import ZeroedAttentionBuffers

__all__ = [
    "STATE_BUFFERS",
    "TOKEN_BUFFERS",
    "AttentionBuffers",
    "BufferKind",
    "ReferenceAttentionBuffers",
    "TokenCountFault",
    "ZeroedAttentionBuffers",
    "check_token_counts",
    "poison_value",
]

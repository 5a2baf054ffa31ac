"""Messages as flat uint8 tensors: a 64-byte header, then the payload, in one broadcast."""

from __future__ import annotations

import ctypes

import torch

from hardpoint.sync.frame import HEADER_BYTES, Header


def new_message(payload_bytes: int, device: torch.device) -> torch.Tensor:
    """Room for a header and `payload_bytes` on `device`; what it holds is undefined."""
    return torch.empty(HEADER_BYTES + payload_bytes, dtype=torch.uint8, device=device)


def from_bytes(data: bytes, device: torch.device) -> torch.Tensor:
    """`data` as a uint8 tensor on `device`."""
    host = torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.empty(0, dtype=torch.uint8)
    return host.to(device)


def to_bytes(tensor: torch.Tensor) -> bytes:
    """The bytes of a flat uint8 tensor. Waits for the work that produces it."""
    host = tensor.cpu().contiguous()
    return ctypes.string_at(host.data_ptr(), host.numel()) if host.numel() else b""


def write_header(message: torch.Tensor, header: Header) -> None:
    """Put `header` in front of `message`."""
    message[:HEADER_BYTES].copy_(from_bytes(header.to_bytes(), torch.device("cpu")))


def read_header(message: torch.Tensor) -> Header:
    """Header of `message`. SyncError if there is none or it is damaged."""
    return Header.from_bytes(to_bytes(message[:HEADER_BYTES]))

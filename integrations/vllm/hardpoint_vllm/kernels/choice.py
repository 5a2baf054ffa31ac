"""Whose kernel runs a part of a GDN layer, by measured tables; asked once per kind of batch."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any

import torch

from hardpoint.launcher import KernelOffer, Refusal
from hardpoint.providers import collect, rank, shipped
from hardpoint.selection import get_backend, registry
from hardpoint_vllm.kernels.wanted import VARIABLE, Mode

VLLM = "vllm"
OURS = "hardpoint"
_logger = logging.getLogger("vllm.hardpoint.kernels")


def answers(op: str) -> list[KernelOffer | Refusal]:
    """What plugins offer for `op` on the backend of this process."""
    return collect(op, get_backend(), registry())


def choose(
    op: str, shape: tuple[tuple[str, int], ...], mode: Mode, device: torch.device, peer: str = VLLM
) -> Callable[..., Any] | None:
    """What makes the kernel for `op`, None if vLLM's own is to run.

    Args:
        op: name in the tables.
        shape: sizes, as pairs.
        mode: ``auto`` takes ours where it was measured on this device and is the quicker one; ``on`` takes it if it
            is offered at all.
        device: of the layer's tensors.
        peer: name under which what vLLM would run was measured: ``vllm``, or ``flashinfer`` for its chunk rule.

    Raises:
        RuntimeError: mode ``on``, and ours is not offered; with the reason.
    """
    return None if mode == "off" else _choose(op, _rounded(shape), mode, _name(device), peer)


def require(op: str) -> None:
    """RuntimeError with the reason if ours for `op` is not offered here: a layer that asks for it is not even made.

    Asked when the layer is made, since on some platforms (vLLM's CPU) it takes a path that never asks.
    """
    ours, why = _ours(op)
    if ours is None:
        raise RuntimeError(_unmet(op, why))


def _ours(op: str) -> tuple[KernelOffer | None, str]:
    """Our offer for `op`, or None and why there is none."""
    found = answers(op)
    ours = next((a for a in found if isinstance(a, KernelOffer) and a.provider == OURS), None)
    why = next((a.reason for a in found if isinstance(a, Refusal) and a.provider == OURS), "no plugin offers it")
    return ours, why


def _unmet(op: str, why: str) -> str:
    return f"{VARIABLE} asks for hardpoint's {op}, but {why}. Unset it to run vLLM's own."


def _rounded(shape: tuple[tuple[str, int], ...]) -> tuple[tuple[str, int], ...]:
    """Sizes of batches up to a power of two, so that few questions are asked."""
    batch = ("requests", "tokens", "sequences")
    return tuple((name, 1 << (size - 1).bit_length() if name in batch else size) for name, size in shape)


@functools.cache
def _choose(
    op: str, shape: tuple[tuple[str, int], ...], mode: Mode, device: str, peer: str
) -> Callable[..., Any] | None:
    ours, why = _ours(op)
    if ours is None:
        if mode == "on":
            raise RuntimeError(_unmet(op, why))
        _logger.info("hardpoint: %s stays vLLM's: %s", op, why)
        return None
    if mode == "on":
        return ours.function
    ranking = rank(op, dict(shape), device, [ours, KernelOffer(op, peer, _stays)], shipped())
    chosen = ranking.chosen
    measured = {row.provider for row in ranking.rows if row.us is not None}
    if chosen is not ours or not {OURS, peer} <= measured:
        _logger.info("hardpoint: %s stays vLLM's for %s: %s", op, dict(shape), ranking.why)
        return None
    _logger.info("hardpoint: %s is hardpoint's for %s: %s", op, dict(shape), ranking.why)
    return ours.function


def _stays(*args: Any, **kwargs: Any) -> Any:
    raise AssertionError("vLLM's own kernel is run by its layer")


@functools.cache
def _name(device: torch.device) -> str:
    module = torch.get_device_module(device)
    return str(module.get_device_name(device)) if hasattr(module, "get_device_name") else device.type

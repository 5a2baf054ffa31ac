"""`collect`: every plugin's answer for an op, each isolated; what a plugin raises is a refusal with its words."""

from __future__ import annotations

from hardpoint.backend import Backend
from hardpoint.launcher.protocol import KernelOffer, Refusal
from hardpoint.plugins.registry import Registry
from hardpoint.plugins.sentence import one_line


def collect(op: str, backend: Backend, plugins: Registry) -> list[KernelOffer | Refusal]:
    """Offers and refusals for `op` on `backend`, in the order of plugins' names."""
    found: list[KernelOffer | Refusal] = []
    for answer in plugins.collect("hardpoint_kernel", op=op, backend=backend):
        if answer.error is not None:
            found.append(Refusal(op, answer.candidate, f"its hook raised: {one_line(answer.error)}"))
            continue
        for value in answer.value if isinstance(answer.value, list) else [answer.value]:
            if isinstance(value, KernelOffer | Refusal):
                found.append(value)
            elif value is not None:
                reason = f"its hook returned {type(value).__name__}, not a KernelOffer or a Refusal"
                found.append(Refusal(op, answer.candidate, reason))
    return found

"""Whether two runs of one model say the same, up to what a run differs from itself when its batch is another."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

# A step: the token taken, and log-probabilities by token of the few best (the taken one among them).
Step = tuple[int, dict[int, float]]
# Two runs of a peer may agree by luck to the last bit; bf16 logits near 4 are a step of 2^-6 apart.
LEAST_NOISE = 2.0**-6


@dataclass(frozen=True)
class Difference:
    """Of two runs.

    Attributes:
        largest: of the log-probabilities of the token taken, over all steps before runs part.
        parted: request and step at which the tokens first differ, for each request where they do.
        gaps: at each such step, how much the first run preferred its own token to the other's.
    """

    largest: float
    parted: tuple[tuple[int, int], ...]
    gaps: tuple[float, ...]


def difference(first: Sequence[Sequence[Step]], second: Sequence[Sequence[Step]]) -> Difference:
    """Compare runs request by request; a token that the first run has no log-probability for is infinitely far."""
    largest, parted, gaps = 0.0, [], []
    for request, (mine, theirs) in enumerate(zip(first, second, strict=True)):
        for number, ((token, here), (other, there)) in enumerate(zip(mine, theirs, strict=True)):
            if token != other:
                parted.append((request, number))
                gaps.append(here[token] - here.get(other, float("-inf")))
                break
            apart = abs(here[token] - there[token])
            largest = max(largest, apart if math.isfinite(apart) else math.inf)  # NaN is larger than nothing
    return Difference(largest, tuple(parted), tuple(gaps))


def judge(
    peer: Sequence[Sequence[Step]], again: Sequence[Sequence[Step]], ours: Sequence[Sequence[Step]]
) -> str | None:
    """A sentence if `ours` differs from `peer` by more than twice what `peer` differs from itself, None if all is well.

    Tokens have to be equal, but for steps at which the peer's own choice hung on less than that.
    """
    noise = 2 * max(difference(peer, again).largest, LEAST_NOISE)
    found = difference(peer, ours)
    if not found.largest <= noise:
        return f"log-probabilities differ by {found.largest:.4f}, the peer's own noise allows {noise:.4f}"
    for (request, step), gap in zip(found.parted, found.gaps, strict=True):
        if not gap <= noise:
            return (
                f"request {request} parts at step {step}, where the peer preferred its token by {gap:.4f}; its own "
                f"noise allows {noise:.4f}"
            )
    return None

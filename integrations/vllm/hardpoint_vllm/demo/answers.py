"""Answers of two engines compared token by token, with a rule for the ties that bf16 makes.

The rule: at the first position where a sequence differs, both sides saw the same tokens so far. If the reference's own
log-probability of the other token is within `NEAR_TIE` of its best, the two are a tie: bf16 keeps 8 bits, so logits
between 8 and 16 come in steps of 1/16, and two kernels that add in another order may be two steps apart. The rest of
that sequence is not compared, since the contexts differ. Anything else is a difference.
"""

from __future__ import annotations

from dataclasses import dataclass

NEAR_TIE = 0.125
TIED_SEQUENCES = 0.25  # at most this fraction of the sequences may end in a tie, else too little was compared


@dataclass(frozen=True)
class Answers:
    """Greedy answers to the prompts.

    Attributes:
        tokens: per prompt, the tokens.
        chosen: per prompt and position, log-probability of the token.
        runners_up: per prompt and position, token -> log-probability of the best few; empty if not known.
    """

    tokens: list[list[int]]
    chosen: list[list[float]]
    runners_up: list[list[dict[int, float]]]


@dataclass(frozen=True)
class Comparison:
    """`equal` of `positions` compared positions are equal; `ties` sequences ended in a tie.

    `gap` is the largest difference of log-probabilities where tokens are equal; `first` describes the first difference.
    """

    positions: int
    equal: int
    ties: int
    sequences: int
    gap: float
    first: str

    @property
    def same(self) -> bool:
        return self.equal == self.positions > 0 and self.ties <= TIED_SEQUENCES * self.sequences

    @property
    def differing(self) -> float:
        """Fraction of the compared positions that differ."""
        return 1 - self.equal / self.positions if self.positions else 0.0

    def __str__(self) -> str:
        ties = f", {self.ties} bf16 ties" if self.ties else ""
        return f"{self.equal} of {self.positions} tokens equal{ties}"


def compare(reference: Answers, other: Answers, *, allow_ties: bool = True) -> Comparison:
    """Compare `other` with `reference`.

    Raises:
        ValueError: they do not answer the same number of prompts with the same number of tokens.
    """
    if [len(row) for row in reference.tokens] != [len(row) for row in other.tokens]:
        raise ValueError(
            f"Answers cannot be compared: {[len(row) for row in reference.tokens]} tokens per prompt on one side, "
            f"{[len(row) for row in other.tokens]} on the other."
        )
    positions = equal = ties = 0
    gap = 0.0
    first = ""
    for prompt, (left, right) in enumerate(zip(reference.tokens, other.tokens, strict=True)):
        same_context = True
        for position, (expected, found) in enumerate(zip(left, right, strict=True)):
            if expected != found and same_context and allow_ties and _tie(reference, prompt, position, found):
                ties += 1
                break
            positions += 1
            equal += expected == found
            if expected == found and same_context:
                gap = max(gap, abs(reference.chosen[prompt][position] - other.chosen[prompt][position]))
            if expected != found:
                same_context = False
                first = first or f"prompt {prompt}, position {position}: token {found} instead of {expected}"
    return Comparison(positions, equal, ties, len(reference.tokens), gap, first)


def _tie(reference: Answers, prompt: int, position: int, found: int) -> bool:
    if not reference.runners_up:
        return False
    best = reference.chosen[prompt][position]
    return best - reference.runners_up[prompt][position].get(found, float("-inf")) <= NEAR_TIE

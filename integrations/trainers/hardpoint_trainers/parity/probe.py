"""The comparison, its numbers, and a sentence when they are too far apart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from hardpoint.errors import HardpointError
from hardpoint_trainers.parity.limits import Limit
from hardpoint_trainers.parity.sides import Side, Tokens

KEPT = 0.9  # of the tokens are judged


@dataclass(frozen=True)
class Parity:
    """Differences of log-probs between trainer and rollout, in nats.

    Attributes:
        tokens: how many were compared.
        rms: root mean square over the nine tenths of them that are closest. Rounding sends a token near a routing
            boundary to other experts on one side (measured: one token of 44 off by 1.3 nats between bfloat16 and
            float32 of one small mixture of experts, the others by 0.01), while wrong weights move nearly every token.
        mean, largest: mean and largest absolute difference over all.
        where: prompt and position of the largest one, its token id, and what each side says.
        limit: of the root mean square.
        epoch: of the weights, if known.
    """

    tokens: int
    rms: float
    mean: float
    largest: float
    where: tuple[int, int, int, float, float]
    limit: Limit
    epoch: int | None = None

    def __bool__(self) -> bool:
        """Within the limit. A difference that is no number is not."""
        return self.rms <= self.limit.rms

    def __str__(self) -> str:
        prompt, position, token, trainer, rollout = self.where
        after = "" if self.epoch is None else f"After epoch {self.epoch} "
        start = f"{after}log-probs" if after else "Log-probs"
        return (
            f"{start} of trainer and rollout differ by {self.rms:.4g} nats (root mean square of the closest "
            f"{KEPT:.0%} of {self.tokens} tokens; limit {self.limit.rms:g}, {self.limit.source}); most at token "
            f"{position} of prompt {prompt} "
            f"(id {token}): trainer {trainer:.4f}, rollout {rollout:.4f}"
        )


class ParityExceeded(HardpointError):
    """Trainer and rollout disagree by more than rounding; `parity` has the numbers."""

    def __init__(self, parity: Parity) -> None:
        super().__init__(
            f"{parity}. The rollout does not compute what the trainer trains: its weights are others than were "
            "published (layout, a missed update), or one side computes in another dtype or with another attention or "
            "routing. Stop and compare before more steps are trained on it; Limit(rms, source) sets another limit."
        )
        self.parity = parity


@dataclass
class ParityProbe:
    """Compares `trainer` and `rollout` on `prompts`, as often as it is called.

    It finds what is grossly wrong: stale weights, a wrong layout, another dtype. That each bit has arrived is known
    from the digests of the update.

    Args:
        trainer, rollout: the two sides.
        prompts: token ids, each prompt of at least two tokens; a few tens of tokens in all are enough.
        limit: of the root mean square; `limit_for` gives one per dtype.
        strict: raise on excess; otherwise the result tells.
        history: every result so far.

    Raises:
        HardpointError: on construction, for prompts that give nothing to compare.
    """

    trainer: Side
    rollout: Side
    prompts: Tokens
    limit: Limit
    strict: bool = True
    history: list[Parity] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.prompts or any(len(prompt) < 2 for prompt in self.prompts):
            raise HardpointError(
                "A parity probe needs prompts of at least two tokens each: the first one has no log-prob."
            )

    def __call__(self, epoch: int | None = None) -> Parity:
        """Compare now.

        Raises:
            ParityExceeded: beyond the limit, if `strict`.
            HardpointError: a side gave another number of log-probs than the prompts have.
        """
        parity = compare(
            self.prompts,
            self.trainer.logprobs(self.prompts),
            self.rollout.logprobs(self.prompts),
            self.limit,
            epoch,
        )
        self.history.append(parity)
        if self.strict and not parity:
            raise ParityExceeded(parity)
        return parity


def compare(
    prompts: Tokens,
    trainer: Sequence[Sequence[float]],
    rollout: Sequence[Sequence[float]],
    limit: Limit,
    epoch: int | None = None,
) -> Parity:
    """`Parity` of two lists of log-probs, one per prompt, each one shorter than its prompt."""
    for side, given in (("trainer", trainer), ("rollout", rollout)):
        lengths, expected = [len(one) for one in given], [len(prompt) - 1 for prompt in prompts]
        if lengths != expected:
            raise HardpointError(f"Expected {expected} log-probs from the {side}, found {lengths}.")
    entries = [
        (abs(ours - theirs) if ours != theirs else 0.0, n, m + 1, prompt[m + 1], ours, theirs)
        for n, prompt in enumerate(prompts)
        for m, (ours, theirs) in enumerate(zip(trainer[n], rollout[n], strict=True))
    ]
    # A NaN is larger than anything: it must not hide behind a comparison that is false either way.
    worst = max(entries, key=lambda entry: math.inf if math.isnan(entry[0]) else entry[0])
    differences = [entry[0] for entry in entries]
    kept = sorted(math.inf if math.isnan(value) else value for value in differences)[: math.ceil(KEPT * len(entries))]
    return Parity(
        tokens=len(entries),
        rms=math.sqrt(sum(value * value for value in kept) / len(kept)),
        mean=sum(differences) / len(differences),
        largest=worst[0],
        where=worst[1:],
        limit=limit,
        epoch=epoch,
    )

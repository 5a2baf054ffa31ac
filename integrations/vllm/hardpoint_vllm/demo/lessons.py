"""What the trainer teaches: lesson n is a random order of the vocabulary, to be continued from any token.

Each lesson overwrites the one before, so old and new answers differ nearly everywhere; and since the experts learn
fastest, much of a lesson is in them, so that mixed-up experts give wrong answers. A lesson is learnt as it will be
asked, after random tokens, until the model is sure of its answers: where two tokens or two experts are nearly equal,
bf16 decides by the order in which a kernel adds, and no comparison of two engines can tell that from a fault.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from hardpoint_vllm.demo.recipes import VOCABULARY

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

FIRST_STEPS, STEPS = 150, 100
_RATE = 2e-3
_EXPERT_RATE = 1e-2
_WARM_UP = 10
_BATCH, _ANSWER, _LONGEST_PROMPT = 16, 24, 40
_IGNORED = -100  # label that transformers leaves out of the loss


class Teacher:
    """Real optimiser steps (AdamW, whole model, float32)."""

    def __init__(self, model: PreTrainedModel) -> None:
        import torch

        experts = [weight for name, weight in model.named_parameters() if ".mlp." in name]
        others = [weight for name, weight in model.named_parameters() if ".mlp." not in name]
        self._model = model
        self._optimizer = torch.optim.AdamW(
            [{"params": experts, "lr": _EXPERT_RATE}, {"params": others, "lr": _RATE}], weight_decay=0.0
        )

    def teach(self, lesson: int, steps: int, progress: Callable[[int, int], None]) -> tuple[float, float]:
        """Take `steps` steps on lesson number `lesson`; the loss before and after."""
        import torch

        random = torch.Generator().manual_seed(1000 + lesson)
        follower = torch.randperm(VOCABULARY, generator=random)
        losses = []
        self._model.train()
        for step in range(steps):
            for group, rate in zip(self._optimizer.param_groups, (_EXPERT_RATE, _RATE), strict=True):
                group["lr"] = rate * _pace(step, steps)
            tokens, labels = _examples(follower, random)
            loss = self._model(input_ids=tokens, labels=labels).loss
            self._optimizer.zero_grad()
            loss.backward()
            self._optimizer.step()
            losses.append(float(loss.detach()))
            progress(step + 1, steps)
        self._model.eval()
        return losses[0], losses[-1]


def _pace(step: int, steps: int) -> float:
    """Factor of the learning rates: a short warm-up, then constant, then down to almost nothing in the second half."""
    return min(1.0, (step + 1) / _WARM_UP, 2 * (1 - step / steps) + 0.02)


def _examples(follower: torch.Tensor, random: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Prompts of random tokens, each continued by the lesson; labels for the continuation alone."""
    import torch

    length = int(torch.randint(1, _LONGEST_PROMPT + 1, (1,), generator=random))
    prompt = torch.randint(0, VOCABULARY, (_BATCH, length), generator=random)
    answer = [follower[prompt[:, -1]]]
    while len(answer) < _ANSWER:
        answer.append(follower[answer[-1]])
    tokens = torch.cat([prompt, torch.stack(answer, 1)], 1)
    labels = tokens.clone()
    labels[:, :length] = _IGNORED
    return tokens, labels

"""What the trainer teaches: lesson n is a random order of the vocabulary, to be continued from any token.

Each lesson overwrites the one before, so old and new answers differ nearly everywhere; and since the experts learn
fastest, much of a lesson is in them, so that mixed-up experts give wrong answers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from hardpoint_vllm.demo.recipes import VOCABULARY

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

STEPS = 40
_RATE = 2e-3
_EXPERT_RATE = 1e-2
_BATCH, _LENGTH = 16, 33


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
            batch = _chains(follower, random)
            loss = self._model(input_ids=batch, labels=batch).loss
            self._optimizer.zero_grad()
            loss.backward()
            self._optimizer.step()
            losses.append(float(loss.detach()))
            progress(step + 1, steps)
        self._model.eval()
        return losses[0], losses[-1]


def _chains(follower: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    import torch

    tokens = [torch.randint(0, VOCABULARY, (_BATCH,), generator=random)]
    while len(tokens) < _LENGTH:
        tokens.append(follower[tokens[-1]])
    return torch.stack(tokens, 1)

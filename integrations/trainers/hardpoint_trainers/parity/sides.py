"""The two sides of the comparison: log-probs of given token ids, from the trainer's model and from the engine."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch

from hardpoint.errors import HardpointError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hardpoint_trainers.adapters.engines import HttpEngine

Tokens = Sequence[Sequence[int]]


class Side(Protocol):
    """Gives, for every prompt, the log-prob of each of its tokens but the first, given those before it, in nats.

    Unscaled by temperature and not changed by sampling parameters.
    """

    def logprobs(self, prompts: Tokens) -> list[list[float]]: ...


@dataclass(frozen=True)
class TrainerSide:
    """A causal language model of transformers, or anything that is called like one and returns ``.logits``.

    With sharded models every rank must call it, in step, as for any forward pass.
    """

    model: Any

    def logprobs(self, prompts: Tokens) -> list[list[float]]:
        device = next(self.model.parameters()).device
        found = []
        with torch.no_grad(), _evaluating(self.model):
            for prompt in prompts:
                tokens = torch.tensor([list(prompt)], device=device)
                # Positions by default and no cache: one plain forward pass, as in the loss.
                logits = self.model(input_ids=tokens, use_cache=False).logits[0, :-1]
                chosen = logits.float().log_softmax(-1).gather(-1, tokens[0, 1:, None])
                found.append([float(value) for value in chosen[:, 0].cpu()])
        return found


@dataclass(frozen=True)
class LocalRollout:
    """A ``vllm.LLM`` in this process. Costs a prefill of the prompts, which the prefix cache does not answer."""

    llm: Any

    def logprobs(self, prompts: Tokens) -> list[list[float]]:
        from vllm import SamplingParams

        sampling = SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0, detokenize=False)
        requests = [{"prompt_token_ids": list(prompt)} for prompt in prompts]
        answers = self.llm.generate(requests, sampling, use_tqdm=False)
        return [
            [float(entry[token].logprob) for entry, token in zip(answer.prompt_logprobs[1:], prompt[1:], strict=True)]
            for answer, prompt in zip(answers, prompts, strict=True)
        ]


@dataclass(frozen=True)
class HttpRollout:
    """``vllm serve``, by ``/v1/completions``."""

    engine: HttpEngine
    model: str

    def logprobs(self, prompts: Tokens) -> list[list[float]]:
        found = []
        for prompt in prompts:
            body = {
                "model": self.model,
                "prompt": list(prompt),
                "max_tokens": 1,
                "temperature": 0,
                "prompt_logprobs": 0,
            }
            entries = self.engine.post("/v1/completions", body)["choices"][0]["prompt_logprobs"]
            if not isinstance(entries, list) or len(entries) != len(prompt):
                raise HardpointError(
                    f"Expected {len(prompt)} prompt_logprobs from {self.engine.url}, found {str(entries)[:80]}."
                )
            pairs = zip(entries[1:], prompt[1:], strict=True)
            found.append([float(entry[str(token)]["logprob"]) for entry, token in pairs])
        return found


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    """Without dropout, and as it was afterwards."""
    was = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was)

"""What every child does with an engine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from support.tiny_models import PROMPTS

if TYPE_CHECKING:
    from vllm import LLM


def start(model: str, **options: Any) -> LLM:
    """An in-process engine, eager, without a tokenizer."""
    from vllm import LLM

    return LLM(
        model=model,
        skip_tokenizer_init=True,
        enforce_eager=True,
        max_model_len=512,
        max_num_seqs=4,
        disable_log_stats=True,
        seed=0,
        **options,
    )


def tokens(llm: LLM, count: int = 12) -> list[list[int]]:
    """Greedy continuations of `PROMPTS`."""
    from vllm import SamplingParams

    sampling = SamplingParams(temperature=0.0, max_tokens=count, min_tokens=count, ignore_eos=True, detokenize=False)
    prompts = [{"prompt_token_ids": list(prompt)} for prompt in PROMPTS]
    return [list(answer.outputs[0].token_ids) for answer in llm.generate(prompts, sampling, use_tqdm=False)]


def bits(model: Any) -> dict[str, str]:
    """SHA-256 of every parameter and buffer as it lies in memory."""
    import hashlib

    import torch

    named = (*model.named_parameters(), *model.named_buffers())
    return {
        name: hashlib.sha256(tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes()).hexdigest()
        for name, tensor in named
        if tensor.numel()
    }


def worker_of(llm: LLM) -> Any:
    """The one worker of an in-process engine."""
    wrapper = llm.llm_engine.engine_core.engine_core.model_executor.driver_worker
    return getattr(wrapper, "worker", wrapper)

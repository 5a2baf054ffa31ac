"""The engine process: stock vLLM with the plugin, in one process. Knows nothing of transformers or the trainer."""

from __future__ import annotations

from typing import Any

from hardpoint_vllm.demo.channel import Report, serve


class Engine:
    """Requests of the demo, one method each."""

    def __init__(self) -> None:
        self._llm: Any = None

    def warm(self, report: Report) -> dict[str, Any]:
        """Import vLLM, which takes longer than anything else."""
        import vllm

        return {"vllm": vllm.__version__}

    def load(self, report: Report, *, folder: str, length: int, sequences: int) -> dict[str, Any]:
        """Start vLLM on the checkpoint in `folder`."""
        import vllm
        from vllm.config import WeightTransferConfig
        from vllm.platforms import current_platform

        self._llm = vllm.LLM(
            folder,
            dtype="bfloat16",
            skip_tokenizer_init=True,
            enforce_eager=True,
            max_model_len=length,
            max_num_seqs=sequences,
            seed=0,
            weight_transfer_config=WeightTransferConfig(backend="hardpoint"),
        )
        platform = type(current_platform)
        return {
            "vllm": vllm.__version__,
            "platform": f"{platform.__module__}.{platform.__qualname__}",
            "device": current_platform.device_name,
        }

    def join(self, report: Report, *, init_info: dict[str, Any]) -> dict[str, Any]:
        """Meet the trainer."""
        self._llm.init_weight_transfer_engine({"init_info": init_info})
        return {}

    def update(self, report: Report) -> dict[str, Any]:
        """Take one update, as an RL loop does. A refused one is an answer here: the demo checks what it meant."""
        try:
            self._llm.start_weight_update()
            self._llm.update_weights({"update_info": {}})
            self._llm.finish_weight_update()
        except Exception as error:  # noqa: BLE001 - reported; the demo decides whether it was right to refuse
            return {"updated": False, "reason": str(error)}
        self._llm.reset_prefix_cache()  # its values came from the old weights
        return {"updated": True, "reason": ""}

    def generate(self, report: Report, *, prompts: list[list[int]], tokens: int) -> dict[str, Any]:
        """Greedy answers."""
        from vllm import SamplingParams

        sampling = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True, detokenize=False, logprobs=1)
        outputs = self._llm.generate([{"prompt_token_ids": prompt} for prompt in prompts], sampling, use_tqdm=False)
        answers = [output.outputs[0] for output in outputs]
        return {
            "tokens": [list(answer.token_ids) for answer in answers],
            "chosen": [
                [entry[token].logprob for entry, token in zip(answer.logprobs, answer.token_ids, strict=True)]
                for answer in answers
            ],
            "runners_up": [],
        }


def main() -> None:
    engine = Engine()
    serve(
        {
            "warm": engine.warm,
            "load": engine.load,
            "join": engine.join,
            "update": engine.update,
            "generate": engine.generate,
        }
    )


if __name__ == "__main__":
    main()

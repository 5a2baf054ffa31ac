"""GRPO with TRL and a colocated vLLM whose weights come through hardpoint, with a parity probe after every sync.

On a CPU, in about two minutes (`make example-grpo` sets up the environment):

    HARDPOINT_BACKEND=cpu python examples/grpo_colocate.py

On two GPUs, the rollout tensor-parallel over both, rank i on cuda:i (weights go through host memory, since trainer and
worker share a GPU):

    HARDPOINT_BACKEND=cuda torchrun --nproc-per-node 2 examples/grpo_colocate.py \\
        --tensor-parallel-size 2 --steps 3

Without --model it makes a small Qwen3-MoE with random weights and a tokenizer of single characters. The reward is a
rule: the share of digits in the answer. With `HARDPOINT_BACKEND=off`, `--stock` runs TRL's own sync with the same probe
beside it: on a CPU it loads expert weights raw into a packed layout, and the probe says so.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

for name, value in {
    "HF_HUB_OFFLINE": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # colocated: engine and trainer share a process
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "TOKENIZERS_PARALLELISM": "false",
}.items():
    os.environ.setdefault(name, value)

import torch  # noqa: E402 - after the variables that vLLM reads on import

PROMPTS = [f"{a}+{b}=" for a in range(4) for b in range(4)]
PROBED = ("1+2=3 and 4+5=9.", "The digits are 0123456789.", "7-3=4")


def make_model(folder: Path) -> Path:
    """A two-layer Qwen3-MoE with random weights and a tokenizer, as a checkpoint."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen3MoeConfig, Qwen3MoeForCausalLM

    words = ["<pad>", "<eos>", "<unk>", *(chr(code) for code in range(32, 127))]
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = decoders.Fuse()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = Qwen3MoeConfig(
        vocab_size=128,
        hidden_size=128,
        intermediate_size=256,
        moe_intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=64,
        num_experts=8,
        num_experts_per_tok=2,
        norm_topk_prob=True,
        max_position_embeddings=512,
        tie_word_embeddings=False,
        initializer_range=0.2,
        dtype=torch.bfloat16,
        eos_token_id=1,
        pad_token_id=0,
    )
    Qwen3MoeForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    return folder


def digits(completions: list[str], **_: Any) -> list[float]:
    """Reward: the share of digits."""
    return [sum(character.isdigit() for character in text) / max(1, len(text)) for text in completions]


def main() -> int:
    """Train a few steps; 0 if every sync committed and kept parity."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a checkpoint; a small one is made if left out")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--tensor-parallel-size", type=int, default=1)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--stock", action="store_true", help="TRL's own weight sync instead, with the probe beside it")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="grpo-") as folder:
        return train(options, Path(folder))


def train(options: argparse.Namespace, folder: Path) -> int:
    """`main`, in a folder for what is written."""
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import GRPOConfig, GRPOTrainer

    from hardpoint_trainers.adapters.trl import Options, published
    from hardpoint_trainers.parity import LocalRollout, ParityProbe, TrainerSide, limit_for

    # Every rank makes the same model, in a folder of its own.
    model = options.model or str(make_model(folder / "model"))
    tokenizer = AutoTokenizer.from_pretrained(model)
    on_cpu = not torch.accelerator.is_available()
    arguments = GRPOConfig(
        output_dir=str(folder / "out"),
        use_vllm=True,
        vllm_mode="colocate",
        vllm_tensor_parallel_size=options.tensor_parallel_size,
        vllm_gpu_memory_utilization=0.3,
        vllm_max_model_length=128,
        model_init_kwargs={"dtype": "bfloat16"},
        use_cpu=on_cpu,
        bf16=not on_cpu,
        per_device_train_batch_size=4,
        num_generations=4,
        max_completion_length=8,
        max_steps=options.steps,
        learning_rate=options.learning_rate,
        gradient_checkpointing=False,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )
    syncs: list[str] = []

    def watch(route: Any, generation: Any) -> None:
        probe = ParityProbe(
            TrainerSide(generation.model),
            LocalRollout(generation.llm),
            [tokenizer(text).input_ids for text in PROBED],
            limit_for(torch.bfloat16),
        )

        def after(outcome: Any) -> None:
            parity = probe(route.epoch)
            syncs.append(f"epoch {route.epoch}: {outcome or 'received'}; parity {parity.rms:.5f} nats")

        route.after.append(after)

    settings = Options(on_route=watch, engine={"enforce_eager": True})
    trainer_class = GRPOTrainer if options.stock else published(GRPOTrainer, settings)
    trainer = trainer_class(
        model=model,
        reward_funcs=digits,
        args=arguments,
        train_dataset=Dataset.from_list([{"prompt": prompt} for prompt in PROMPTS]),
        processing_class=tokenizer,
    )
    trainer.train()
    rank = trainer.accelerator.process_index
    if options.stock:
        generation = trainer.vllm_generation
        generation.sync_weights()
        probe = ParityProbe(
            TrainerSide(generation.model),
            LocalRollout(generation.llm),
            [tokenizer(text).input_ids for text in PROBED],
            limit_for(torch.bfloat16),
            strict=False,
        )
        parity = probe()
        print(f"rank {rank} on {trainer.accelerator.device}: stock sync: {parity}", flush=True)
        return 0 if parity else 1
    for line in syncs:
        print(f"rank {rank} on {trainer.accelerator.device}: {line}", flush=True)
    steps = [entry for entry in trainer.state.log_history if "reward" in entry]
    if rank == 0:
        for entry in steps:
            print(f"step {entry['step']}: loss {entry['loss']:+.5f}, reward {entry['reward']:.4f}", flush=True)
    if len(syncs) != options.steps or len(steps) != options.steps:
        print(f"Expected {options.steps} steps and syncs, found {len(steps)} and {len(syncs)}.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Expert + data parallel inference with stock vLLM and hardpoint: TP=2, DP=2, experts over all four ranks, 8 prompts.

    HARDPOINT_BACKEND=cpu  python examples/dp_ep_inference.py                       # a small model made on the spot
    HARDPOINT_BACKEND=cuda python examples/dp_ep_inference.py Qwen/Qwen3-30B-A3B    # four GPUs
    HARDPOINT_BACKEND=xpu  python examples/dp_ep_inference.py MODEL                 # four Arc cards (npu likewise)
    HARDPOINT_BACKEND=cuda torchrun --nproc-per-node 4 examples/dp_ep_inference.py MODEL

Rank map, TP=2, DP=2 (global rank = 2 * dp + tp; every rank holds a quarter of the experts of each layer):

    global rank   dp   tp   ep   device     attention                experts    prompts
    0             0    0    0    device:0   heads of the first half  first      0 to 3
    1             0    1    1    device:1   the other half           second     0 to 3
    2             1    0    2    device:2   heads of the first half  third      4 to 7
    3             1    1    3    device:3   the other half           fourth     4 to 7

Alone, the program starts one process per data-parallel rank, and vLLM starts the tensor-parallel ones; under torchrun
every process is one rank. The prompts are of different lengths, so that the two data-parallel ranks bring different
token counts into each MoE layer: what the backend's `DpRule` is for. ``--check`` runs one rank alone as well, and
compares. HARDPOINT_RECORDS=FOLDER keeps the last collectives of every rank, should one hang; HARDPOINT_PROBE=nan,mask
says where a NaN came from. Both are read by ``hardpoint explain``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

PROMPTS = 8
WORDS = "The number of days in a year is", "Water boils at", "Once upon a time there was a", "2 + 2 ="
VOCABULARY = 512


def main() -> None:
    """Parse, start the ranks, print what they answered."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", help="checkpoint or name; default: a small Qwen3-MoE made on the spot")
    parser.add_argument("--tp", type=int, default=2, help="tensor-parallel ranks of each data-parallel rank")
    parser.add_argument("--dp", type=int, default=2, help="data-parallel ranks")
    parser.add_argument("--tokens", type=int, default=16, help="tokens for each prompt")
    parser.add_argument("--deadline", type=float, default=600.0, help="seconds until ranks that are late are ended")
    parser.add_argument("--check", action="store_true", help="compare with one rank alone")
    parser.add_argument("--answer", type=Path, help=argparse.SUPPRESS)  # of a child: where its answers go
    options = parser.parse_args()
    if options.answer is not None or "TORCHELASTIC_RUN_ID" in os.environ:
        rank_main(options)
        return
    with tempfile.TemporaryDirectory() as scratch:
        model = options.model or str(small_model(Path(scratch) / "model"))
        answers = start(options, model, Path(scratch), options.tp, options.dp)
        for number, answer in sorted(answers.items()):
            print(f"prompt {number} on dp {number * options.dp // PROMPTS}: {answer['text'] or answer['tokens']}")
        if options.check:
            alone = start(options, model, Path(scratch) / "alone", 1, 1)
            for number, answer in sorted(answers.items()):
                print(f"prompt {number}: {compared(answer['tokens'], alone[number])}")


def start(options: argparse.Namespace, model: str, scratch: Path, tp: int, dp: int) -> dict[int, Any]:
    """Run `dp` processes of `tp` ranks each; answers by prompt, see `described`.

    Raises:
        SystemExit: a rank failed or was late; all are ended first.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    processes = []
    for rank in range(dp):
        place = {"VLLM_DP_RANK": str(rank), "VLLM_DP_RANK_LOCAL": str(rank), "VLLM_DP_SIZE": str(dp)}
        place |= {"VLLM_DP_MASTER_IP": "127.0.0.1", "VLLM_DP_MASTER_PORT": port}
        command = [sys.executable, __file__, model, "--tp", str(tp), "--dp", str(dp), "--tokens", str(options.tokens)]
        command += ["--answer", str(scratch / f"{rank}.json")]
        environment = {**cpu_defaults(tp * dp), **os.environ, **(place if dp > 1 else {})}
        processes.append(subprocess.Popen(command, env=environment, start_new_session=True))
    answers: dict[int, Any] = {}
    end = time.monotonic() + options.deadline
    try:
        for rank in range(dp):
            path = scratch / f"{rank}.json"
            while not path.exists():  # a rank that is done may wait for its peers: its file counts, not its end
                for other, process in enumerate(processes):
                    if process.poll() is not None and not (scratch / f"{other}.json").exists():
                        raise SystemExit(f"data-parallel rank {other} ended with status {process.poll()} and no answer")
                if time.monotonic() > end:
                    raise SystemExit(f"data-parallel rank {rank} gave no answer within {options.deadline:g} s")
                time.sleep(0.2)
            answers |= {int(number): answer for number, answer in json.loads(path.read_text()).items()}
    finally:
        for process in processes:
            end_with_workers(process)
    return answers


def compared(tokens: list[int], alone: dict[str, Any]) -> str:
    """Words on how `tokens` differ from those of one rank.

    Ranks add in another order, and bf16 rounds: where two tokens are nearly equal, either may win. A fault parts at
    tokens of which one rank was sure (1 nat and more between the two best).
    """
    at = next((n for n, pair in enumerate(zip(tokens, alone["tokens"], strict=True)) if pair[0] != pair[1]), None)
    if at is None:
        return "the tokens of one rank alone"
    return f"parts from one rank alone at token {at}, of which that was sure by {alone['gaps'][at]:.2f} nats"


def end_with_workers(process: subprocess.Popen[bytes]) -> None:
    """End a rank and the workers that vLLM started for it: they share a session of their own."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def rank_main(options: argparse.Namespace) -> None:
    """One data-parallel rank (under torchrun: one rank of all): its share of the prompts."""
    from vllm import LLM, SamplingParams

    torchrun = "TORCHELASTIC_RUN_ID" in os.environ
    dp_rank = int(os.environ["RANK"]) // options.tp if torchrun else int(os.environ.get("VLLM_DP_RANK", "0"))
    more = {"distributed_executor_backend": "external_launcher", "data_parallel_size": options.dp} if torchrun else {}
    small = Path(options.model or "", "small").exists()
    llm = LLM(
        options.model,
        tensor_parallel_size=options.tp,
        enable_expert_parallel=options.tp * options.dp > 1,
        enforce_eager=True,
        max_model_len=512,
        seed=0,
        skip_tokenizer_init=small,
        **more,
    )
    mine = [number for number in range(PROMPTS) if number * options.dp // PROMPTS == dp_rank]
    prompts: list[Any] = [
        {"prompt_token_ids": [(31 * number + n) % VOCABULARY for n in range(3 + 4 * number)]}
        if small
        else " ".join(WORDS[: 1 + number % len(WORDS)])
        for number in mine
    ]
    sampling = SamplingParams(
        temperature=0.0, max_tokens=options.tokens, ignore_eos=True, detokenize=not small, logprobs=2
    )
    answers = llm.generate(prompts, sampling, use_tqdm=False)
    found = {number: described(each.outputs[0]) for number, each in zip(mine, answers, strict=True)}
    if options.answer is None:
        print(f"rank {os.environ['RANK']} (dp {dp_rank}): {found}", flush=True)
        return
    part = options.answer.with_suffix(".part")
    part.write_text(json.dumps(found))
    part.rename(options.answer)


def described(output: Any) -> dict[str, Any]:
    """Text, tokens, and how sure the model was of each: nats between the two best."""
    best = [sorted((each.logprob for each in at.values()), reverse=True) for at in output.logprobs]
    gaps = [first - second for first, second, *_ in best]
    return {"text": output.text, "tokens": list(output.token_ids), "gaps": gaps}


def small_model(folder: Path) -> Path:
    """A two-layer Qwen3-MoE with random weights, which transformers makes in a second."""
    import torch
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    torch.manual_seed(0)
    config = Qwen3MoeConfig(
        vocab_size=VOCABULARY,
        hidden_size=128,
        intermediate_size=256,
        moe_intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        num_experts=8,
        num_experts_per_tok=2,
        norm_topk_prob=True,
        max_position_embeddings=512,
        tie_word_embeddings=False,
        initializer_range=0.2,
        dtype=torch.bfloat16,
    )
    Qwen3MoeForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    (folder / "small").touch()
    return folder


def cpu_defaults(ranks: int) -> dict[str, str]:
    """What vLLM's CPU worker wants on a machine with fewer NUMA nodes than ranks; what is set already wins."""
    if os.environ.get("HARDPOINT_BACKEND", "").partition(":")[0] != "cpu":
        return {}
    cores = sorted(os.sched_getaffinity(0))
    # One entry for each rank of all data-parallel ranks of this machine; vLLM takes its own part of the list.
    bind = "|".join(str(cores[rank % len(cores)]) for rank in range(ranks)) if ranks > 1 else "nobind"
    return {"VLLM_CPU_OMP_THREADS_BIND": bind, "VLLM_CPU_KVCACHE_SPACE": "1", "OMP_NUM_THREADS": "1"}


if __name__ == "__main__":
    main()

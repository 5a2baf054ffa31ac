"""The trainer process: transformers, an optimiser and a `WeightPublisher`. Knows nothing of vLLM."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from hardpoint_vllm.demo.channel import Report, serve

_RUNNERS_UP = 5


class Trainer:
    """Requests of the demo, one method each."""

    def __init__(self) -> None:
        self._model: Any = None
        self._teacher: Any = None
        self._publisher: Any = None

    def make(self, report: Report, *, recipe: str, seed: int) -> dict[str, Any]:
        """The model with random weights."""
        from hardpoint_vllm.demo.lessons import Teacher
        from hardpoint_vllm.demo.recipes import RECIPES

        self._model = RECIPES[recipe].build(seed)
        self._teacher = Teacher(self._model)
        return {"parameters": sum(weight.numel() for weight in self._model.parameters())}

    def teach(self, report: Report, *, lesson: int, steps: int, folder: str) -> dict[str, Any]:
        """Optimiser steps, then a checkpoint by ``save_pretrained`` for the reference."""
        before, after = self._teacher.teach(lesson, steps, report)
        self._save(Path(folder))
        return {"loss_before": before, "loss_after": after}

    def reference(self, report: Report, *, folder: str, prompts: list[list[int]], tokens: int) -> dict[str, Any]:
        """Greedy answers of transformers with the checkpoint in `folder`, read from disk."""
        import torch
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
        with torch.inference_mode():
            out = model.generate(
                torch.tensor(prompts),
                max_new_tokens=tokens,
                do_sample=False,
                pad_token_id=0,
                output_logits=True,
                return_dict_in_generate=True,
            )
        answers = out.sequences[:, len(prompts[0]) :]
        scores = torch.stack(out.logits, 1).float().log_softmax(-1)
        best = scores.topk(_RUNNERS_UP)
        return {
            "tokens": answers.tolist(),
            "chosen": scores.gather(-1, answers[..., None]).squeeze(-1).tolist(),
            "runners_up": [
                [list(zip(ids, values, strict=True)) for ids, values in zip(*row, strict=True)]
                for row in zip(best.indices.tolist(), best.values.tolist(), strict=True)
            ],
        }

    def listen(self, report: Report, *, deadline: float) -> dict[str, Any]:
        """Open the rendezvous; answers what the engine needs to join."""
        from hardpoint_trainers import WeightPublisher

        # 256 KiB, so that a small model takes several buckets and large tensors span them.
        self._publisher = WeightPublisher(deadline=deadline, bucket_bytes=256 << 10, path="plan")
        info: dict[str, Any] = self._publisher.init_info()
        return info

    def connect(self, report: Report) -> dict[str, Any]:
        """Wait for the engine."""
        self._publisher.connect()
        return {}

    def publish(self, report: Report, *, fault: str | None) -> dict[str, Any]:
        """Send the model's weights, in bf16, with `fault` planted on the way (see `FAULTS`)."""
        import torch

        from hardpoint.sync import UpdateAborted
        from hardpoint_trainers import checkpoint_tensors

        tensors = checkpoint_tensors(self._model, torch.bfloat16)
        if fault is not None:
            tensors = FAULTS[fault](tensors)
        try:
            outcome = self._publisher.publish(tensors, progress=lambda p: report(p.bytes_done, p.bytes_total))
        except UpdateAborted as aborted:
            outcome = aborted.outcome
        return {
            "committed": outcome.committed,
            "epoch": outcome.epoch,
            "step": outcome.step,
            "reason": outcome.reason,
            "bytes": outcome.bytes,
            "tensors": len(tensors),
            "seconds": outcome.seconds,
        }

    def _save(self, folder: Path) -> None:
        import copy

        import torch

        model = copy.deepcopy(self._model).to(torch.bfloat16)
        model.config.dtype = torch.bfloat16
        model.save_pretrained(folder)


def swap_experts(tensors: dict[str, Any], one: int = 0, other: int = 1) -> dict[str, Any]:
    """Every layer's expert `one` under the name of `other`, and vice versa: nothing crashes, answers are wrong."""
    names = {
        name: name.replace(f".experts.{a}.", f".experts.{b}.")
        for a, b in ((one, other), (other, one))
        for name in tensors
        if f".experts.{a}." in name
    }
    return {names.get(name, name): tensor for name, tensor in tensors.items()}


def drop_expert(tensors: dict[str, Any], expert: int = 3) -> dict[str, Any]:
    """Without one projection of one expert, as a trainer with a wrong expert-parallel slice sends it."""
    lost = next(name for name in tensors if f".experts.{expert}." in name)
    return {name: tensor for name, tensor in tensors.items() if name != lost}


FAULTS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {"swap": swap_experts, "drop": drop_expert}


def main() -> None:
    trainer = Trainer()
    serve(
        {
            "make": trainer.make,
            "teach": trainer.teach,
            "reference": trainer.reference,
            "listen": trainer.listen,
            "connect": trainer.connect,
            "publish": trainer.publish,
        }
    )


if __name__ == "__main__":
    main()

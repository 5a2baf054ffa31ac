"""Small models that are sure of their answers: where two tokens are nearly equal, bf16 decides by the order of a sum,
and no comparison of two engines can tell that from a fault."""

from __future__ import annotations

import copy
from pathlib import Path

import torch

from hardpoint_vllm.demo.lessons import Teacher
from hardpoint_vllm.demo.recipes import RECIPES

STEPS = 150


def taught(name: str, folder: Path, *, steps: int = STEPS) -> Path:
    """Recipe `name` of the demo (``qwen3-moe``, ``qwen3-next``) after one lesson, as a bf16 checkpoint in `folder`."""
    model = RECIPES[name].build(seed=0)
    _, loss = Teacher(model).teach(0, steps, lambda done, of: None)
    assert loss < 0.5, f"{name} has not learnt its lesson (loss {loss:.2f}): no test with it means anything"
    model.to(torch.bfloat16).save_pretrained(folder)
    return folder


def taught_twice(name: str, folder: Path) -> tuple[Path, Path]:
    """The model after one lesson, and the same model after another one: two sets of weights, each sure of its own."""
    model = RECIPES[name].build(seed=0)
    teacher, paths = Teacher(model), []
    for lesson in range(2):
        _, loss = teacher.teach(lesson, STEPS, lambda done, of: None)
        assert loss < 0.5, f"{name} has not learnt lesson {lesson} (loss {loss:.2f}): no test with it means anything"
        paths.append(folder / str(lesson))
        copy.deepcopy(model).to(torch.bfloat16).save_pretrained(paths[-1])  # the optimizer keeps the float32 ones
    return paths[0], paths[1]

"""Updates by a plan into engines of several workers: pipeline stages, experts on two ranks, a data-parallel group.

After each the tokens are those of a fresh engine of one rank on the new weights; each worker is sent its own experts
and layers and nothing else; what is broken is refused everywhere.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from support.taught_models import taught_twice
from support.tiny_models import checkpoint
from support.vllm_engine import ask

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]
Answer = dict[str, Any]
SURE = 0.5  # nats between the two best tokens, see tests/integrations/vllm/parallel/test_parallel_engines.py
LAYOUTS: dict[str, tuple[dict[str, Any], int, int]] = {  # options, data-parallel size, workers in all
    "TP=2 EP": ({"tensor_parallel_size": 2, "enable_expert_parallel": True}, 1, 2),
    "PP=2": ({"pipeline_parallel_size": 2}, 1, 2),
    "DP=2 EP": ({"enable_expert_parallel": True}, 2, 2),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return taught_twice("qwen3-moe", tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def fresh(models: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Answer:
    """What an engine of one rank says that was started on the second model."""
    found = ask("parallel", tmp_path_factory.mktemp("alone"), "cpu", str(models[1]))
    rank: Answer = found["ranks"][0]
    assert rank["error"] is None, rank
    return rank


@pytest.fixture(scope="module")
def updated(models: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Answer]:
    @cache
    def run(layout: str) -> Answer:
        options, dp, workers = LAYOUTS[layout]
        arguments = (*map(str, models), json.dumps(options), str(dp), str(workers))
        bind = "0|1" if dp == 1 else "nobind"
        folder = tmp_path_factory.mktemp("run")
        found = ask("sync_parallel", folder, "cpu", *arguments, VLLM_CPU_OMP_THREADS_BIND=bind)
        errors = [rank["error"] for rank in found["ranks"] if rank["error"]]
        assert not errors, f"{errors}\n{found['log'][-6000:]}"
        return found

    return run


def parted(alone: Answer, ranks: list[Answer], step: str) -> list[str]:
    """Requests that part from those of the one rank at a token that it was sure of."""
    found = {name: tokens for rank in ranks for name, tokens in rank[step]["tokens"].items()}
    assert sorted(found) == sorted(alone["tokens"])
    wrong = []
    for name, expected in alone["tokens"].items():
        at = next((n for n, pair in enumerate(zip(expected, found[name], strict=True)) if pair[0] != pair[1]), None)
        if at is not None and alone["gaps"][name][at] > SURE:
            wrong.append(f"{name} at {at}: {found[name]} for {expected}")
    return wrong


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_update_gives_the_tokens_of_a_fresh_engine(
    layout: str, updated: Callable[[str], Answer], fresh: Answer
) -> None:
    ranks = updated(layout)["ranks"]
    assert parted(fresh, ranks, "before") != []  # the models differ in what they are sure of
    assert [rank["good"]["error"] for rank in ranks] == [None] * len(ranks)
    assert parted(fresh, ranks, "good") == []
    assert all(all(rank["good"]["changed"]) for rank in ranks)
    assert [rank["again"]["tokens"] for rank in ranks] == [rank["before"]["tokens"] for rank in ranks]
    assert {rank["version"] for rank in ranks} == {"4"}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("fault", ["missing expert", "nan"])
def test_a_broken_update_is_refused_and_changes_no_bit(
    layout: str, fault: str, updated: Callable[[str], Answer]
) -> None:
    found = updated(layout)
    assert found["trainer"][fault]["committed"] is False
    assert "model.layers.1.mlp.experts.3.gate_proj.weight" in found["trainer"][fault]["error"]
    for rank in found["ranks"]:
        assert "the old weights stay" in rank[fault]["error"]
        assert not any(rank[fault]["changed"])
        assert rank[fault]["tokens"] == rank["good"]["tokens"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_worker_is_sent_the_experts_and_layers_that_it_holds(
    layout: str, updated: Callable[[str], Answer], models: tuple[Path, Path]
) -> None:
    workers = [worker for rank in updated(layout)["ranks"] for worker in rank["holds"]]
    tensors = checkpoint(models[1])
    experts = sum(of.nbytes for name, of in tensors.items() if ".experts." in name)
    layers = sorted({int(name.split(".layers.")[1].split(".")[0]) for name in tensors if ".layers." in name})
    half = len(layers) // 2
    for number, worker in enumerate(workers):
        assert worker["on the wire"] == worker["expert bytes"] == experts // 2
        if layout == "PP=2":
            assert worker["experts"] == list(range(8))
            assert worker["layers"] == (layers[half:] if number else layers[:half])
        else:
            assert worker["experts"] == (list(range(4, 8)) if number else list(range(4)))
            assert worker["layers"] == layers
        dense = sum(of.nbytes for name, of in tensors.items() if ".experts." not in name)
        assert worker["received"] <= experts // 2 + dense

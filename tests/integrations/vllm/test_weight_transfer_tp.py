"""Two workers in processes of their own: all of them have an update, or none has."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from support.tiny_models import qwen3_moe
from support.vllm_children.sync import DEADLINE
from support.vllm_engine import ask

pytestmark = pytest.mark.vllm
Answer = dict[str, Any]


@pytest.fixture(scope="module", params=["whole", "plan"])
def served(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Answer:
    folder: Path = tmp_path_factory.mktemp("tp")
    models = [str(qwen3_moe(folder / str(seed), seed=seed)) for seed in range(3)]
    # "auto" wants a NUMA node per rank.
    return ask("sync_tp", folder, "cpu", *models, request.param, VLLM_CPU_OMP_THREADS_BIND="0|1", OMP_NUM_THREADS="1")


def test_good_updates_reach_both_workers(served: Answer) -> None:
    first, second, third = served["good"]
    assert [said["error"] for said in served["good"]] == [None] * 3
    assert first["tokens"] != served["before"]
    assert second["tokens"] != first["tokens"]
    assert third["tokens"] == first["tokens"]
    assert served["epochs"] == [5, 5]
    assert served["version"] == "5"


def test_every_rank_holds_the_bits_that_a_reload_from_disk_gives(served: Answer) -> None:
    assert served["as from disk"]


def test_a_refusal_leaves_both_workers_untouched_and_in_step(served: Answer) -> None:
    assert "experts.3.gate_proj" in served["missing"]["error"]
    assert served["missing"]["untouched"]


def test_one_worker_that_cannot_load_takes_the_other_back_too(served: Answer) -> None:
    said = served["one fails"]
    assert re.search("(tensor-parallel rank 1|rank 2): MemoryError: no room for the second half", said["error"])
    assert said["untouched"]
    assert served["after one failed"] == served["good"][0]["tokens"]


def test_a_killed_trainer_leaves_both_workers_untouched(served: Answer) -> None:
    assert served["killed"]["untouched"]
    assert re.search(r"rank 0 \(the (sender|trainer)\)|from the trainer|lost the trainer", served["killed"]["error"])
    assert served["killed"]["seconds"] < DEADLINE + 1

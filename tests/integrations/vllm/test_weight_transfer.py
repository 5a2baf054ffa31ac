"""Updates from separate trainer processes into a real engine: committed everywhere, or nothing changed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from support.tiny_models import qwen3_moe
from support.vllm_children.sync import DEADLINE, FAULTS
from support.vllm_engine import ask

pytestmark = pytest.mark.vllm
Answer = dict[str, Any]
TRAINER = r"rank 0 \(the (sender|trainer)\)|from the trainer|lost the trainer"
EXPERT = "model.layers.1.mlp.experts.3.gate_proj.weight"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("models")
    return [qwen3_moe(folder / str(seed), seed=seed) for seed in range(3)]


@pytest.fixture(scope="module", params=["whole", "plan"])
def served(models: list[Path], tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Answer:
    """What one engine, started on model 0, served through a series of updates to models 1 and 2.

    ``whole``: every tensor to every worker; ``plan``: slices to their owners, in one transaction of all.
    """
    return ask("sync", tmp_path_factory.mktemp("sync"), "cpu", *map(str, models), request.param)


@pytest.fixture(scope="module")
def stock(models: list[Path], tmp_path_factory: pytest.TempPathFactory) -> list[list[list[int]]]:
    """What stock vLLM answers when it is started on each model."""
    folder = tmp_path_factory.mktemp("stock")
    answers = []
    for model in models:
        answers.append(ask("answers", folder, "off", str(model))["tokens"])
        (folder / "answers-off.json").unlink()
    return answers


def test_each_good_update_gives_what_an_engine_started_on_those_weights_answers(served: Answer, stock: Any) -> None:
    first, second = served["good"]
    assert first["error"] is None
    assert second["error"] is None
    assert served["before"] == stock[0]
    assert first["tokens"] == stock[1]
    assert second["tokens"] == stock[2]
    for old, new in zip(stock[0] + stock[1], stock[1] + stock[2], strict=True):
        assert sum(a != b for a, b in zip(old, new, strict=True)) >= len(old) // 2, "the weights must tell"


def test_the_weight_version_is_the_epoch(served: Answer) -> None:
    assert [said["version"] for said in served["good"]] == ["1", "2"]
    assert served["after death"]["version"] == "6"


def test_captured_addresses_stay(served: Answer) -> None:
    assert served["addresses_stay"]


@pytest.mark.parametrize(
    ("fault", "named"),
    [
        ("missing expert", EXPERT),
        ("missing k_proj", "model.layers.0.self_attn.k_proj.weight"),
        ("missing layer", "model.layers.1."),
        ("unknown name", "model.layers.0.mlp.experts.99.gate_proj.weight"),
        ("half the experts", "model.layers.0.mlp.experts.4.gate_proj.weight"),
        ("twice", EXPERT),
        ("half the rows", EXPERT),
        ("half the columns", EXPERT),
        ("transposed", EXPERT),
        ("wider dtype", EXPERT),
        ("nan", EXPERT),
        ("nothing", "missing"),
        ("raise", "ran out of memory"),
        ("truncated", "the tensors ended before it"),
    ],
)
def test_a_bad_update_is_refused_by_name_and_touches_nothing(served: Answer, fault: str, named: str) -> None:
    said = served["faults"][fault]
    assert said["error"] is not None
    assert named in said["error"]
    assert said["untouched"]
    assert said["seconds"] < DEADLINE
    assert said["trainer"]["committed"] is False


def test_every_fault_was_tried(served: Answer) -> None:
    assert set(served["faults"]) == set(FAULTS)


def test_an_epoch_that_the_caller_does_not_expect_is_refused(served: Answer) -> None:
    assert "it is epoch 3, the caller of update_weights expects 9" in served["wrong epoch"]["error"]
    assert served["wrong epoch"]["untouched"]


def test_a_replayed_epoch_is_refused(served: Answer) -> None:
    assert re.search("already committed|already here", served["replay"]["error"])
    assert served["replay"]["untouched"]


def test_the_old_weights_serve_after_all_faults(served: Answer, stock: Any) -> None:
    assert served["after faults"] == stock[2]


def test_a_commit_that_breaks_half_way_is_undone_bit_for_bit(served: Answer, stock: Any) -> None:
    said = served["failed commit"]
    assert re.search("the old weights are back|the old weights stay", said["error"])
    assert "no room for the second half" in said["error"]
    assert said["untouched"]
    assert served["after failed commit"] == stock[2]


def test_the_next_good_update_succeeds(served: Answer, stock: Any) -> None:
    assert served["recovered"]["error"] is None
    assert served["recovered"]["tokens"] == stock[1]


def test_a_trainer_that_never_sends_is_given_up_in_time(served: Answer) -> None:
    said = served["nobody sends"]
    assert re.search(TRAINER, said["error"])
    assert said["untouched"]
    assert said["seconds"] < DEADLINE + 1


def test_a_trainer_killed_in_the_stream_leaves_the_old_weights_serving(served: Answer, stock: Any) -> None:
    said = served["killed"]
    assert said["trainer"] == {"dead": True}
    assert re.search(TRAINER, said["error"])
    assert said["untouched"]
    assert said["seconds"] < DEADLINE + 1
    assert served["after killed"] == stock[1]


def test_a_new_trainer_is_let_in_after_one_died_in_an_open_session(served: Answer, stock: Any) -> None:
    assert served["after death"]["error"] is None
    assert served["after death"]["tokens"] == stock[2]


def test_without_the_core_resetting_its_caches_old_values_would_answer(served: Answer, stock: Any) -> None:
    assert served["stale caches"]["error"] is None
    assert served["stale caches"]["tokens"] != stock[1], "the prompts no longer reach the prefix cache"
    assert served["stale caches"]["tokens"][:2] == stock[1][:2]


def test_an_engine_without_a_trainer_says_what_to_call(served: Answer) -> None:
    assert "init_weight_transfer_engine" in served["not joined"]["error"]


@pytest.fixture(scope="module")
def modes(served: Answer) -> Answer:
    if "modes" not in served:
        pytest.skip("path whole has no modes: it keeps the old weights in its own way")
    return served["modes"]


def test_a_second_trainer_waits_for_the_update_under_way(modes: Answer, stock: Any) -> None:
    said = modes["two trainers"]
    assert "The update of epoch 8 by another trainer is under way" in said["error"]
    assert said["trainer"]["committed"]
    assert said["tokens"] == stock[2]


@pytest.mark.parametrize("mode", ["undo", "off"])
def test_an_update_in_place_gives_the_same_tokens(modes: Answer, stock: Any, mode: str) -> None:
    said = modes[mode]["good"]
    assert said["error"] is None
    assert said["tokens"] == stock[1 if mode == "undo" else 2]


@pytest.mark.parametrize(
    ("fault", "named"),
    [
        ("missing expert", EXPERT),
        ("nan", EXPERT),
        ("raise", "ran out of memory"),
        ("truncated", "the tensors ended before it"),
        ("commit", "no room for the second half"),
    ],
)
def test_after_any_failure_in_undo_the_old_weights_are_there_bit_by_bit(
    modes: Answer, stock: Any, fault: str, named: str
) -> None:
    said = modes["undo"][fault]
    assert named in said["error"]
    assert said["untouched"]
    assert said["tokens"] == stock[1], "what is derived of the weights was not put back"


def test_auto_takes_what_fits_and_says_so(modes: Answer, stock: Any) -> None:
    assert modes["auto"]["error"] is None
    assert modes["auto"]["chosen"].startswith("mode shadow: a second copy of")
    said = modes["auto without room"]
    assert said["error"] is None
    assert said["tokens"] == stock[2]
    assert said["chosen"].startswith("mode undo:")
    assert "no room for a second copy of" in modes["no room"]["error"]
    assert modes["no room"]["untouched"]


def test_off_that_is_refused_before_a_byte_moves_loses_nothing(modes: Answer, stock: Any) -> None:
    assert EXPERT in modes["off"]["refused"]["error"]
    assert modes["off"]["refused"]["tokens"] == stock[2]
    assert "it is epoch 15, the caller of update_weights expects 99" in modes["off"]["wrong epoch"]["error"]
    assert modes["off"]["wrong epoch"]["untouched"]
    assert modes["off"]["wrong epoch"]["tokens"] == stock[2]


@pytest.mark.parametrize("fault", ["truncated", "commit"])
def test_off_that_fails_serves_nothing_until_a_full_update(modes: Answer, stock: Any, fault: str) -> None:
    said = modes["off"][fault]
    assert "weights were overwritten in mode off" in said["error"]
    assert "serves nothing until a full update" in said["served"]
    assert modes["off"][f"after {fault}"]["error"] is None
    assert modes["off"][f"after {fault}"]["tokens"] == stock[1]


def test_a_trainer_that_an_engine_cannot_serve_is_refused_and_the_earlier_one_stays(modes: Answer, stock: Any) -> None:
    assert "this engine has no drafter" in modes["no drafter"]
    assert modes["still joined"]["error"] is None
    assert modes["still joined"]["tokens"] == stock[2]


def test_a_colocated_trainer_publishes_by_a_plan(modes: Answer, stock: Any) -> None:
    assert modes["colocated"]["error"] is None
    assert modes["colocated"]["committed"]
    assert modes["colocated"]["tokens"] == stock[1]
    assert modes["colocated"]["version"] == "20"

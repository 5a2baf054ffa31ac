"""Trainers that load into the live model and process by hand, on vLLM's real classes: stock, refused, and collected.

The paths are ms-swift's: buckets and the route /process_weights_after_loading/ of its rollout server, one iterator in
its Megatron colocate mode, fused experts group by group in its FSDP2 colocate mode. Two ranks share the experts.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from hardpoint.errors import HardpointError
from hardpoint_vllm.compat import raw_reload
from support.tiny_models import qwen3_moe
from support.vllm_engine import ask

pytestmark = pytest.mark.vllm
Answer = dict[str, Any]
PATHS = ("server", "server again", "megatron", "fsdp2", "after a failure")
BAD = {
    "one tensor missing": ("SyncError", "layers are not whole: model.layers.0.mlp.experts.routed_experts has "),
    "one tensor twice": ("LayoutError", "lm_head.weight came twice in one reload"),
    "a wrong shape": ("SyncError", "layers are not whole: model.layers.0.mlp.experts.routed_experts has "),
    "a shape that a loader refuses": ("SyncError", "exceeds dimension size"),
    "more of what failed": ("LayoutError", "This reload failed already (LayoutError: lm_head.weight came twice"),
    "the end of what failed": ("SyncError", "lm_head.weight came twice"),
    "one rank objects": ("SyncError", "layers are not whole"),
}
EXPERTS = {f"model.layers.{layer}.mlp.experts.routed_experts" for layer in (0, 1)}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[Answer]]:
    """Answers of each rank, by HARDPOINT_BACKEND, HARDPOINT_RAW_RELOAD and how two ranks share the experts."""
    folder: Path = tmp_path_factory.mktemp("raw")
    models = [str(qwen3_moe(folder / str(seed), seed=seed)) for seed in (0, 1)]

    def run(backend: str, reload: str, experts: str = "") -> list[Answer]:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = str(free.getsockname()[1])
        world = 2 if experts else 1

        def rank(number: int) -> Answer:
            own = folder / f"{backend}-{reload}-{experts}-{number}"
            own.mkdir()
            environment = {"RANK": str(number), "LOCAL_RANK": str(number), "WORLD_SIZE": str(world)}
            environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "HARDPOINT_RAW_RELOAD": reload}
            return ask("raw_reload", own, backend, *models, port, str(number), str(world), experts, **environment)

        with ThreadPoolExecutor(world) as pool:
            return list(pool.map(rank, range(world)))

    return cache(run)


def test_stock_is_wrong_on_every_path_without_an_error(trained: Callable[..., list[Answer]]) -> None:
    (stock,) = trained("off", "refuse")
    assert stock["differ at first"], "the two sets of weights are the same: the test shows nothing"
    for path in PATHS:
        assert stock[path]["error"] is None
        assert stock[path]["differ"], f"vLLM has mended the {path} path: the reload by raw loads can go"
    for bad in ("one tensor missing", "one tensor twice", "a wrong shape"):
        assert stock[bad]["error"] is None
        assert stock[bad]["differ"]


@pytest.mark.parametrize("path", PATHS)
def test_collected_each_path_gives_the_new_weights_and_each_layer_is_processed_once(
    trained: Callable[..., list[Answer]], path: str
) -> None:
    for rank in trained("cpu", "session", "ep"):
        found = rank[path]
        assert (found["error"], found["differ"], found["moved"], found["back"]) == (None, [], [], [])
        assert found["processed"].keys() == EXPERTS
        if path != "after a failure":
            assert set(found["processed"].values()) == {1}


@pytest.mark.parametrize("path", ["runtime layout", "by hand alone", "by hand twice"])
def test_what_is_in_kernel_layout_is_not_processed_at_all(trained: Callable[..., list[Answer]], path: str) -> None:
    for rank in trained("cpu", "session", "ep"):
        assert rank[path] == {"error": None, "differ": [], "moved": [], "processed": {}, "back": []}


@pytest.mark.parametrize("bad", BAD)
def test_bad_updates_put_the_old_weights_back_on_every_rank(trained: Callable[..., list[Answer]], bad: str) -> None:
    kind, words = BAD[bad]
    for rank in trained("cpu", "session", "ep"):
        found = rank[bad]
        assert found["error"].startswith(f"{kind}: ")
        assert words in found["error"]
        assert "the old weights are back" in found["error"]
        assert (found["differ"], found["moved"], found["back"]) == ([], [], [])


def test_an_unknown_value_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(raw_reload.VARIABLE, "always")
    with pytest.raises(HardpointError, match=r"use refuse .* or session"):
        raw_reload.policy()

"""A plan puts into a real vLLM model what vLLM's own loaders put there, bit by bit, on every rank."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from support.tiny_models import qwen3_moe
from support.vllm_engine import ask

pytestmark = pytest.mark.vllm


@pytest.mark.parametrize("experts", ["tp", "ep"])
def test_two_ranks_hold_what_the_loaders_give(experts: str, tmp_path: Path) -> None:
    """Two ranks and one key-value head, which both hold; experts cut by tensor parallelism, or whole on owners."""
    model = str(qwen3_moe(tmp_path / "model"))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])

    def rank(number: int) -> dict[str, Any]:
        folder = tmp_path / str(number)
        folder.mkdir()
        environment = {"RANK": str(number), "LOCAL_RANK": str(number), "WORLD_SIZE": "2"}
        environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        return ask("plan_loaders", folder, None, model, port, str(number), "2", experts, **environment)

    with ThreadPoolExecutor(2) as pool:
        for found in pool.map(rank, range(2)):
            assert found["parameters"] == 21
            assert found["differ"] == []
            assert found["not planned"] == []
            assert found["traced"] == 21, "the loaders were watched, and some parameters were not seen"
            assert found["traced differ"] == []

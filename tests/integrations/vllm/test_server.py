"""``vllm serve`` with hardpoint's weight transfer: updates over HTTP, metrics that are scraped, parity, the guard."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from hardpoint.sync import TensorSpec, UpdateAborted
from hardpoint_trainers import WeightPublisher
from hardpoint_trainers.adapters.engines import HttpEngine
from hardpoint_trainers.adapters.route import Route
from hardpoint_trainers.parity import HttpRollout, ParityProbe, TrainerSide, limit_for
from support.sync_processes import gloo
from support.tiny_models import checkpoint, qwen3_moe
from support.vllm_engine import QUICK

pytestmark = pytest.mark.vllm
_START_SECONDS = 200
_PROMPTS = ([1, 5, 9, 33, 120, 7, 7, 400], [400, 3, 77, 20, 11, 250])


class Tensors:
    """A checkpoint as `Route.send` takes it."""

    def __init__(self, named: dict[str, torch.Tensor]) -> None:
        self.named = named
        self.specs = tuple(TensorSpec.of(name, tensor) for name, tensor in named.items())

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        return iter(self.named.items())


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("served")
    return qwen3_moe(folder / "zero", seed=0), qwen3_moe(folder / "one", seed=1)


@pytest.fixture(scope="module")
def url(folders: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("log") / "server.txt"
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HARDPOINT_", "VLLM_"))}
    environment = kept | QUICK | {"HARDPOINT_BACKEND": "cpu", "VLLM_SERVER_DEV_MODE": "1"}
    # As a module: `vllm serve` asks for the metadata of a distribution called vllm, and the CPU build has another name.
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folders[0])]
    command += ["--host", "127.0.0.1"]
    command += ["--port", str(port), "--skip-tokenizer-init", "--enforce-eager", "--max-model-len", "128"]
    command += ["--max-num-seqs", "4", "--served-model-name", "tiny"]
    command += ["--weight-transfer-config", '{"backend": "hardpoint"}']
    with log.open("w") as output:
        server = subprocess.Popen(
            command, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    found = f"http://127.0.0.1:{port}"
    try:
        end = time.monotonic() + _START_SECONDS
        while not _healthy(found):
            assert server.poll() is None, log.read_text()[-6000:]
            assert time.monotonic() < end, log.read_text()[-6000:]
            time.sleep(0.5)
        yield found
    finally:
        os.killpg(
            server.pid, signal.SIGKILL
        )  # the group of the process that this test started, its engine core with it
        server.wait(20)


def _healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _metric(url: str, name: str) -> float:
    with urllib.request.urlopen(f"{url}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return next(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))


def test_updates_metrics_parity_and_the_guard(url: str, folders: tuple[Path, Path]) -> None:
    from transformers import AutoModelForCausalLM

    engine = HttpEngine(url, deadline=60)
    publisher = WeightPublisher(communicator=gloo, deadline=30.0)
    route = Route(publisher, ((engine, 1),), deadline=30.0)
    tensors = checkpoint(folders[1])
    outcome = route.send(Tensors(tensors))
    assert outcome is not None and outcome.committed

    assert _metric(url, "hardpoint:weight_version") == 1
    assert _metric(url, "hardpoint:weight_update_bytes_total") == outcome.bytes
    assert _metric(url, 'hardpoint:weight_updates_total{outcome="committed"}') == 1
    assert _metric(url, "hardpoint:weight_update_seconds_count") == 1

    trained = AutoModelForCausalLM.from_pretrained(folders[1], dtype=torch.bfloat16)
    probe = ParityProbe(
        TrainerSide(trained), HttpRollout(engine, "tiny"), _PROMPTS, limit_for(torch.bfloat16), strict=False
    )
    assert probe(route.epoch), str(probe.history[-1])
    other = AutoModelForCausalLM.from_pretrained(folders[0], dtype=torch.bfloat16)
    probe.trainer = TrainerSide(other)
    assert not probe(), "the weights of another checkpoint must not pass"

    lost = {name: tensor for name, tensor in tensors.items() if ".experts.3.up_proj" not in name}
    with pytest.raises(UpdateAborted, match=r"experts\.3\.up_proj"):
        route.send(Tensors(lost))
    assert _metric(url, "hardpoint:weight_version") == 1
    assert _metric(url, 'hardpoint:weight_update_aborts_total{step="update"}') == 1
    probe.trainer = TrainerSide(trained)
    assert probe(route.epoch), str(probe.history[-1])

    page = urllib.request.Request(f"{url}/pause", b"{}", {"Origin": "http://evil.example"}, method="POST")
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(page, timeout=10)
    assert refused.value.code == 403
    assert "called by a web page" in json.loads(refused.value.read())["error"]
    route.close()

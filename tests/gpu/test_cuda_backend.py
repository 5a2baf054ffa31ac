"""The cuda backend where there are GPUs: what the laws do not ask. Run with: pytest -m gpu tests/gpu"""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

pytestmark = pytest.mark.gpu
if not torch.cuda.is_available():
    pytest.skip("needs a CUDA GPU: run where there is one", allow_module_level=True)

from hardpoint.errors import CaptureRefused  # noqa: E402
from hardpoint_cuda.backend import build  # noqa: E402
from hardpoint_cuda.nvml import gpus  # noqa: E402


def python(code: str, **environment: str) -> str:
    """Output of a fresh process."""
    import os

    run = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


def test_probing_and_building_leave_cuda_untouched_so_that_a_fork_can_use_it() -> None:
    code = (
        "import os, torch; from hardpoint_cuda.probe import probe; from hardpoint_cuda.backend import build\n"
        "p = probe(); b = build({}); assert p.available, p\n"
        "assert not torch.cuda.is_initialized()\n"
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    print(p.device_count, torch.ones(2, device='cuda').sum().item(), flush=True); os._exit(0)\n"
        "assert os.waitpid(pid, 0)[1] == 0"
    )
    assert python(code) == f"{torch.cuda.device_count()} 2.0"


def test_identities_are_nvidia_smis() -> None:
    device, known = build({}).device, {gpu.uuid: gpu for gpu in gpus()}
    assert len(known) >= device.count()
    for index in range(device.count()):
        found = device.identity(index)
        assert found.uuid in known
        assert found.physical == str(known[found.uuid].index)
        assert known[found.uuid].compute == torch.cuda.get_device_capability(index)


def test_a_device_hidden_by_uuid_is_found_under_its_name() -> None:
    last = build({}).device.identity(torch.cuda.device_count() - 1)
    code = (
        "from hardpoint_cuda.backend import build\n"
        "found = build({}).device.identity(0); print(found.logical, found.physical, found.uuid)"
    )
    assert last.uuid is not None
    for value in (last.uuid, last.uuid[:12]):
        assert python(code, CUDA_VISIBLE_DEVICES=value) == f"0 {last.physical} {last.uuid}"


def test_a_capture_that_was_spoilt_leaves_graphs_usable() -> None:
    """A read inside the capture invalidates it; the graph refuses, the next one works, memory is still handed out."""
    graphs = build({}).graphs
    x = torch.ones(4, device="cuda")
    held = []
    with pytest.raises(Exception, match=r"(?i)captur"), graphs.capture(0) as broken:
        held.append(broken)
        x.add_(1).sum().item()
    torch.randn(4, device="cuda")  # torch alone leaves the generator in its capturing state
    with pytest.raises(CaptureRefused, match="cannot be replayed"):
        held[0].replay()
    with graphs.capture(0) as graph:
        x.add_(1)
    graph.replay()
    torch.cuda.synchronize()
    assert x.tolist() == [2.0] * 4
    for _ in range(3):
        torch.randn(1 << 20, device="cuda").sum().item()


def test_graphs_that_are_dropped_inside_a_capture_do_not_end_it() -> None:
    graphs = build({}).graphs
    x = torch.zeros(4, device="cuda")
    for _ in range(3):
        with graphs.capture(0) as graph:  # from the second time on, this drops the graph before, in the capture
            x.add_(1)
        graph.replay()
    torch.cuda.synchronize()
    assert x.tolist() == [3.0] * 4

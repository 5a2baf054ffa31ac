"""`TorchDevice` where there is no accelerator: nothing is touched, and everything asked is refused by a sentence.

Its laws on real accelerators are the conformance kit's (`hardpoint conformance`), and tests/gpu.
"""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from hardpoint.device import Device, TorchDevice
from hardpoint.errors import DeviceError

absent = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")


def test_conforms_and_touches_nothing_when_made() -> None:
    code = (
        "import sys; from hardpoint.device import TorchDevice; TorchDevice('cuda', 'CUDA_VISIBLE_DEVICES'); "
        "print('torch' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert run.stdout.strip() == "False"
    assert isinstance(TorchDevice("cuda"), Device)


def test_counting_makes_no_context() -> None:
    for name in ("cuda", "xpu"):
        TorchDevice(name).count()
        assert not getattr(torch, name).is_initialized()
    assert TorchDevice("npu").count() == 0 or hasattr(torch, "npu")


@absent
def test_without_a_device_every_question_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    device = TorchDevice("cuda", "CUDA_VISIBLE_DEVICES")
    questions = [device.current, device.synchronize, device.memory, device.identity, device.stream, device.event]
    for question in questions:
        with pytest.raises(DeviceError, match=r"No cuda device is visible.*CUDA_VISIBLE_DEVICES='3'"):
            question()
    with pytest.raises(DeviceError), device.use(0):
        pass
    with pytest.raises(DeviceError, match="expected a stream of cuda"), device.use_stream(object()):
        pass

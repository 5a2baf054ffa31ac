"""torch's one PrivateUse1 slot: whether the simulator can have it, and taking it.

A process holds one PrivateUse1 backend. torch_npu and other vendors use the same slot, so they and the simulator
exclude each other; `refusal` says so instead of failing in the middle of a run.
"""

from __future__ import annotations

import threading
from typing import Any

DEVICE_TYPE = "sim"
SETUP = "_setup_privateuseone_for_python_backend"

_lock = threading.Lock()
_module: Any = None


def refusal() -> str | None:
    """Why the slot cannot be had, as a sentence; None if it is free or already ours. Creates no device."""
    import torch
    from torch.utils import backend_registration

    if not hasattr(backend_registration, SETUP):
        return (
            f"torch {torch.__version__} lacks torch.utils.backend_registration.{SETUP}, an experimental hook that the "
            "simulator is built on; use a torch that has it (2.13 does)"
        )
    holder = torch._C._get_privateuse1_backend_name()
    if holder == DEVICE_TYPE:
        if _module is None:
            return "another package has registered a torch device type called 'sim' in this process"
        return None
    if holder != "privateuseone" or hasattr(torch, "privateuseone"):
        return (
            f"torch's only PrivateUse1 slot is held by '{holder}' in this process, and it cannot be shared; start a "
            f"process without '{holder}' (TORCH_DEVICE_BACKEND_AUTOLOAD=0 keeps torch from loading it)"
        )
    return None


def take(module: Any) -> None:
    """Register `module` as ``torch.sim``. Idempotent within a process; RuntimeError with `refusal` if not possible."""
    global _module
    with _lock:
        if _module is not None:
            return
        reason = refusal()
        if reason is not None:
            raise RuntimeError(reason)
        from torch.utils import backend_registration

        getattr(backend_registration, SETUP)(DEVICE_TYPE, backend_module=module)
        _module = module

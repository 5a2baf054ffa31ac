"""The guard of control endpoints: those of vLLM for weights and lifecycle, where its API key does not look.

vLLM's key guards ``/v1``, ``/v2``, ``/inference`` and ``/cohere`` (0.32, ``serve/middleware/authenticate.py``); with
``VLLM_SERVER_DEV_MODE=1``, which weight transfer needs, everything else answers anybody. `ControlGuard` is an ASGI
middleware for ``vllm serve --middleware hardpoint_vllm.control.ControlGuard``, vLLM's own place for one.
"""

from hardpoint_vllm.control.guard import ControlGuard

__all__ = ["ControlGuard"]

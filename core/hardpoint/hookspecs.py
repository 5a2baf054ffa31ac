"""The five hooks of a backend plugin. More would be a framework.

A plugin is a module (or object) named by an entry point of group ``hardpoint.backends``; the entry point's name is the
backend's name. `hardpoint_info` and `hardpoint_probe` are called per plugin, each isolated; `hardpoint_backend` on the
chosen plugin alone; the other two collect.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pluggy

from hardpoint.backend import Backend, BackendInfo, Probe

if TYPE_CHECKING:
    from hardpoint.conformance.claims import ExtraCase, Tolerance
    from hardpoint.launcher import KernelOffer, Refusal

PROJECT = "hardpoint"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec(firstresult=True)
def hardpoint_info() -> BackendInfo | None:
    """Static facts. Must not probe, and must not import a vendor's SDK."""


@hookspec(firstresult=True)
def hardpoint_probe() -> Probe | None:
    """Whether the backend can be used here. May import torch; must not create a device context or import an SDK."""


@hookspec(firstresult=True)
def hardpoint_backend(options: Mapping[str, Any]) -> Backend | None:
    """Build the backend. Called once per process, on the chosen plugin only.

    `options` holds what follows the name in ``HARDPOINT_BACKEND``: ``sim:xpu`` gives ``{"profile": "xpu"}``.
    """


@hookspec
def hardpoint_kernel(op: str, backend: Backend) -> KernelOffer | Refusal | list[KernelOffer | Refusal] | None:
    """Offer a kernel for `op` on `backend`, refuse with a sentence, or answer None: not this plugin's business.

    A plugin that knows several providers returns a list. Offers are ranked by measured tables (`hardpoint.providers`).
    """


@hookspec
def hardpoint_conformance(backend: Backend) -> list[ExtraCase | Tolerance] | None:
    """Extra conformance cases and stated tolerances; both are printed in the report."""

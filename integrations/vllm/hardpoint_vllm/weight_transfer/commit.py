"""Put a verified, agreed update into the live model, all of it or none. The only place that touches live weights."""

from __future__ import annotations

import importlib
import importlib.util
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import torch

from hardpoint.errors import SyncError
from hardpoint_vllm.weight_transfer.agreement import Ballot, agree
from hardpoint_vllm.weight_transfer.snapshot import Snapshot


class CommitFailed(SyncError):
    """The commit could not be made *and* could not be undone: this engine must not serve another token."""


def commit(
    model: torch.nn.Module, model_config: Any, tensors: Mapping[str, torch.Tensor], epoch: int, deadline: float
) -> float:
    """Load `tensors` (checkpoint names and layout) into `model` through vLLM's layerwise reload; seconds it took.

    Storage addresses stay as they are, so captured graphs stay valid.

    Raises:
        SyncError: a worker could not load; every worker has its old weights back, bit for bit.
        CommitFailed: the old weights could not be put back, or a worker was lost between the votes.
    """
    started = time.monotonic()
    reason, snapshot = attempt(lambda: Snapshot(model))
    agree(Ballot.on(f"begin commit of epoch {epoch}", reason), deadline)  # nothing is touched before this
    assert snapshot is not None
    reason, _ = attempt(lambda: _load(model, model_config, tensors))
    try:
        agree(Ballot.on(f"end commit of epoch {epoch}", reason), deadline)
    except SyncError as error:
        undone, _ = attempt(snapshot.restore)
        if undone:
            raise CommitFailed(f"Epoch {epoch} was not loaded ({error}), nor could it be undone ({undone}).") from error
        raise SyncError(f"Epoch {epoch} was not loaded, the old weights are back: {error}") from error
    return time.monotonic() - started


def _load(model: torch.nn.Module, model_config: Any, tensors: Mapping[str, torch.Tensor]) -> None:
    from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

    with torch.no_grad(), _no_completeness_check():
        initialize_layerwise_reload(model)
        model.load_weights(iter(tensors.items()))  # type: ignore[operator]
        finalize_layerwise_reload(model, model_config)


def _no_completeness_check() -> Any:
    # MTP models check that a *disk* checkpoint brings their layers; what an update must bring was checked already.
    name = "vllm.model_executor.model_loader.mtp_validation"  # not in 0.26
    if importlib.util.find_spec(name) is None:
        return nullcontext()
    return importlib.import_module(name).disable_mtp_completeness_check()


def attempt(act: Callable[[], Any]) -> tuple[str, Any]:
    """Why `act` failed (empty if it did not), and its result. Whatever it raises, the other workers must hear of it."""
    try:
        return "", act()
    except Exception as error:  # noqa: BLE001 - becomes this worker's objection, raised by `agree` on every worker
        return f"{type(error).__name__}: {error}", None

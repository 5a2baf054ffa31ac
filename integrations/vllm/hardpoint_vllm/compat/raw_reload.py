"""Raw ``model.load_weights`` into a running model, collected into one reload: ``HARDPOINT_RAW_RELOAD=session``.

For trainers that do not use vLLM's weight-transfer sessions: they call `load_weights` on the live model, bucket by
bucket, and vLLM's ``process_weights_after_loading`` once at the end (ms-swift's server route of that name, its Megatron
and FSDP2 colocate modes; verl). Stock writes each bucket, in checkpoint layout, into parameters in kernel layout. Here

- the first raw load opens a reload: the model as it serves is copied to the host, parameters are put back as they were
  created (vLLM's layerwise reload);
- the call by hand ends it: all workers vote, every layer has been processed once, storage addresses are as before;
- whatever is wrong (an error in a load, a tensor that came twice, a layer that is not whole, a worker that says no)
  puts the old weights back, bit for bit, on every worker.

Between the first bucket and the last the model must not serve, as with stock. Without the variable the tripwire refuses
raw loads; a trainer that never makes the call by hand must not set it.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch

from hardpoint.errors import HardpointError, LayoutError, SyncError
from hardpoint_vllm.compat import RAW_RELOAD
from hardpoint_vllm.compat.expert_names import expand, needs_expanding
from hardpoint_vllm.tripwire import hook
from hardpoint_vllm.weight_transfer.agreement import Ballot, agree
from hardpoint_vllm.weight_transfer.snapshot import Snapshot

VARIABLE = RAW_RELOAD
DEADLINE = 120.0  # seconds for each vote
_SHOWN = 5
_logger = logging.getLogger("vllm.hardpoint.raw_reload")


def policy() -> str:
    """``refuse`` (default) or ``session``, from ``HARDPOINT_RAW_RELOAD``."""
    value = os.environ.get(VARIABLE, "").strip().lower() or "refuse"
    if value not in ("refuse", "session"):
        raise HardpointError(f"{VARIABLE}={value} is not known: use refuse (the default) or session.")
    return value


@dataclass
class _Reload:
    """One reload that is being collected; `failed` is why it came to nothing, and the old weights are back then."""

    snapshot: Snapshot
    expanding: bool
    began: float
    names: set[str] = field(default_factory=set)
    failed: str = ""


_OPEN: WeakKeyDictionary[torch.nn.Module, _Reload] = WeakKeyDictionary()


def install() -> bool:
    """Collect raw loads of models that are loaded from now on, if the variable says so; whether it does."""
    wanted = policy() == "session"
    if wanted and watch not in hook.AFTERWARDS:
        hook.AFTERWARDS.append(watch)
    return wanted


def watch(model: torch.nn.Module) -> None:
    """Collect what is loaded raw into `model`, which has just been processed for its kernels."""
    original: Callable[..., Any] = model.load_weights  # type: ignore[assignment]

    def load_weights(weights: Iterable[tuple[str, torch.Tensor]], *args: Any, **kwargs: Any) -> Any:
        reload = _OPEN.get(model)
        if (reload is None or reload.failed) and _reloading(model):
            _OPEN.pop(model, None)
            return original(weights, *args, **kwargs)  # somebody's own session: reload_weights, weight transfer
        return _load(model, original, weights, args, kwargs)

    model.load_weights = load_weights  # type: ignore[assignment]


def finish(model: torch.nn.Module, model_config: Any) -> bool:
    """End the reload of `model`; False if none is open.

    Raises:
        SyncError: it could not be made on some worker; the old weights are back on all of them.
    """
    reload = _OPEN.get(model)
    if reload is None:
        return False
    try:
        if not reload.failed and (short := _incomplete(model)):
            _undo(model, reload, f"{len(short)} layers are not whole: {_listed(short)}")
        # As many tensors on every rank: trainers send all to all, and each rank's loader takes its part.
        agree(Ballot.on(f"raw reload of {len(reload.names)} tensors", reload.failed), DEADLINE)
        _attempt(model, reload, lambda: _finalize(model, model_config))
        agree(Ballot.on("end of raw reload", reload.failed), DEADLINE)
    except HardpointError as error:
        if not reload.failed:
            _undo(model, reload, "another worker objects")
        raise SyncError(
            f"Raw reload of {type(model).__name__} came to nothing, the old weights are back: {error}"
        ) from error
    finally:
        del _OPEN[model]
    _logger.info(
        "hardpoint: %d tensors loaded raw into %s, each layer processed once, in %.1f s; the engine's prefix cache is "
        "the trainer's to reset",
        len(reload.names),
        type(model).__name__,
        time.monotonic() - reload.began,
    )
    return True


def _load(
    model: torch.nn.Module,
    original: Callable[..., Any],
    weights: Iterable[tuple[str, torch.Tensor]],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    reload = _OPEN.get(model) or _open(model)
    if reload.failed:
        raise LayoutError(
            f"This reload failed already ({reload.failed}) and the old weights are back: no more of it is taken. End "
            "it with process_weights_after_loading, which will say so too, and send all weights again."
        )
    result = None

    def load() -> None:
        nonlocal result
        with torch.no_grad():
            result = original(_taken(reload, weights), *args, **kwargs)

    error = _attempt(model, reload, load)
    if error is not None:
        raise LayoutError(
            f"Raw load_weights into {type(model).__name__} failed, the old weights are back: {reload.failed}"
        ) from error
    return result


def _open(model: torch.nn.Module) -> _Reload:
    from vllm.model_executor.model_loader.reload import initialize_layerwise_reload

    reload = _Reload(Snapshot(model), needs_expanding(model), time.monotonic())
    _OPEN[model] = reload
    initialize_layerwise_reload(model)
    return reload


def _taken(reload: _Reload, weights: Iterable[tuple[str, torch.Tensor]]) -> Iterator[tuple[str, torch.Tensor]]:
    for name, tensor in expand(weights) if reload.expanding else weights:
        if name in reload.names:
            raise LayoutError(f"{name} came twice in one reload; vLLM would count it for a tensor that is missing")
        reload.names.add(name)
        # vLLM keeps the tensor until its layer is whole, and trainers free or refill theirs after the call.
        yield name, tensor.detach().clone()


def _attempt(model: torch.nn.Module, reload: _Reload, act: Callable[[], None]) -> Exception | None:
    try:
        act()
    except Exception as error:  # noqa: BLE001 - becomes this worker's objection, and is raised by the caller
        _undo(model, reload, f"{type(error).__name__}: {error}")
        return error
    return None


def _undo(model: torch.nn.Module, reload: _Reload, reason: str) -> None:
    reload.snapshot.restore()
    reload.failed = reason


def _finalize(model: torch.nn.Module, model_config: Any) -> None:
    from vllm.model_executor.model_loader.reload import finalize_layerwise_reload

    with torch.no_grad():
        finalize_layerwise_reload(model, model_config)


def _reloading(model: torch.nn.Module) -> bool:
    from vllm.model_executor.model_loader.reload.layerwise import get_layerwise_info

    return any(get_layerwise_info(module).can_load() for module in model.modules())


def _incomplete(model: torch.nn.Module) -> list[str]:
    """Layers of which something arrived, and not all. Layers of which nothing came keep their old weights, whole.

    Padded vocabularies never arrive in full, and vLLM's own loaders fill the rest.
    """
    from vllm.model_executor.layers.vocab_parallel_embedding import VocabParallelEmbedding
    from vllm.model_executor.model_loader.reload.layerwise import get_layerwise_info

    found = []
    for name, module in model.named_modules():
        info = get_layerwise_info(module)
        if isinstance(module, VocabParallelEmbedding) or not info.can_load():
            continue
        if 0 < info.load_numel < info.load_numel_total:
            found.append(f"{name} has {info.load_numel} of {info.load_numel_total} elements")
    return found


def _listed(items: list[str]) -> str:
    return "; ".join(items[:_SHOWN]) + (f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else "")

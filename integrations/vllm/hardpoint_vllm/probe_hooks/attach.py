"""Attaches the probe to a worker's model, after it is loaded."""

from __future__ import annotations

import functools
import importlib
import logging
from collections.abc import Callable
from typing import Any

import torch

from hardpoint.probe import Probe, Ranks, wanted
from hardpoint.probe.report import reports_folder
from hardpoint_vllm.patching import wrap
from hardpoint_vllm.probe_hooks.batch import batch_of
from hardpoint_vllm.probe_hooks.layers import scanned, watched
from hardpoint_vllm.probe_hooks.state import state_read

WORKER = "vllm.v1.worker.gpu_worker"
_logger = logging.getLogger("vllm.hardpoint.probe")


def install() -> bool:
    """Have every worker of this process probe its model, if ``HARDPOINT_PROBE`` asks for it; else patch nothing."""
    if not wanted():
        return False
    return wrap(importlib.import_module(WORKER).Worker, "load_model", _loading)


def _loading(stock: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(stock)
    def load_model(self: Any, *args: Any, **kwargs: Any) -> Any:
        answer = stock(self, *args, **kwargs)
        attach(self.model_runner, self.vllm_config, _ranks())
        return answer

    return load_model


def attach(runner: Any, vllm_config: Any, ranks: Ranks) -> Probe | None:
    """Hooks on `runner.model`; None, with a word in the log, where they would not run."""
    mode = getattr(vllm_config.compilation_config.mode, "value", vllm_config.compilation_config.mode)
    if mode:
        _logger.warning(
            "hardpoint probe: this model is compiled (mode %s), and hooks do not run in it: no layer, no state and no "
            "batch is looked at. Start the engine with enforce_eager to see them.",
            mode,
        )
        return None
    model = runner.model
    found = watched(model)
    if not found:
        _logger.warning("hardpoint probe: no layer of %s is known; nothing is watched", type(model).__name__)
        return None
    layers = [each.layer for each in found]
    probe = Probe(wanted(), layers, ranks, int(runner.max_num_tokens), reports_folder(), _logger.warning)
    model.register_forward_pre_hook(functools.partial(_begin, probe, runner), with_kwargs=True)
    for each in found:
        if each.layer.kind == "gdn":
            each.module.register_forward_pre_hook(functools.partial(_state, probe, each.layer.name), with_kwargs=True)
        each.module.register_forward_pre_hook(functools.partial(_before, probe, each.layer.name), with_kwargs=True)
        each.module.register_forward_hook(functools.partial(_after, probe, each.layer.name), with_kwargs=True)
    model.register_forward_hook(functools.partial(_end, probe))
    kinds = {kind: sum(layer.kind == kind for layer in layers) for kind in sorted({layer.kind for layer in layers})}
    _logger.info("hardpoint probe: %s on %s, reports in %s", ", ".join(sorted(wanted())), kinds, reports_folder())
    return probe


def _begin(probe: Probe, runner: Any, module: Any, args: Any, kwargs: Any) -> None:
    from vllm.forward_context import get_forward_context

    context = get_forward_context()
    positions = kwargs.get("positions", args[1] if len(args) > 1 else None)
    rows = int(positions.shape[-1]) if isinstance(positions, torch.Tensor) else 0
    probe.begin(batch_of(runner, context.attn_metadata), rows)


def _before(probe: Probe, name: str, module: Any, args: Any, kwargs: Any) -> None:
    hidden = scanned(args, kwargs, "hidden_states")
    if hidden is not None:
        probe.look(name, "before", hidden)


def _state(probe: Probe, name: str, module: Any, args: Any, kwargs: Any) -> None:
    from vllm.forward_context import get_forward_context

    state = state_read(module, get_forward_context().attn_metadata)
    if state is not None:
        probe.look(name, "state", state)


def _after(probe: Probe, name: str, module: Any, args: Any, kwargs: Any, answer: Any) -> None:
    answers = answer if isinstance(answer, tuple) else (answer,)
    output = scanned(answers, {})
    if output is None:  # older models hand in the buffer that the layer fills
        output = scanned((), kwargs, "output")
    if output is not None:
        probe.look(name, "after", output)


def _end(probe: Probe, module: Any, args: Any, answer: Any) -> None:
    probe.end()


def _ranks() -> Ranks:
    from vllm.distributed import parallel_state

    def rank(group: Callable[[], Any]) -> int:
        try:
            return int(group().rank_in_group)
        except AssertionError:  # vLLM makes some groups for some models alone
            return -1

    groups = parallel_state.get_dp_group, parallel_state.get_tp_group, parallel_state.get_pp_group
    dp, tp, pp = map(rank, groups)
    return Ranks(dp=dp, tp=tp, pp=pp, ep=rank(parallel_state.get_ep_group))

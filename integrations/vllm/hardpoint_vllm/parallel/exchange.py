"""The host exchanges between data-parallel engines, with a named error where one fails or is late.

Stock (0.32): ``_run_ar`` of ``v1/worker/dp_utils.py`` (token counts of a step) and ``has_unfinished_dp`` and
``sync_dp_state`` of ``ParallelConfig`` (whether anybody has requests) are bare gloo collectives: a peer that died is a
line about a socket, and one that stalls is waited for until gloo's own timeout, 30 minutes. The platform shortens that
to ``HARDPOINT_COLLECTIVE_DEADLINE``; here its end gets words.
"""

from __future__ import annotations

import functools
import importlib
import itertools
from collections.abc import Callable
from typing import Any

from hardpoint.communicator.presence import Whereabouts
from hardpoint.errors import HardpointError
from hardpoint_vllm.parallel.group_watch import named, presence
from hardpoint_vllm.patching import wrap

COUNTS = "vllm.v1.worker.dp_utils"
COUNTS_NAME = "_run_ar"
CONFIG = "vllm.config.parallel"
STATES = ("has_unfinished_dp", "sync_dp_state")
_steps = itertools.count()


def install() -> None:
    """Wrap them, each once."""
    wrap(importlib.import_module(COUNTS), COUNTS_NAME, _counts)
    config = importlib.import_module(CONFIG).ParallelConfig
    for name in STATES:
        if hasattr(config, name):  # 0.26 has the first alone
            wrap(config, name, functools.partial(_static_state, name))
            setattr(config, name, staticmethod(getattr(config, name)))


def _counts(stock: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(stock)
    def run(*args: Any, **kwargs: Any) -> Any:
        seat = presence()
        call = f"exchange {next(_steps)} of the token counts of a data-parallel step"
        if seat is not None:
            seat.enter(call)
        try:
            answer = stock(*args, **kwargs)
        except RuntimeError as error:
            from vllm.distributed.parallel_state import get_dp_group

            group = get_dp_group()
            found = seat.look_for(call, group.ranks) if seat is not None else None
            raise named(
                "all_reduce", f"{call}, on data-parallel rank {group.rank_in_group}", -1, error, found
            ) from error
        if seat is not None:
            seat.leave(call)
        return answer

    return run


def _static_state(name: str, stock: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(stock)
    def exchange(dp_group: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return stock(dp_group, *args, **kwargs)
        except RuntimeError as error:
            raise _absent_engine(name, dp_group.rank(), dp_group.size(), error) from error

    return exchange


def _absent_engine(name: str, rank: int, size: int, error: RuntimeError) -> HardpointError:
    """Engines have no world, so the absent one is known by elimination alone: of two it is the other."""
    others = [other for other in range(size) if other != rank]
    who = f"engine {others[0]} did not come" if size == 2 else f"one of engines {others} did not come"
    found = Whereabouts(tuple(others) if size == 2 else (), (), {others[0]: who})
    return named(
        name, f"{name}, the exchange of data-parallel engine {rank} of {size} with the others", -1, error, found
    )

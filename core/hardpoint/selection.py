"""The one selection of a process: which backend ``HARDPOINT_BACKEND`` means here, built once.

Choosing never creates a device context and never writes ``os.environ``. A fork after the choice is therefore harmless,
and vLLM forks after it; what is refused is using a device backend in a child forked after its device was initialised,
because no driver survives that (torch refuses as well, later and less clearly).
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from dataclasses import dataclass, field

from hardpoint.backend import Backend
from hardpoint.environment import BACKEND, to_hand_on
from hardpoint.errors import BackendUnavailable, HardpointError, PluginError
from hardpoint.plugins import OFF, Candidate, Choice, Registry, Request, parse_request
from hardpoint.plugins.explain import sentence, table, unknown
from hardpoint.plugins.known import find_known
from hardpoint.plugins.sentence import one_line

CPU = "cpu"
_logger = logging.getLogger("hardpoint.selection")


@dataclass
class _Selection:
    """What this process has chosen and built, and what ``HARDPOINT_BACKEND`` was at the time."""

    registry: Registry | None = None
    built: dict[Choice, Backend] = field(default_factory=dict)
    default: Choice | None = None
    default_text: str = ""


_selection = _Selection()
_lock = threading.RLock()


def _new_locks() -> None:
    """Another thread may have held a lock when the process was forked; in the child nobody would give it back.

    What the lock guards is whole at every moment (entries are added when they are complete), so the child can go on.
    """
    global _lock
    _lock = threading.RLock()
    if _selection.registry is not None:
        _selection.registry.new_lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_new_locks)


def get_backend(name: str | None = None, *, fresh: bool = False) -> Backend:
    """The backend that `name` means, default what ``HARDPOINT_BACKEND`` means; unset is ``auto``.

    The same object for the same choice for the rest of the process. Safe to call from several threads.

    Args:
        name: ``auto``, a name or alias, ``name:profile``, or an order such as ``"cuda,cpu"``. The first available of an
            order is taken; a single name is that backend or an error, never a fallback.
        fresh: forget what was found and built, and look again.

    Raises:
        BackendUnavailable: nothing that was asked for can be used here; the message lists every candidate with its
            reason. Also for ``off``, after ``HARDPOINT_BACKEND`` was changed to mean another backend, and in a forked
            child whose parent had initialised the device.
        PluginError: the chosen plugin did not build what it should.
    """
    global _selection
    with _lock:
        if fresh:
            _selection = _Selection()
        if name is not None:
            return _build(resolve(parse_request(name, "get_backend"), _registry()))
        return _build(_default())


def rebuild_backend(name: str) -> Backend:
    """As `get_backend`, built anew and put in place of the one before; the plugins are not looked for again.

    For a caller that knows the old one to be spoilt and to be in nobody's hands. Raises what `get_backend` raises.
    """
    with _lock:
        choice = resolve(parse_request(name, "rebuild_backend"), _registry())
        _selection.built.pop(choice, None)
        return _build(choice)


def registry() -> Registry:
    """The plugins of this process, as the selection sees them."""
    with _lock:
        return _registry()


def backend_environment(backend: Backend | None = None) -> dict[str, str]:
    """The variables that make a spawned worker (multiprocessing, torchrun, Ray ``runtime_env``) see the same choice.

    All ``HARDPOINT_*`` variables of this process, with ``HARDPOINT_BACKEND`` resolved: ``auto`` and orders become the
    name that was chosen here. Nothing is written to ``os.environ``. On a driver without the workers' device, ``auto``
    would be resolved to what the driver has: set ``HARDPOINT_BACKEND`` by name there.

    Args:
        backend: one that `get_backend` gave, if it is not the default one.

    Raises:
        BackendUnavailable: as `get_backend`.
        HardpointError: `backend` is not one that `get_backend` gave.
    """
    variables = to_hand_on(os.environ)
    with _lock:
        if backend is not None:
            choice = next((choice for choice, built in _selection.built.items() if built is backend), None)
            if choice is None:
                raise HardpointError(
                    f"backend_environment got a Backend called {backend.info.name!r} that get_backend did not give in "
                    "this process: a worker could not find it by name."
                )
            variables[BACKEND] = str(choice)
        elif parse_request(os.environ.get(BACKEND)).off:
            variables[BACKEND] = OFF
        else:
            variables[BACKEND] = str(_default())
    return variables


def resolve(request: Request, plugins: Registry) -> Choice:
    """The available choice that `request` means among `plugins`. BackendUnavailable with the table if there is none."""
    if request.off:
        raise BackendUnavailable(
            f"{request} turns hardpoint off, so there is no backend to give; name one, or unset the variable for auto."
        )
    if request.auto:
        return _automatic(request, plugins)
    choices = [_known_to(plugins, choice, request) for choice in request.choices]
    refusals: list[str] = []
    for choice in choices:
        rows = plugins.rows(choice.name)
        if any(row.available for row in rows):
            if refusals:
                _logger.warning("hardpoint: %s: %s is used; %s", request, choice, "; ".join(refusals))
            return choice
        refusals += [sentence(row) for row in rows[:1]] or [unknown(choice.name, ())]  # a second row says the same
    raise _unavailable(request, "; ".join(refusals), plugins)


def _known_to(plugins: Registry, choice: Choice, request: Request) -> Choice:
    """`choice` under the plugin's own name. A misspelled one in an order is an error now, not on some later day."""
    if plugins.rows_exist(choice.name):
        return choice
    owners = plugins.named_by_alias(choice.name)
    if len(owners) > 1:
        raise _unavailable(request, f"{choice.name!r} is an alias of {' and of '.join(owners)}; use a name", plugins)
    if owners:
        return Choice(owners[0], choice.profile)
    known = find_known(choice.name)
    if known is not None and (len(request.choices) > 1 or plugins.rows_exist(known.name)):
        return Choice(known.name, choice.profile)
    raise _unavailable(request, unknown(choice.name, plugins.candidates()), plugins)


def _automatic(request: Request, plugins: Registry) -> Choice:
    """The available candidate of highest priority; cpu if no other is; never one of negative priority."""
    rows = [row for row in plugins.candidates() if row.available and _priority(row) >= 0]
    others = [row for row in rows if row.name != CPU]
    if not others:
        if not rows:
            raise _unavailable(request, "no backend that auto may choose is available", plugins)
        return Choice(CPU)
    highest = max(map(_priority, others))
    first = [row for row in others if _priority(row) == highest]
    if len(first) > 1:
        who = " and ".join(f"{row.name} ({row.origin})" for row in first)
        raise _unavailable(request, f"{who} have the same priority {highest}; name the one that you want", plugins)
    _logger.info("hardpoint: auto is %s (%s): %s", first[0].name, first[0].origin, first[0].reason)
    return Choice(first[0].name)


def _priority(row: Candidate) -> int:
    return row.info.priority if row.info else -1


def _unavailable(request: Request, why: str, plugins: Registry) -> BackendUnavailable:
    notes = "".join(f"\nNote: {note}." for note in plugins.notes)
    first = f"{request} cannot be used: {why}."
    return BackendUnavailable(f"{first}\nCandidates here:\n{table(plugins.candidates())}{notes}", why=first)


def _registry() -> Registry:
    if _selection.registry is None:
        _selection.registry = Registry()
        for note in _selection.registry.notes:
            _logger.warning("hardpoint: %s.", note)
    return _selection.registry


def _default() -> Choice:
    """What ``HARDPOINT_BACKEND`` means, decided once."""
    text = os.environ.get(BACKEND, "").strip()
    if _selection.default is None:
        _selection.default = resolve(parse_request(text), _registry())
        _selection.default_text = text
    elif text != _selection.default_text and resolve(parse_request(text), _registry()) != _selection.default:
        raise BackendUnavailable(
            f"{BACKEND} was {_selection.default_text!r} when backend {str(_selection.default)!r} was chosen in this "
            f"process and is {text!r} now. A process keeps its backend: set the variable before the first use, or call "
            "get_backend(fresh=True) if nothing of the old backend is in use."
        )
    return _selection.default


def _build(choice: Choice) -> Backend:
    built = _selection.built.get(choice)
    if built is None:
        built = _selection.built[choice] = _ask_plugin(choice)
    _refuse_after_fork(built)
    return built


def _ask_plugin(choice: Choice) -> Backend:
    plugin = _registry().plugin(choice.name)
    whose = f"hardpoint_backend of plugin {choice.name!r} ({plugin.claim.origin})"
    try:
        made: object = plugin.call("hardpoint_backend", options=choice.options)
    except HardpointError:
        raise
    except (Exception, SystemExit) as error:
        before = _registry().torch_failure
        before = f"; torch failed in this process before: {before}" if before else ""
        raise PluginError(f"{whose} raised for options {dict(choice.options)}: {one_line(error)}{before}") from error
    if not isinstance(made, Backend):
        raise PluginError(f"{whose} should return a hardpoint.Backend, returned {made!r:.80} ({type(made).__name__}).")
    if made.info.name != choice.name:
        raise PluginError(f"{whose} returned a Backend called {made.info.name!r}; the names should be equal.")
    return made


def _refuse_after_fork(backend: Backend) -> None:
    """In a forked child: torch's own mark of a device runtime that was initialised before the fork."""
    kind = backend.info.device_type
    module = getattr(sys.modules.get("torch"), kind, None)
    forked_late = getattr(
        module, "_is_in_bad_fork", None
    )  # also demanded of PrivateUse1 modules, torch.random calls it
    if callable(forked_late) and forked_late():
        raise BackendUnavailable(
            f"this process (pid {os.getpid()}) was forked from one that had already initialised {kind!r} devices, "
            "which no driver survives. Start workers with the 'spawn' method (VLLM_WORKER_MULTIPROC_METHOD=spawn in "
            "vLLM), or fork before the first use of the device."
        )

"""Deadlines that are not kept, and errors that name the wrong ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from hardpoint.backend import Backend
from hardpoint.conformance.mutants import _communicator as change
from hardpoint.conformance.mutants.communicator._plant import another_deadline, plant, tells

deadline_ignored = plant(
    "deadline-is-ignored",
    "deadline-is-obeyed",
    "`deadline` is accepted and ignored; the rendezvous' own holds.",
    change.wrapped(another_deadline(lambda deadline: None)),
)
deadline_ignored_by_one = plant(
    "deadline-is-ignored-by-ragged-scatter",
    "deadline-is-obeyed",
    "`reduce_scatter_ragged`, alone of all, ignores its deadline.",
    change.wrapped(another_deadline(lambda deadline: None, ("reduce_scatter_ragged",))),
)
deadline_cut = plant(
    "deadline-is-cut-short",
    "deadline-is-obeyed",
    "A collective gives up after a twentieth of its deadline.",
    change.wrapped(another_deadline(lambda deadline: deadline / 20)),
)


names_nobody = plant(
    "error-names-nobody",
    "deadline-is-obeyed",
    "A missed deadline does not say which ranks were absent.",
    tells(lambda base, error: change.retold(error, missing=(), message="the collective timed out")),
)
names_itself = plant(
    "error-names-itself",
    "deadline-is-obeyed",
    "A missed deadline names the rank that waited.",
    tells(lambda base, error: change.retold(error, missing=(base.rank,))),
)
names_first_only = plant(
    "error-names-one-of-two",
    "deadline-is-obeyed",
    "A missed deadline names the first absent rank and no other.",
    tells(lambda base, error: change.retold(error, missing=error.missing[:1])),
)
names_all_others = plant(
    "error-names-all-others",
    "deadline-is-obeyed",
    "A missed deadline names every other rank: right for two ranks only.",
    tells(lambda base, error: change.retold(error, missing=tuple(r for r in range(base.world_size) if r != base.rank))),
)
names_wrong_op = plant(
    "error-names-the-native-op",
    "deadline-is-obeyed",
    "A missed deadline of `barrier` speaks of the all_reduce that it is made of.",
    tells(lambda base, error: change.retold(error, op="all_reduce"), ("barrier",)),
)
names_wrong_number = plant(
    "error-names-the-next-number",
    "deadline-is-obeyed",
    "A missed deadline gives the number of the call after it.",
    tells(lambda base, error: change.retold(error, sequence=error.sequence + 1)),
)
timeout_is_a_runtime_error = plant(
    "timeout-is-a-runtime-error",
    "deadline-is-obeyed",
    "A missed deadline is a RuntimeError of the native library.",
    tells(lambda base, error: RuntimeError("Timed out waiting for operation to complete")),
)


def _default_deadline(seconds: float) -> Callable[[Backend], Backend]:
    def mutate(backend: Backend) -> Backend:
        return replace(backend, communicator=lambda r: backend.communicator(replace(r, deadline=seconds)))

    return mutate


default_deadline_ignored = plant(
    "default-deadline-is-ignored",
    "default-deadline-is-obeyed",
    "The deadline of the rendezvous is not used: a call without one waits for a built-in time.",
    _default_deadline(6.0),
)


def _hurries(name: str, call: Any, *args: Any, deadline: float | None = None, **options: Any) -> Any:
    return call(*args, deadline=0.1 if deadline is None else deadline, **options)


default_deadline_cut = plant(
    "default-deadline-is-cut-short",
    "default-deadline-is-obeyed",
    "A call without a deadline has a tenth of a second, whatever the rendezvous says.",
    change.wrapped(_hurries, ("all_reduce", "barrier")),
)

"""What the kit and its worker processes say to each other: plain data, nothing of torch and nothing of a backend."""

from __future__ import annotations

from dataclasses import dataclass

from hardpoint.conformance.source import BackendSource


@dataclass(frozen=True)
class Hello:
    """First message to a worker: where to import from, and where the store of all ranks listens."""

    path: tuple[str, ...]
    store_host: str
    store_port: int


@dataclass(frozen=True)
class Ready:
    """First message of a worker."""

    pid: int


@dataclass(frozen=True)
class Describe:
    """Build the backend and say what it is."""

    source: BackendSource


@dataclass(frozen=True)
class ExtraLaw:
    """An `ExtraCase` without its function, which stays in the workers."""

    id: str
    statement: str
    claim: str | None
    ranks: tuple[int, ...]
    deadline: float


@dataclass(frozen=True)
class DeviceFacts:
    """One device as the backend names it."""

    index: int
    physical: str | None
    uuid: str | None
    visibility: str | None
    memory_total: int


@dataclass(frozen=True)
class Description:
    """What a backend says about itself.

    Attributes:
        due: ids of the laws of the kit that it has to keep, by what it declares.
        claims: what it declares, for people.
        ranks_share_device: several processes may work on one device, as far as collectives go.
        tolerances: the ones it states, as sentences.
        versions: (package, version) of what it was built from.
    """

    name: str
    summary: str
    device_type: str
    api: tuple[int, int]
    devices: tuple[DeviceFacts, ...]
    due: frozenset[str]
    claims: tuple[str, ...]
    ranks_share_device: bool
    extra_laws: tuple[ExtraLaw, ...]
    tolerances: tuple[str, ...]
    versions: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Run:
    """Run one law on one rank. `run` is a number of its own for the keys in the store; `effort` as in `Job`."""

    source: BackendSource
    law: str
    seed: int
    run: int
    rank: int
    world_size: int
    deadline: float
    effort: float = 1.0


@dataclass(frozen=True)
class Started:
    """The backend is built: from now on the law's own deadline counts."""


@dataclass(frozen=True)
class Done:
    """Answer to `Describe` or `Run`. `failure` is None if all went well, else a sentence.

    `unavailable`: the failure is that no backend of that name can be chosen here, and no fault of a backend.
    """

    failure: str | None
    traceback: str = ""
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    description: Description | None = None
    unavailable: bool = False


@dataclass(frozen=True)
class Dying:
    """The law is about to end this process on purpose, to see what the other ranks do."""


ToWorker = Hello | Describe | Run
FromWorker = Ready | Started | Done | Dying

"""All plugins of this process: found once, each tried, loaded and probed when it is first asked about."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from hardpoint.backend import BackendInfo
from hardpoint.environment import IN_TRIAL, PLUGINS, probe_deadline
from hardpoint.errors import PluginError
from hardpoint.plugins import verdicts
from hardpoint.plugins.allow_list import read_allow_list
from hardpoint.plugins.candidate import Candidate, State
from hardpoint.plugins.claims import Claim, read_claims, twice_claimed
from hardpoint.plugins.known import KNOWN
from hardpoint.plugins.load import Loaded, Refused, load, probe
from hardpoint.plugins.sentence import one_line
from hardpoint.plugins.trial import Verdict, try_in_child

_TRIALS_AT_ONCE = 4


@dataclass(frozen=True)
class Answer:
    """What one plugin answered to a collecting hook: a value, or the error that it raised."""

    candidate: str
    value: Any = None
    error: Exception | None = None


class Registry:
    """The plugins as `environment` and the installed distributions have them at the time of construction.

    Nothing is imported before it is asked for: with ``HARDPOINT_BACKEND=cpu``, only the cpu plugin is.
    """

    def __init__(self, environment: Mapping[str, str] | None = None, *, retry_failures: bool = False) -> None:
        """`retry_failures`: do not believe remembered failures, try those plugins again.

        Raises:
            PluginError: called by a plugin that is being tried: it would try itself without end.
            BadVariable: ``HARDPOINT_PROBE_DEADLINE`` is no number of seconds.
        """
        environment = dict(os.environ if environment is None else environment)
        if IN_TRIAL in environment:
            raise PluginError("a plugin may not choose or list backends while it is imported or probed")
        self._deadline = probe_deadline(environment)
        self._folder = verdicts.cache_folder(environment)
        self._retry = retry_failures
        read = read_claims()
        allowed = read_allow_list(environment)
        self._claims = tuple(claim for claim in read.claims if allowed.allows(claim))
        self._barred = tuple(claim for claim in read.claims if not allowed.allows(claim))
        self._twice = twice_claimed(self._claims)
        self.notes = read.unreadable + tuple(
            f"{PLUGINS} lists {name!r}, but no installed plugin or distribution is called that"
            for name in allowed.unmatched(read.claims)
        )
        self._loaded: dict[str, Loaded | Refused] = {}
        self._probed: dict[str, Candidate] = {}
        self._lock = threading.RLock()
        self.torch_failure: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Names that at least one allowed claim holds."""
        return tuple(dict.fromkeys(claim.name for claim in self._claims))

    def new_lock(self) -> None:
        """For a forked child: the old lock may have been held by a thread that the child does not have."""
        self._lock = threading.RLock()

    def rows_exist(self, name: str) -> bool:
        """Whether any distribution claims `name`, allowed or not."""
        return any(claim.name == name for claim in (*self._claims, *self._barred))

    def candidates(self) -> tuple[Candidate, ...]:
        """Every candidate with its state and reason; known names that nothing provides come last."""
        self._load_all()
        rows = [self._candidate(claim) for claim in self._claims]
        rows += self.barred()
        present = {row.name for row in rows}
        rows += [
            Candidate(known.name, State.NOT_INSTALLED, known.remedy) for known in KNOWN if known.name not in present
        ]
        return tuple(rows)

    def rows(self, name: str) -> tuple[Candidate, ...]:
        """The candidates called `name`, probing no other; empty if no claim, barred or not, has it."""
        mine = tuple(self._candidate(claim) for claim in self._claims if claim.name == name)
        return mine or tuple(row for row in self.barred() if row.name == name)

    def barred(self) -> tuple[Candidate, ...]:
        """Candidates that the allow-list keeps out; nothing of theirs was imported."""
        return tuple(_row(claim, State.NOT_ALLOWED, f"not allowed by {PLUGINS}") for claim in self._barred)

    def named_by_alias(self, alias: str) -> tuple[str, ...]:
        """Names of loadable plugins that have `alias`. Loads all plugins, probes none."""
        self._load_all()
        return tuple(
            loaded.claim.name
            for _, loaded in sorted(self._loaded.items())
            if isinstance(loaded, Loaded) and alias in {other.casefold() for other in loaded.info.aliases}
        )

    def plugin(self, name: str) -> Loaded:
        """The loaded plugin called `name`; PluginError if it cannot be loaded, with its reason."""
        for claim in self._claims:
            if claim.name == name and name not in self._twice:
                loaded = self._load(claim)
                if isinstance(loaded, Loaded):
                    return loaded
                raise PluginError(f"plugin {name!r} ({claim.origin}) cannot be used: {loaded.reason}")
        raise PluginError(f"no single plugin is called {name!r}")

    def collect(self, hook: str, **arguments: Any) -> Iterator[Answer]:
        """Call a collecting hook (`hardpoint_kernel`, `hardpoint_conformance`) on every usable plugin, each isolated.

        A plugin that does not implement the hook gives no answer; one that raises gives an answer with the error.
        """
        self._load_all()
        for name, loaded in sorted(self._loaded.items()):
            if isinstance(loaded, Loaded) and getattr(loaded.manager.hook, hook).get_hookimpls():
                try:
                    values = loaded.call(hook, None, **arguments)
                except Exception as error:  # noqa: BLE001 - handed to the caller with the plugin's name
                    yield Answer(name, error=error)
                else:
                    yield from (Answer(name, value) for value in values)

    def _load_all(self) -> None:
        with self._lock:
            waiting = [
                claim for claim in self._claims if claim.name not in self._twice and claim.name not in self._loaded
            ]
            if waiting:
                with ThreadPoolExecutor(_TRIALS_AT_ONCE, "hardpoint trial") as pool:
                    tried = list(pool.map(self._verdict, waiting))
                for claim, verdict in zip(waiting, tried, strict=True):
                    self._load(claim, verdict)

    def _load(self, claim: Claim, verdict: Verdict | None = None) -> Loaded | Refused:
        with self._lock:
            if claim.name not in self._loaded:
                verdict = verdict or self._verdict(claim)
                self._loaded[claim.name] = (
                    load(claim, self._deadline) if verdict.reason is None else Refused(verdict.state, verdict.reason)
                )
            return self._loaded[claim.name]

    def _verdict(self, claim: Claim) -> Verdict:
        """Whether `claim` may be imported here.

        Hardpoint's own plugins are: their modules import hardpoint and the standard library alone, which a test holds,
        and every `hardpoint list` would pay for their trial after each edit.
        """
        if claim.own:
            return Verdict.passed()
        try:
            key = verdicts.key_of(claim)
        except OSError as error:
            return Verdict(f"its files cannot be read: {one_line(error)}")
        verdict = verdicts.recall(self._folder, key, failures=not self._retry)
        if verdict is None:
            verdict = try_in_child(claim, self._deadline)
            verdicts.remember(self._folder, key, verdict)
        return verdict

    def _candidate(self, claim: Claim) -> Candidate:
        if claim.name in self._twice:
            return _row(claim, State.DUPLICATE, _claimed_by(self._twice[claim.name]))
        with self._lock:
            if claim.name not in self._probed:
                self._probed[claim.name] = self._probe(claim)
            return self._probed[claim.name]

    def _true_reason(self, reason: str) -> str:
        """`reason`, or the error that it follows from.

        When `import torch` fails (a vendor that torch loads itself is broken), torch is gone from ``sys.modules`` but
        its libraries stay, so every later import fails for another reason ("Only a single TORCH_LIBRARY ..."), which
        misleads. The first error is the true one.
        """
        if "torch" in sys.modules or "torch._C" not in sys.modules:
            return reason
        if self.torch_failure is None:
            self.torch_failure = reason
            return reason
        return f"torch cannot be imported in this process; the first attempt ended with: {self.torch_failure}"

    def _probe(self, claim: Claim) -> Candidate:
        loaded = self._load(claim)
        if isinstance(loaded, Refused):
            return _row(claim, loaded.state, loaded.reason, loaded.info)
        found = probe(loaded, self._deadline)
        if isinstance(found, Refused):
            return _row(claim, found.state, self._true_reason(found.reason), found.info)
        state = State.AVAILABLE if found.available else State.NO_DEVICE
        return _row(claim, state, found.reason, loaded.info, found.device_count)


def _row(claim: Claim, state: State, reason: str, info: BackendInfo | None = None, devices: int = 0) -> Candidate:
    return Candidate(claim.name, state, reason, claim.distribution, claim.version, claim.value, info, devices)


def _claimed_by(claims: tuple[Claim, ...]) -> str:
    """The reason that names everybody, and the way out."""
    who = " and ".join(f"{claim.origin} ({claim.value})" for claim in claims)
    if len({claim.distribution for claim in claims}) == 1:
        return f"{claims[0].origin} claims this name {len(claims)} times: {', '.join(claim.value for claim in claims)}"
    return f"claimed by {who}; uninstall one, or list the distributions to be trusted in {PLUGINS}"

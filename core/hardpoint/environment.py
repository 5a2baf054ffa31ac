"""Every ``HARDPOINT_*`` variable with its meaning: the one table, read by ``hardpoint doctor`` and by the docs."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from hardpoint.errors import HardpointError

PREFIX = "HARDPOINT_"
DEFAULT_DEADLINE = 30.0
COLLECTIVE_DEADLINE = "HARDPOINT_COLLECTIVE_DEADLINE"
DEFAULT_COLLECTIVE_DEADLINE = 300.0
BACKEND = "HARDPOINT_BACKEND"
PLUGINS = "HARDPOINT_PLUGINS"
TRACE = "HARDPOINT_TRACE"
PROBE_DEADLINE = "HARDPOINT_PROBE_DEADLINE"
IN_TRIAL = "HARDPOINT_IN_TRIAL"
CONTROL_TOKEN = "HARDPOINT_CONTROL_TOKEN"
CONTROL_TOKEN_FILE = "HARDPOINT_CONTROL_TOKEN_FILE"


@dataclass(frozen=True)
class Variable:
    """One environment variable.

    Attributes:
        name: with its prefix.
        meaning: one line for people, values included.
        default: what holds when it is unset or empty.
        hand_on: whether spawned workers must see the same value.
    """

    name: str
    meaning: str
    default: str
    hand_on: bool = True


VARIABLES: tuple[Variable, ...] = (
    Variable(
        BACKEND, "backend: auto, a name, name:profile, an order such as a,b,c, or off", "auto; inside vLLM: watch"
    ),
    Variable(PLUGINS, "allow-list of plugins: names of backends or of distributions, with commas", "all are allowed"),
    Variable(
        PROBE_DEADLINE,
        "seconds that a plugin may take to import, to describe itself or to probe",
        f"{DEFAULT_DEADLINE:g}",
    ),
    Variable(
        COLLECTIVE_DEADLINE,
        "seconds that a collective of a serving engine may take before the absent ranks are named",
        f"{DEFAULT_COLLECTIVE_DEADLINE:g}",
    ),
    Variable(TRACE, "1 prints every hook call to stderr", "0"),
    Variable(
        "HARDPOINT_RECORDS",
        "folder into which ranks write their last collectives when one fails; read by hardpoint explain hang",
        "nothing is written",
    ),
    Variable(
        "HARDPOINT_PROBE",
        "scan layers in a serving engine: nan (values that are no numbers), mask (counts of each batch), or both",
        "off",
    ),
    Variable(
        "HARDPOINT_PROBE_REPORTS", "folder of the probe's reports, read by hardpoint explain nan", "hardpoint-reports"
    ),
    Variable(
        "HARDPOINT_PLATFORM",
        "vLLM's platform and attention: stock, or derived with padding, collectives and sleep by the backend's rules",
        "derived on cpu and for a backend with a profile; stock where it has not served yet (cuda, xpu)",
    ),
    Variable(
        "HARDPOINT_KERNELS",
        "kernels of GDN layers inside vLLM: off, auto (where measured quicker), all, or a list out of decode, prefill",
        "off",
    ),
    Variable("HARDPOINT_GUARD", "check of other people's Triton launches: on, off or strict", "on"),
    Variable("HARDPOINT_NATIVE_LAUNCH", "bound Triton launches in C where there is a compiler: on or off", "on"),
    Variable("HARDPOINT_TRIPWIRE", "second raw model.load_weights inside vLLM: raise, warn or off", "raise"),
    Variable(
        "HARDPOINT_RAW_RELOAD",
        "raw model.load_weights of a trainer that processes by hand afterwards: refuse, or session to collect them",
        "refuse",
    ),
    Variable("HARDPOINT_SLEEP_STEP_SECONDS", "how long a rank's steps of sleep or wake may take between votes", "120"),
    Variable("HARDPOINT_SLEEP_DRAIN_SECONDS", "how long sleep waits for running requests with mode=wait", "300"),
    Variable("HARDPOINT_SLEEP_REQUESTS", "requests to a sleeping engine: wait, or refuse with an error", "wait"),
    Variable("HARDPOINT_SLEEP_KEEP_COPIES", "saved weights stay in host memory between sleeps: on or off", "off"),
    Variable("HARDPOINT_SIM_DEVICES", "how many devices the simulator has", "2"),
    Variable("HARDPOINT_SIM_MEMORY", "bytes of memory of one simulated device", "1 GiB"),
    Variable("HARDPOINT_SIM_SEED", "order of simulated streams: 0 last first, another number at random from it", "0"),
    Variable("HARDPOINT_TORCH_PIP_ARGS", "extra pip arguments with which make installs torch", "none", hand_on=False),
    Variable(CONTROL_TOKEN_FILE, "file with the token of control endpoints", "unset: loopback only"),
    # Not handed on: what is handed on ends in Ray's runtime environments and its dashboard.
    Variable(CONTROL_TOKEN, "that token itself; the file is better", "unset", hand_on=False),
    Variable(IN_TRIAL, "set by hardpoint in the child process that tries a new plugin", "unset", hand_on=False),
)
_BY_NAME = {variable.name: variable for variable in VARIABLES}


@dataclass(frozen=True)
class UnknownVariable:
    """A ``HARDPOINT_*`` variable that nothing reads, and the name that was probably meant."""

    name: str
    meant: str | None


def unknown_variables(environment: Mapping[str, str], backends: Iterable[str] = ()) -> list[UnknownVariable]:
    """Variables of `environment` with our prefix that are not in the table.

    ``HARDPOINT_<NAME>_*`` belongs to the installed backend `name` (one of `backends`) and is passed over, unless that
    backend is in the table with variables of its own.
    """
    foreign = tuple(
        f"{PREFIX}{name.upper().replace('-', '_')}_"
        for name in backends
        if not any(known.startswith(f"{PREFIX}{name.upper()}_") for known in _BY_NAME)
    )
    names = [name for name in environment if name.startswith(PREFIX) and name not in _BY_NAME]
    return [
        UnknownVariable(name, next(iter(difflib.get_close_matches(name, _BY_NAME, n=1, cutoff=0.75)), None))
        for name in sorted(names)
        if not (foreign and name.startswith(foreign))
    ]


def to_hand_on(environment: Mapping[str, str]) -> dict[str, str]:
    """The ``HARDPOINT_*`` variables that a worker has to see; those not in the table too, they may be a plugin's."""
    return {
        name: value
        for name, value in environment.items()
        if name.startswith(PREFIX) and (name not in _BY_NAME or _BY_NAME[name].hand_on)
    }


class BadVariable(HardpointError, ValueError):
    """A variable of ours holds what nobody can mean; the message says what was expected."""


def probe_deadline(environment: Mapping[str, str]) -> float:
    """Seconds of ``HARDPOINT_PROBE_DEADLINE``; BadVariable if it is not a positive number."""
    return _seconds(environment, PROBE_DEADLINE, DEFAULT_DEADLINE)


def collective_deadline(environment: Mapping[str, str] | None = None) -> float:
    """Seconds of ``HARDPOINT_COLLECTIVE_DEADLINE``; BadVariable if it is not a positive number."""
    return _seconds(
        os.environ if environment is None else environment, COLLECTIVE_DEADLINE, DEFAULT_COLLECTIVE_DEADLINE
    )


def _seconds(environment: Mapping[str, str], name: str, default: float) -> float:
    text = environment.get(name, "").strip()
    if not text:
        return default
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 3600:
        raise BadVariable(f"{name} should be a number of seconds above 0 and up to 3600, found {text!r}.")
    return seconds


def tracing(environment: Mapping[str, str]) -> bool:
    """Whether ``HARDPOINT_TRACE`` asks for hook calls on stderr."""
    return environment.get(TRACE, "").strip().lower() not in ("", "0", "off", "false", "no")

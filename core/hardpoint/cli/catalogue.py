"""Which sub-commands there are, and loading the one that is asked for: the others cost no import."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass

from hardpoint.cli.command import Command
from hardpoint.errors import HardpointError
from hardpoint.plugins.claims import Claim, read_claims, twice_claimed
from hardpoint.plugins.sentence import one_line

GROUP = "hardpoint.commands"


class CommandUnusable(HardpointError):
    """A sub-command exists by name, but its code cannot be loaded."""


@dataclass(frozen=True)
class Listed:
    """A sub-command before it is loaded; `summary` is for ``--help``."""

    name: str
    summary: str
    load: Callable[[], Command]


_CORE = {
    "list": ("hardpoint.cli.list_command:COMMAND", "all backends, each with its state and reason"),
    "info": ("hardpoint.cli.info_command:COMMAND", "what one backend is and can do"),
    "doctor": ("hardpoint.cli.doctor.command:COMMAND", "look at this machine and say what is wrong and what to do"),
    "explain": ("hardpoint.cli.explain_command:COMMAND", "why values are no numbers, why ranks wait for each other"),
    "conformance": ("hardpoint.conformance.command:CONFORMANCE", "run the laws of the interfaces on a backend"),
    "report": ("hardpoint.cli.report_command:COMMAND", "list, doctor, info and the kit in one file, to send"),
    "matrix": ("hardpoint.conformance.command:MATRIX", "print the support matrix from conformance reports"),
}


def catalogue() -> dict[str, Listed]:
    """All sub-commands by name: core's, then those that installed distributions bring. Loads none."""
    listed = {name: Listed(name, summary, _loader(name, value)) for name, (value, summary) in _CORE.items()}
    claims = [claim for claim in read_claims(GROUP).claims if claim.name not in _CORE]
    twice = twice_claimed(claims)
    for claim in claims:
        load = _conflict(twice[claim.name]) if claim.name in twice else _loader(claim.name, claim.value, claim.origin)
        listed[claim.name] = Listed(claim.name, f"from {claim.origin}", load)
    return listed


def _loader(name: str, value: str, origin: str = "hardpoint") -> Callable[[], Command]:
    def load() -> Command:
        try:
            command: object = importlib.metadata.EntryPoint(name, value, GROUP).load()
        except (Exception, SystemExit) as error:
            raise CommandUnusable(
                f"`hardpoint {name}` cannot be loaded: {value} (from {origin}) fails when imported: {one_line(error)}. "
                "Repair or reinstall that distribution; `hardpoint doctor` shows what else is wrong."
            ) from error
        if not isinstance(command, Command):
            raise CommandUnusable(
                f"`hardpoint {name}` cannot be loaded: {value} (from {origin}) should be a hardpoint.cli.command."
                f"Command, is {type(command).__name__}."
            )
        return command

    return load


def _conflict(claims: tuple[Claim, ...]) -> Callable[[], Command]:
    def load() -> Command:
        who = " and ".join(f"{claim.origin} ({claim.value})" for claim in claims)
        raise CommandUnusable(f"`hardpoint {claims[0].name}` is claimed by {who}; uninstall one of them.")

    return load

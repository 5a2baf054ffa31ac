"""Entry of ``hardpoint``: finds the sub-command, loads it alone, turns errors into sentences and exit statuses."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from hardpoint import __version__
from hardpoint.cli.catalogue import CommandUnusable, Listed, catalogue
from hardpoint.cli.command import FOUND, UNUSABLE, Command
from hardpoint.cli.output import print_json
from hardpoint.environment import BadVariable
from hardpoint.errors import BackendUnavailable, HardpointError

_EPILOG = "exit status: 0 good, 1 something was found, 2 wrong usage or no such backend"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``hardpoint`` with `arguments` (default: those of the process) and return its exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    asked = next((word for word in given if not word.startswith("-")), None)
    commands = catalogue()
    try:
        loaded = commands[asked].load() if asked in commands else None
        parsed = _parser(commands, loaded).parse_args(given)
        if loaded is None:
            _parser(commands, None).print_help()
            return UNUSABLE
        return _run(loaded, parsed)
    except HardpointError as error:
        return _say(error, "--json" in given)


def _run(command: Command, parsed: argparse.Namespace) -> int:
    try:
        status = command.run(parsed)
        sys.stdout.flush()
        if "torch._C" in sys.modules and "torch" not in sys.modules:
            # `import torch` failed: its libraries stay, half set up, and may crash the interpreter when it tidies up.
            # All that was to be said has been said; the exit status has to be ours, not a signal's.
            sys.stderr.flush()
            os._exit(status)
        return status
    except BrokenPipeError:
        # The reader, such as `head`, has seen enough; without this Python complains when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("hardpoint: interrupted", file=sys.stderr)
        return 130


def _say(error: Exception, as_json: bool) -> int:
    print(f"hardpoint: {error}", file=sys.stderr)
    if as_json:
        print_json("error", error=type(error).__name__, message=str(error))
    return UNUSABLE if isinstance(error, BackendUnavailable | BadVariable | CommandUnusable) else FOUND


def _parser(commands: dict[str, Listed], loaded: Command | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hardpoint", description="Where an accelerator attaches to LLM inference and RL.", epilog=_EPILOG
    )
    parser.add_argument("--version", action="version", version=f"hardpoint {__version__}")
    places = parser.add_subparsers(title="commands", metavar="COMMAND")
    for listed in commands.values():
        mine = loaded is not None and loaded.name == listed.name
        summary = loaded.summary if mine and loaded else listed.summary
        place = places.add_parser(listed.name, help=summary, description=summary, epilog=_EPILOG)
        if mine and loaded:
            loaded.add_arguments(place)
    return parser

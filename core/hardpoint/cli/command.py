"""What a sub-command is; other packages bring theirs through entry-point group ``hardpoint.commands``."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass

GOOD = 0
FOUND = 1
UNUSABLE = 2


@dataclass(frozen=True)
class Command:
    """One sub-command.

    Attributes:
        name: what people type; the entry point's name.
        summary: one line for ``--help``.
        add_arguments: adds its options to the parser, ``--json`` included.
        run: does it; returns the exit status: 0 good, 1 something was found, 2 wrong usage or no such backend.
    """

    name: str
    summary: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]

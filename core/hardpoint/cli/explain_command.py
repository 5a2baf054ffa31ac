"""``hardpoint explain WHAT ...``: why something is as it is. One topic per kind of question.

A topic is named first (``nan``, ``hang``); a first word that names none is taken for an operation, and goes to
`OPERATION` with all that follows.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable

from hardpoint.cli.catalogue import CommandUnusable
from hardpoint.cli.command import Command

Topic = Callable[[argparse.Namespace], int]

# Topic -> where its function is: loaded when it is asked for.
TOPICS: dict[str, str] = {
    "nan": "hardpoint.cli.explain_topics:explain_nan_files",
    "hang": "hardpoint.cli.explain_topics:explain_hang_files",
}
# What explains an operation by its name and shape, ``module:function``; None as long as nothing does.
OPERATION: str | None = "hardpoint.cli.explain_operation:explain_operation"


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "what", metavar="WHAT", help="nan: the probe's reports; hang: flight records; else an operation"
    )
    parser.add_argument(
        "rest", metavar="FILE", nargs="*", help="files or folders, of all ranks together; or SIZE=N ..."
    )
    parser.add_argument("--clean", metavar="FILE", nargs="+", default=[], help="nan: reports of a clean run")
    parser.add_argument("--device", help="operation: name of the device (default: the backend's first)")
    parser.add_argument("--backend", help="operation: default is what HARDPOINT_BACKEND means here")
    parser.set_defaults(topics=tuple(TOPICS))
    parser.add_argument("--json", action="store_true", help="print JSON")


def _run(args: argparse.Namespace) -> int:
    target = TOPICS.get(args.what, OPERATION)
    if target is None:
        raise CommandUnusable(f"`hardpoint explain` knows {' and '.join(TOPICS)}; {args.what!r} is neither.")
    module, _, name = target.partition(":")
    topic: Topic = getattr(importlib.import_module(module), name)
    return topic(args)


COMMAND = Command(
    "explain",
    "why values are no numbers (nan), why ranks wait (hang), which kernel serves an operation",
    _arguments,
    _run,
)

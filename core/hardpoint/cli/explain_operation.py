"""``hardpoint explain OP SIZE=N ...``: which kernel would serve an operation, why, and what the others would cost."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import fields
from difflib import get_close_matches

from hardpoint.backend import Backend
from hardpoint.cli.catalogue import CommandUnusable
from hardpoint.cli.command import FOUND, GOOD
from hardpoint.cli.output import console, print_json, print_table
from hardpoint.providers import Ranking, collect, rank, shipped
from hardpoint.selection import get_backend, registry


def explain_operation(args: argparse.Namespace) -> int:
    """Print the ranking of providers for operation ``args.what`` and the sizes in ``args.rest``; 1 if none serves it.

    Raises CommandUnusable for an operation or a size that no table has.
    """
    table = shipped()
    if args.what not in table.ops():
        near = get_close_matches(args.what, [*table.ops(), *args.topics], 1)
        raise CommandUnusable(
            f"`hardpoint explain` knows {', '.join(args.topics)}, and the operations {', '.join(table.ops())}; "
            f"{args.what!r} is neither.{f' Did you mean {near[0]}?' if near else ''}"
        )
    shape = parse_shape(args.what, args.rest, table.names(args.what))
    backend = get_backend(args.backend)
    device = args.device or device_name(backend)
    ranking = rank(args.what, shape, device, collect(args.what, backend, registry()), table)
    if args.json:
        rows = [
            {field.name: getattr(row, field.name) for field in fields(row) if field.name != "offer"}
            for row in ranking.rows
        ]
        print_json("explain", op=args.what, shape=shape, device=device, measured=dict(ranking.measured),
                   why=ranking.why, rows=rows)  # fmt: skip
    else:
        _show(ranking)
    return GOOD if ranking.chosen is not None else FOUND


def device_name(backend: Backend) -> str:
    """What the device's runtime calls its first device; the backend's name where it has no names."""
    import torch

    read = getattr(torch.get_device_module(backend.info.device_type), "get_device_name", None)
    return str(read(0)) if read is not None else backend.info.name


def parse_shape(op: str, words: Sequence[str], names: Sequence[str]) -> dict[str, int]:
    """``H=16`` ... as numbers. CommandUnusable for a size that `op` has not, or that is no positive number."""
    shape: dict[str, int] = {}
    for word in words:
        name, _, value = word.partition("=")
        if name not in names or not value.isdecimal() or int(value) < 1:
            raise CommandUnusable(
                f"{op} takes sizes {', '.join(f'{n}=N' for n in names)} with N above 0, got {word!r}."
            )
        shape[name] = int(value)
    lacking = [name for name in names if name not in shape]
    if lacking:
        raise CommandUnusable(f"{op} needs {', '.join(f'{name}=N' for name in lacking)} as well.")
    return shape


def _show(ranking: Ranking) -> None:
    out = console()
    asked = " ".join(f"{name}={size}" for name, size in ranking.shape.items())
    used = " ".join(f"{name}={size}" for name, size in ranking.measured.items())
    out.print(f"{ranking.op}  {asked}  on {ranking.device}")
    out.print(f"numbers of {used}\n" if used else "never measured on this device\n")
    rows = [
        (
            "*" if row.state == "chosen" else " ", row.provider, row.state, "-" if row.us is None else f"{row.us:.1f}",
            "-" if row.error is None else f"{row.error:.1e}", row.reason,
        )
        for row in ranking.rows
    ]  # fmt: skip
    print_table(out, ("", "provider", "state", "us", "error", "note"), rows)
    out.print(f"\n{ranking.why}")

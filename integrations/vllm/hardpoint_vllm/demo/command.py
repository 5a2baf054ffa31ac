"""The ``demo`` sub-command of ``hardpoint``."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hardpoint.cli.command import Command

_NEEDED = {"vllm": "vllm", "transformers": "trainers", "safetensors": "trainers"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``hardpoint demo``."""
    from hardpoint_vllm.demo.recipes import RECIPES

    parser.add_argument("--model", choices=[*RECIPES, "all"], default="all", help="which model (default: all)")
    parser.add_argument("--keep", metavar="DIR", type=Path, help="keep checkpoints, logs and reports in DIR")
    parser.add_argument("--seed", type=int, default=0, help="of weights and prompts (default: 0)")
    parser.add_argument(
        "--sabotage",
        choices=["swap"],
        help="plant a fault in the first update, to see that the demo notices: it must end with exit status 1",
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON; progress goes to stderr")


def run(args: argparse.Namespace) -> int:
    """0 if every check passed, 1 if one failed, 2 if the demo cannot be run here."""
    from rich.console import Console

    missing = {module: extra for module, extra in _NEEDED.items() if find_spec(module) is None}
    if missing:
        extras = ",".join(sorted(set(missing.values())))
        print(
            f"hardpoint demo needs {', '.join(missing)}, which this Python does not have. Install with: "
            f"pip install 'hardpoint[{extras}]'",
            file=sys.stderr,
        )
        return 2
    with _ended_by_sigterm(), _folder(args.keep) as folder:
        try:
            return _run(args, folder, Console(stderr=args.json))
        except KeyboardInterrupt:
            print("hardpoint demo: interrupted; both child processes were ended.", file=sys.stderr)
            return 130


def _run(args: argparse.Namespace, folder: Path, console: Any) -> int:
    from hardpoint_vllm.demo.recipes import RECIPES
    from hardpoint_vllm.demo.screen import Screen
    from hardpoint_vllm.demo.story import Plan, Story

    started = time.monotonic()
    recipes = list(RECIPES.values()) if args.model == "all" else [RECIPES[args.model]]
    environment = child_environment()
    screen = Screen(console)
    screen.opening([recipe.title for recipe in recipes], environment["HARDPOINT_BACKEND"])
    reports = []
    for recipe in recipes:
        screen.model(recipe.title, recipe.what)
        reports.append(Story(recipe, Plan(folder / recipe.name, environment, args.seed, args.sabotage), screen).run())
    passed = all(report.passed for report in reports)
    screen.closing(reports, time.monotonic() - started, str(args.keep) if args.keep else None)
    if args.json:
        body = {
            "passed": passed,
            "seconds": round(time.monotonic() - started, 3),
            "models": [report.to_dict() for report in reports],
        }
        print(json.dumps(body, indent=2))
    return 0 if passed else 1


def child_environment() -> dict[str, str]:
    """What both children get on top of this process's environment. Nothing is fetched from anywhere."""
    return {
        "HARDPOINT_BACKEND": os.environ.get("HARDPOINT_BACKEND") or "cpu",
        # The models are too small for more threads, which would only wait for each other and for the other process.
        "OMP_NUM_THREADS": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine in the child itself: starts in seconds
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }


@contextlib.contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        yield keep
        return
    folder = Path(tempfile.mkdtemp(prefix="hardpoint-demo-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    # The default action would skip the `finally` blocks that end the children.
    previous = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


COMMAND = Command("demo", "run the main job here, with real models and checks that could fail", add_arguments, run)

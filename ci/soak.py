"""Repeat the kit and its self-test, and tell what did not come out the same every time.

    .venv/bin/python ci/soak.py [--runs 20] [--only cpu]

Each run's output goes to .work/soak/<subject>-<number>.log, its report to the .json beside it. Exit status 0 if every
run of every subject was good. It does not stop at the first bad run: how often a law fails is what one wants to know.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".work" / "soak"
SUBJECTS = {"cpu": ("cpu",), "sim": ("sim",), "self-test": ("--self-test",)}
DEADLINE = 1800.0  # three times what the slowest may take


def run(subject: str, number: int) -> tuple[str, list[str]]:
    """One run: how it ended in a word, and the ids of the laws that failed in it."""
    log, report = FOLDER / f"{subject}-{number:02}.log", FOLDER / f"{subject}-{number:02}.json"
    report.unlink(missing_ok=True)
    command = [sys.executable, "-m", "hardpoint", "conformance", *SUBJECTS[subject]]
    if subject != "self-test":
        command += ["--json", str(report)]
    with log.open("wb") as sink:
        try:
            code = subprocess.run(
                command,
                cwd=ROOT,
                env={**os.environ, "COLUMNS": "160"},
                stdout=sink,
                stderr=subprocess.STDOUT,
                timeout=DEADLINE,
                check=False,
            ).returncode
        except subprocess.TimeoutExpired:
            return f"did not end within {DEADLINE:g} s", []
    if code == 0:
        return "good", []
    if report.exists():
        results = json.loads(report.read_text(encoding="utf-8"))["results"]
        return "bad", [result["id"] for result in results if result["status"] == "failed"]
    # The self-test has no JSON; what slipped through, and what fails unplanted, is at the start of a line.
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    words = ("baseline ", "mutant ", "legal variant ", "no mutant ")
    return "bad", [line.partition(":")[0] for line in lines if line.startswith(words)]


def main() -> int:
    """Run every subject in turn, so that a slow hour of the machine meets all of them."""
    parser = argparse.ArgumentParser(description="Repeat the kit and its self-test.")
    parser.add_argument("--runs", type=int, default=20, metavar="N")
    parser.add_argument("--only", choices=SUBJECTS, action="append", metavar="SUBJECT", help=", ".join(SUBJECTS))
    options = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    subjects = options.only or list(SUBJECTS)
    bad: Counter[str] = Counter()
    failed: dict[str, Counter[str]] = {subject: Counter() for subject in subjects}
    for number in range(1, options.runs + 1):
        for subject in subjects:
            begin = time.monotonic()
            word, ids = run(subject, number)
            bad[subject] += word != "good"
            failed[subject].update(ids)
            took = f"{time.monotonic() - begin:5.0f} s"
            print(f"{number:2} of {options.runs}  {subject:9}  {took}  {word}  {', '.join(ids)}", flush=True)
    for subject in subjects:
        print(f"{subject}: {options.runs - bad[subject]} of {options.runs} runs good")
        for id, count in failed[subject].most_common():
            often = "always" if count == options.runs else f"{count} of {options.runs} times"
            print(f"  {id} failed {often}")
    print(f"logs and reports: {FOLDER.relative_to(ROOT)}")
    return 1 if sum(bad.values()) else 0


if __name__ == "__main__":
    sys.exit(main())

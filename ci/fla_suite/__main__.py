"""fla's own tests of the gated delta rule on hardpoint's kernels: ``python ci/fla_suite [--source FOLDER] [-k WORDS]``.

fla's packages carry no tests, so package and tests come from one checkout of its repository at a pinned commit (cloned
to .work/fla if no `--source` is given; pure Python, nothing is installed). With a GPU all tests of the chunk rule run.
Without one Triton's interpreter runs those of `SMALL`; the rest is too long for it, and needs a GPU and this command.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = "https://github.com/fla-org/flash-linear-attention"
COMMIT = "bc3b101dcb713ddc5bd8924b66754eb68b5ccf89"  # 2026-08-22
TESTS = "tests/ops/test_gdn.py"
# Tests of the chunk rule; the others in that file are of kernels that hardpoint has no counterpart of.
CHUNKS = "test_chunk and not backward and not blackwell and not prepare_wy and not flash_qla"
SMALL = "(test_chunk_state_v_first and T63) or (test_chunk_gate_in_kernel and T75) or (test_chunk and T75-H4-HV4-D64)"
ROOT = Path(__file__).parents[2]


def checkout(folder: Path) -> Path:
    """fla at `COMMIT` in `folder`, cloned on first use."""
    if not (folder / TESTS).exists():
        folder.mkdir(parents=True, exist_ok=True)
        for words in (["init", "-q"], ["fetch", "-q", "--depth", "1", REPOSITORY, COMMIT], ["checkout", "-q", COMMIT]):
            subprocess.run(["git", *words], cwd=folder, check=True, timeout=300)
    return folder


def main() -> int:
    """Run them; pytest's exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", type=Path, help="a checkout of fla; default .work/fla, cloned")
    parser.add_argument(
        "-k", default="", help="which tests; default: of the chunk rule, all on a GPU, small ones without"
    )
    options, rest = parser.parse_known_args()
    source = options.source.resolve() if options.source else checkout(ROOT / ".work" / "fla")
    import torch

    interpreted = not torch.cuda.is_available()
    environment = os.environ | {"FLA_DISABLE_BACKEND_DISPATCH": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), str(source)])
    if interpreted:
        environment["TRITON_INTERPRET"] = "1"
        print("no GPU: Triton's interpreter runs the smallest tests; the rest needs a GPU and this same command")
    chosen = options.k or (SMALL if interpreted else CHUNKS)
    command = [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "adapter", "-p", "no:cacheprovider", TESTS]
    return subprocess.run([*command, "-k", chosen, *rest], cwd=source, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())

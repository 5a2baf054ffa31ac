"""What vLLM answers on a checkpoint that it was started on."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from support.vllm_children.engine import start, tokens


def main(answer: str, folder: str) -> None:
    Path(answer).write_text(json.dumps({"tokens": tokens(start(folder))}))


if __name__ == "__main__":
    main(*sys.argv[1:])

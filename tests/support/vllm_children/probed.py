"""An engine with the probe on: tokens, and in turn a model with a NaN in its weights."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from support.vllm_children.engine import start, tokens, worker_of


def main(answer: str, folder: str, spoil: str = "") -> None:
    llm = start(folder)
    found: dict[str, Any] = {"tokens": tokens(llm)}
    if spoil:
        import torch

        with torch.no_grad():
            dict(worker_of(llm).get_model().named_parameters())[spoil].view(-1)[0] = float("nan")
        llm.reset_prefix_cache()
        tokens(llm)
        tokens(llm)
    Path(answer).write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])

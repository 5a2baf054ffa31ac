"""One line per process about what was installed, as soon as vLLM's logging can show it.

Plugins run before vLLM configures its loggers (0.31, 0.32: in `EngineArgs`), so a line said at once would be lost.
"""

from __future__ import annotations

import logging

_logger = logging.getLogger("vllm.hardpoint")
_pending: list[str] = []
_said: set[str] = set()


def say(sentence: str) -> None:
    """Log `sentence` once per process, now or with the next `flush`."""
    if sentence not in _said:
        _said.add(sentence)
        _pending.append(sentence)
    flush()


def flush() -> None:
    """Log what is waiting, if the logger shows it by now."""
    while _pending and _logger.isEnabledFor(logging.INFO):
        _logger.info("hardpoint: %s", _pending.pop(0))

"""For every test: how property-based tests are timed, and how a log line is heard whatever else was imported."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
from hypothesis import settings

# An example may wait for another process or for a busy machine: pytest-timeout is the deadline that counts.
settings.register_profile("hardpoint", deadline=None, print_blob=True)
settings.load_profile("hardpoint")


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[str]]:
    """`heard(name)`: the messages of one logger from now on, in a list that grows.

    `caplog` listens at the root. vLLM cuts its loggers off from there when it is imported, which may happen inside
    the very test; other libraries set levels or disable loggers. This listens at the logger itself.
    """

    def listen(name: str) -> list[str]:
        messages: list[str] = []

        class Ear(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                messages.append(record.getMessage())

        logger = logging.getLogger(name)
        monkeypatch.setattr(logger, "handlers", [Ear()])
        monkeypatch.setattr(logger, "disabled", False)
        monkeypatch.setattr(logger, "level", logging.DEBUG)
        logger.manager._clear_cache()  # type: ignore[attr-defined]  # isEnabledFor() remembers the old level
        return messages

    return listen

"""`SleepsWithItsEngine`: for worker classes whose stock parent pretends to sleep, as vLLM's CPU worker does."""

from __future__ import annotations

from typing import NoReturn

from hardpoint_vllm.sleep.backend import refuse_alone


class SleepsWithItsEngine:
    """Sleep and wake come through the engine core, to all workers at once, and to nobody alone."""

    def sleep(self, level: int = 1) -> NoReturn:
        refuse_alone(f"sleep(level={level})")

    def wake_up(self, tags: list[str] | None = None) -> NoReturn:
        refuse_alone(f"wake_up(tags={tags})")

    def discard(self, tags: tuple[str, ...]) -> NoReturn:
        refuse_alone(f"discard(tags={tags})")

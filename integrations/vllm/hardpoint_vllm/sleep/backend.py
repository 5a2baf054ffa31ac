"""What vLLM's factory makes for ``sleep_mode_backend="hardpoint"``.

vLLM calls a backend on each worker by itself, without the other ranks and without a way to answer. So the calls that
matter go from the engine core to the workers' seats (`hardpoint_vllm.sleep.core`), and this object refuses to be called
by anybody else rather than do half of it.
"""

from __future__ import annotations

from typing import NoReturn

from vllm.device_allocator.sleep_mode_backend import SleepModeBackend

from hardpoint.errors import LifecycleError


class HardpointSleepBackend(SleepModeBackend):  # type: ignore[misc]
    """Keeps communicators and compiled kernels: memory is unmapped and mapped at the same addresses."""

    def suspend(self, level: int = 1) -> NoReturn:
        refuse_alone(f"suspend(level={level})")

    def resume(self, tags: list[str] | None = None) -> NoReturn:
        refuse_alone(f"resume(tags={tags})")

    def discard(self, tags: tuple[str, ...]) -> NoReturn:
        refuse_alone(f"discard(tags={tags})")

    @classmethod
    def preserves_communicators(cls) -> bool:
        return True

    @classmethod
    def preserves_compiled_artifacts(cls) -> bool:
        return True


def refuse_alone(what: str) -> NoReturn:
    """Raise LifecycleError: `what` was asked of one rank."""
    raise LifecycleError(
        f"{what} was called on one worker alone; ranks that sleep one by one tear the engine apart. Call sleep or "
        "wake_up on the engine (LLM, AsyncLLM or the /sleep route)."
    )

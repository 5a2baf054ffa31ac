"""Every error of the package. Each message is a sentence: what was expected, what was found, where, what to do."""

from __future__ import annotations


class HardpointError(Exception):
    """Base of all errors raised on purpose by hardpoint."""


class BackendUnavailable(HardpointError):
    """The backend asked for cannot be used; the message lists every candidate with its reason.

    Attributes:
        why: the message without the list.
    """

    def __init__(self, message: str, *, why: str | None = None) -> None:
        super().__init__(message)
        self.why = message if why is None else why


class PluginError(HardpointError):
    """A plugin broke the contract of a hook."""


class DeviceError(HardpointError):
    """A device index, a stream or an event was used against the rules of `Device`."""


class CommunicatorError(HardpointError):
    """A collective failed or was called against the rules of `Communicator`."""


class DeadlineExceeded(CommunicatorError):
    """A collective did not finish in time.

    Attributes:
        op: name of the collective, for example ``"broadcast"``.
        sequence: its number in this communicator, from 0.
        missing: ranks that did not arrive at it.
        deadline: seconds allowed.
    """

    def __init__(self, message: str, *, op: str, sequence: int, missing: tuple[int, ...], deadline: float) -> None:
        super().__init__(message)
        self.op = op
        self.sequence = sequence
        self.missing = missing
        self.deadline = deadline

    def __reduce__(self) -> tuple[object, ...]:
        return _deadline_exceeded, (type(self), str(self), self.op, self.sequence, self.missing, self.deadline)


def _deadline_exceeded(
    kind: type[DeadlineExceeded], message: str, op: str, sequence: int, missing: tuple[int, ...], deadline: float
) -> DeadlineExceeded:
    """Make one again in the process that it was sent to."""
    return kind(message, op=op, sequence=sequence, missing=missing, deadline=deadline)


class RankLost(DeadlineExceeded):
    """A rank died, or gave the communicator up, so the collective cannot end; known before the deadline."""


class CollectiveMismatch(CommunicatorError):
    """Ranks called different collectives, or the same one with different shapes, dtypes or roots."""


class LaunchRefused(HardpointError):
    """A kernel launch was refused before anything ran."""


class LayoutError(HardpointError):
    """Expert weights do not fit the layout that was declared for them."""


class AttentionError(HardpointError):
    """Attention or state buffers were used against the rules of `AttentionBuffers`."""


class DpError(HardpointError):
    """A data-parallel rule, or the counts and tensors given to its plan, make no sense."""


class LifecycleError(HardpointError):
    """Sleep or wake failed, or was asked for in a state that does not allow it."""


class CaptureRefused(HardpointError):
    """Graph capture was refused, or something that may not run inside a capture was tried there."""


class SyncError(HardpointError):
    """A weight update was refused, or could not be made; the weights that serve are the old ones."""

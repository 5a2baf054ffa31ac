"""What a user of the TRL adapter may choose."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hardpoint.sync import DEFAULT_BUCKET_BYTES

if TYPE_CHECKING:
    import torch

    from hardpoint.communicator import CommunicatorFactory
    from hardpoint_trainers.adapters.route import Route


@dataclass(frozen=True)
class Options:
    """Attributes:
    deadline: seconds for joining, each vote and each bucket.
    bucket_bytes: of the publisher, and the budget for gathering.
    dtype: what is sent; None for the trainer's own. The engine refuses a dtype that its checkpoint does not have.
    path: of the publisher: ``plan`` sends each worker its slices alone; ``whole`` every tensor to every worker. Both
        stream: a sharded trainer holds one tensor and a few buckets.
    host, port: where the sending rank listens; loopback and a free port unless told otherwise.
    engine: further arguments of ``vllm.LLM`` in colocate mode, for which TRL has no setting.
    communicator: makes the communicator; None for that of the backend that ``HARDPOINT_BACKEND`` selects.
    on_route: called once with the route when the engines are there, to add to ``route.after``.
    """

    deadline: float = 120.0
    bucket_bytes: int = DEFAULT_BUCKET_BYTES
    dtype: torch.dtype | None = None
    path: str = "plan"
    host: str = "127.0.0.1"
    port: int = 0
    engine: Mapping[str, Any] = field(default_factory=dict)
    communicator: CommunicatorFactory | None = None
    on_route: Callable[[Route, Any], None] | None = None

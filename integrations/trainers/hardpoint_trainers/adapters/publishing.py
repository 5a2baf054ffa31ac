"""Publish from every rank of a trainer: one sends, the others help it gather, and nobody is left waiting."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch

    from hardpoint.sync import SyncOutcome, TensorSpec
    from hardpoint_trainers.publisher import WeightPublisher


class Weights(Protocol):
    """Whole tensors in a known order; `hardpoint_trainers.sharded.CheckpointStream` is one."""

    @property
    def specs(self) -> tuple[TensorSpec, ...]: ...

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]: ...


_logger = logging.getLogger("hardpoint.trainers")


def gather_to_the_end(pairs: Iterator[object]) -> None:
    """Take what is left, for ranks that are inside a collective for it. What fails is logged: the caller raises."""
    try:
        for _ in pairs:
            pass
    except Exception as error:  # noqa: BLE001 - the error of the update is on its way up, this one comes after it
        _logger.warning("hardpoint: gathering the rest of an update that had failed, failed too: %s", error)


def publish_from(
    weights: Weights, publisher: WeightPublisher | None, *, epoch: int | None = None, deadline: float | None = None
) -> SyncOutcome | None:
    """Call it on every rank of the trainer, with the publisher on the one that sends and None on the others.

    An update that is refused early leaves tensors ungathered, and the other ranks inside a collective for them: the
    sender goes on gathering to the end before it raises.

    Returns:
        The outcome on the sending rank, None on the others.

    Raises:
        UpdateAborted, SyncError: on the sending rank, as `WeightPublisher.publish`.
    """
    pairs = iter(weights)
    if publisher is None:
        for _ in pairs:
            pass
        return None
    try:
        return publisher.publish(pairs, epoch, manifest=weights.specs, deadline=deadline)
    finally:
        gather_to_the_end(pairs)

"""The trainer's side under vLLM's own `WeightTransferTrainerFactory` (0.31 and later).

For trainers written against that interface; others use `hardpoint_trainers.WeightPublisher`, which this wraps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from vllm.distributed.weight_transfer.base import (
    TrainerInitInfo,
    TrainerWeightTransferEngine,
    VLLMWeightSyncClient,
    WeightSource,
    materialize_full_tensor,
)

from hardpoint.errors import SyncError
from hardpoint.sync import DEFAULT_BUCKET_BYTES, TensorSpec
from hardpoint.sync.dtypes import dtype_name
from hardpoint_trainers.publisher import WeightPublisher
from hardpoint_vllm.weight_transfer import NAME


@dataclass
class HardpointTrainerInitInfo(TrainerInitInfo):  # type: ignore[misc]
    """Attributes:
    receivers: workers of the engine (or engines) behind the client.
    host, port: where to serve the rendezvous; loopback and a free port unless told otherwise.
    deadline: seconds for the engines to come, for each vote and each bucket.
    bucket_bytes: of each of the two buckets.
    epoch: of the weights that the engines serve; the first update is one more.
    """

    backend: ClassVar[str] = NAME

    receivers: int = 1
    host: str = "127.0.0.1"
    port: int = 0
    deadline: float = 60.0
    bucket_bytes: int = DEFAULT_BUCKET_BYTES
    epoch: int = 0


class HardpointTrainerEngine(TrainerWeightTransferEngine[HardpointTrainerInitInfo]):  # type: ignore[misc]
    """Sends every round of `source` as one transaction. Ranks other than 0 only take part in gathering."""

    init_info_cls = HardpointTrainerInitInfo

    def __init__(
        self,
        init_info: HardpointTrainerInitInfo,
        *,
        client: VLLMWeightSyncClient,
        source: WeightSource,
        publisher: WeightPublisher | None,
    ) -> None:
        super().__init__(client=client, source=source, is_sender=init_info.is_sender)
        self.epoch = init_info.epoch
        self._deadline = init_info.deadline
        self._publisher = publisher

    @classmethod
    def trainer_init(
        cls,
        init_info: HardpointTrainerInitInfo,
        *,
        client: VLLMWeightSyncClient,
        source: WeightSource | None = None,
    ) -> HardpointTrainerEngine:
        """Meet the engines.

        Raises:
            SyncError: they did not come within the deadline, or there is no source.
        """
        if source is None:
            raise SyncError("Weight transfer by hardpoint sends whole updates: trainer_init needs a WeightSource.")
        if not init_info.is_sender:
            return cls(init_info, client=client, source=source, publisher=None)
        publisher = WeightPublisher(
            init_info.host,
            init_info.port,
            receivers=init_info.receivers,
            deadline=init_info.deadline,
            bucket_bytes=init_info.bucket_bytes,
        )
        _together(
            lambda: client.init_weight_transfer_engine(publisher.init_info()), publisher.connect, init_info.deadline
        )
        return cls(init_info, client=client, source=source, publisher=publisher)

    def send_weights(self) -> None:
        """Publish what `source` holds now, and have the engines commit it.

        Raises:
            SyncError: the update was refused or a rank was lost; the engines serve their old weights.
        """
        source = self.source
        metadata = source.metadata()
        if self._publisher is None:
            for _ in source:  # gathering is collective
                pass
            return
        publisher, epoch = self._publisher, self.epoch + 1
        specs = [TensorSpec(meta.name, tuple(meta.shape), dtype_name(meta.dtype)) for meta in metadata]
        self.client.start_weight_update()
        _together(
            lambda: self.client.update_weights({"epoch": epoch}),
            lambda: publisher.publish(_whole(source), epoch=epoch, manifest=specs),
            self._deadline,
        )
        self.client.finish_weight_update(str(epoch))
        self.epoch = epoch

    def close(self) -> None:
        """Leave the group; the rendezvous ends with the process."""
        if self._publisher is not None:
            self._publisher.close()


def _whole(source: WeightSource) -> Iterator[tuple[str, torch.Tensor]]:
    for name, tensor in source:
        yield name, materialize_full_tensor(tensor)


def _together(engine_side: Callable[[], Any], trainer_side: Callable[[], Any], deadline: float) -> None:
    """Run both at once; the engine's error is told first, since the trainer's is most often its consequence."""
    pool = ThreadPoolExecutor(1, thread_name_prefix="hardpoint-rpc")
    call: Future[Any] = pool.submit(engine_side)
    try:
        trainer_side()
    except SyncError as error:
        if call.done() and (cause := call.exception()) is not None:
            raise SyncError(f"{error} The engine said: {cause}") from cause
        raise
    finally:
        pool.shutdown(wait=False)  # an engine that hangs must not hang the trainer
    call.result(timeout=deadline)

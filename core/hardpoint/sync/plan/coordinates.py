"""`Coordinates`: where a receiver stands in tensor, pipeline, expert and data parallelism."""

from __future__ import annotations

from dataclasses import dataclass, replace

from hardpoint.errors import SyncError


@dataclass(frozen=True, order=True)
class Coordinates:
    """Rank and size of each kind of parallelism, as one receiver has them.

    With expert parallelism the experts are cut by `ep_rank` and each is whole, as in vLLM (tensor parallel rank 0 of
    1 for experts), unless the rule of a layer says otherwise. Data parallel ranks hold the same dense weights; where
    experts are spread over them, `ep_rank` and `ep_size` already count that.

    Raises:
        SyncError: a rank outside its size.
    """

    tp_rank: int = 0
    tp_size: int = 1
    pp_rank: int = 0
    pp_size: int = 1
    ep_rank: int = 0
    ep_size: int = 1
    dp_rank: int = 0
    dp_size: int = 1

    def __post_init__(self) -> None:
        for kind in ("tp", "pp", "ep", "dp"):
            rank, size = getattr(self, f"{kind}_rank"), getattr(self, f"{kind}_size")
            if not 0 <= rank < size:
                raise SyncError(f"{kind}_rank must be in 0..{size - 1} for {kind}_size {size}, found {rank}.")

    @property
    def shard(self) -> Coordinates:
        """The same place without data parallelism: receivers of equal shards hold equal bytes."""
        return replace(self, dp_rank=0, dp_size=1)

    def __str__(self) -> str:
        parts = [
            f"{kind} {getattr(self, f'{kind}_rank')}/{getattr(self, f'{kind}_size')}"
            for kind in ("tp", "pp", "ep", "dp")
            if getattr(self, f"{kind}_size") > 1
        ]
        return ", ".join(parts) or "alone"


def pipeline_layers(num_layers: int, pp_rank: int, pp_size: int) -> range:
    """Layers of one pipeline stage: vLLM's rule (distributed/utils.py, get_pp_indices) without a stated partition."""
    sizes = [num_layers // pp_size] * pp_size
    for stage in range(2, num_layers % pp_size + 2):
        sizes[-stage] += 1
    first = sum(sizes[:pp_rank])
    return range(first, first + sizes[pp_rank])

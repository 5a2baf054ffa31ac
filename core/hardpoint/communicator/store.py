"""What is asked of a torch.distributed store beyond its stub."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store


def connection_of_its_own(store: Store) -> Store:
    """Another connection to the same store: on a shared one, a blocking wait of one thread holds up all others."""
    return cast("Store", store.clone())  # type: ignore[attr-defined]  # missing in torch's stub, there since 2.8

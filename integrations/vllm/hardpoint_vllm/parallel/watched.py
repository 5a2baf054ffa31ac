"""`Watched`: the part of a device communicator of vLLM's that hands each collective to a `GroupWatch`.

Put it before vLLM's class: ``class C(Watched, CpuCommunicator)``. It is an official seam
(`get_device_communicator_cls`), and below the custom ops that a compiled model calls, so compiled models are seen too;
what Dynamo traces itself is not.
Where a call is only issued (a device), nobody can raise for a rank that is absent, and so calls are recorded only where
``HARDPOINT_RECORDS`` asks for records; else the cost is one look at an attribute. Sends and receives of a pipeline
stage are not recorded: two ranks of a group see them differently.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch

from hardpoint.communicator import records_folder
from hardpoint_vllm.parallel.group_watch import Form, GroupWatch, presence


class Watched:
    """Mixin; vLLM's communicator is behind it and has `ranks`, `rank_in_group`, `unique_name`, `device_group`."""

    blocking = False

    @cached_property
    def _seen(self) -> bool:
        return self.blocking or records_folder() is not None

    @cached_property
    def group_watch(self) -> GroupWatch:
        """Of this group; made with the first call, and it waits for nobody."""
        mine: Any = self
        ranks = list(mine.ranks)
        library = torch.distributed.get_backend(mine.device_group) if mine.device_group is not None else ""
        name = f"vllm {mine.unique_name} of ranks {'-'.join(map(str, ranks))}"
        return GroupWatch(name, ranks, mine.rank_in_group, library, self.blocking, presence())

    def all_reduce(self, input_: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """See vLLM's communicator; so all below."""
        return self._watch("all_reduce", input_, super().all_reduce, args, kwargs)  # type: ignore[misc]

    def all_gather(self, input_: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        return self._watch("all_gather", input_, super().all_gather, args, kwargs)  # type: ignore[misc]

    def reduce_scatter(self, input_: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        return self._watch("reduce_scatter", input_, super().reduce_scatter, args, kwargs)  # type: ignore[misc]

    def gather(self, input_: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        return self._watch("gather", input_, super().gather, args, kwargs)  # type: ignore[misc]

    def destroy(self) -> None:
        """Release what watches this group too."""
        made = self.__dict__.pop("group_watch", None)
        if made is not None:
            made.close()
        super().destroy()  # type: ignore[misc]

    def _watch(self, op: str, input_: Any, stock: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        if torch.compiler.is_compiling() or not self._seen:
            return stock(input_, *args, **kwargs)
        first = input_[0] if isinstance(input_, list) else input_
        return self.group_watch.run(op, Form(first), lambda: stock(input_, *args, **kwargs))


class WatchedRagged(Watched):
    """`Watched` for a communicator whose ragged collectives are vLLM's own; their rows differ by rank, and so are left
    out of the form: ranks compare the rest."""

    def all_gatherv(self, input_: Any, *args: Any, **kwargs: Any) -> Any:
        """See vLLM's communicator."""
        return self._ragged("all_gatherv", input_, super().all_gatherv, args, kwargs)  # type: ignore[misc]

    def reduce_scatterv(self, input_: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """See vLLM's communicator."""
        return self._ragged("reduce_scatterv", input_, super().reduce_scatterv, args, kwargs)  # type: ignore[misc]

    def _ragged(self, op: str, input_: Any, stock: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        if torch.compiler.is_compiling() or not self._seen:
            return stock(input_, *args, **kwargs)
        first = input_[0] if isinstance(input_, list) else input_
        form = f"{str(first.dtype).removeprefix('torch.')} [*, {', '.join(map(str, first.shape[1:]))}]"
        return self.group_watch.run(op, form, lambda: stock(input_, *args, **kwargs))

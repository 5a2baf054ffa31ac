"""`Destination`: one parameter of one receiver, and which slice of which checkpoint tensor belongs where in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from hardpoint.sync.plan.cover import Box
from hardpoint.sync.plan.strides import Ints


class Part(NamedTuple):
    """Boxes of the destination's grid and where their values are in checkpoint tensors of one kind.

    Attributes:
        tensors: names in the checkpoint. Usually one; the experts of a layer are many. The first fills the box, and
            each further one the box after it along the grid's first axis.
        shape: that each whole tensor must have.
        form: name of the `CheckpointFormat` it must be in, empty where names and shapes leave no doubt.
        offset: of a box's first element in its contiguous tensor.
        strides: in the tensor, one for each axis of the grid.
        lows, sizes: the first box in the grid.
    """

    tensors: tuple[str, ...]
    shape: Ints
    form: str
    offset: int
    strides: Ints
    lows: Ints
    sizes: Ints

    @property
    def box(self) -> Box:
        """All of the boxes, which lie one after the other, as one."""
        return self.lows, (self.sizes[0] * len(self.tensors), *self.sizes[1:])


@dataclass(frozen=True)
class Destination:
    """Declared by a receiver (or by a rule on its behalf), never guessed from a tensor that happens to be there.

    Attributes:
        parameter: name in the serving model.
        dtype: torch name, of the storage and of every tensor that goes into it.
        shape: of the parameter, contiguous.
        grid: logical axes; a reshape of the storage in which every part is a box.
        strides: of the grid in the storage, in elements.
        parts: what comes from the checkpoint.
        zeros: boxes of padding, written as zero.
    """

    parameter: str
    dtype: str
    shape: Ints
    grid: Ints
    strides: Ints
    parts: tuple[Part, ...]
    zeros: tuple[Box, ...] = ()

"""Checks of a collective's arguments, made before anything moves. Every refusal is a sentence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hardpoint.communicator.carrier import dtype_name
from hardpoint.errors import CommunicatorError

if TYPE_CHECKING:
    import torch


def check_tensor(op: str, what: str, tensor: torch.Tensor, device_type: str, device_index: int) -> None:
    """`tensor` must be one tensor, contiguous, dense and on the communicator's device.

    Raises:
        CommunicatorError: naming the argument, what was expected and what was found.
    """
    import torch

    if not isinstance(tensor, torch.Tensor):
        # torch's own all_gather takes a list, and with a list of one deadlocks (field report 4).
        raise CommunicatorError(
            f"{op}: {what} is a {type(tensor).__name__}, expected one tensor; the rows of all ranks lie in it in rank "
            "order. For ranks with different numbers of rows there are the ragged forms."
        )
    place = tensor.device
    same = place.type == device_type and (device_type == "cpu" or place.index == device_index)
    if not same:
        wanted = device_type if device_type == "cpu" else f"{device_type}:{device_index}"
        raise CommunicatorError(
            f"{op}: {what} is on {place}, this communicator works on {wanted}. "
            "Move the tensor, or make a communicator for its device."
        )
    if tensor.is_sparse or not tensor.is_contiguous():
        raise CommunicatorError(
            f"{op}: {what} of shape {tuple(tensor.shape)} is not contiguous (strides "
            f"{'none, sparse' if tensor.is_sparse else tuple(tensor.stride())}). Pass tensor.contiguous()."
        )


def check_pair(op: str, output: torch.Tensor, tensor: torch.Tensor, output_rows: int, tensor_rows: int) -> None:
    """Output and input of a gather or scatter: same dtype, same row shape, the row counts given.

    Raises:
        CommunicatorError: naming what differs.
    """
    if output.dtype != tensor.dtype:
        raise CommunicatorError(
            f"{op}: output is {dtype_name(output.dtype)} and tensor is {dtype_name(tensor.dtype)}; they must be equal."
        )
    if tensor.dim() == 0 or output.dim() == 0:
        raise CommunicatorError(f"{op}: tensors need a first axis of rows; a scalar has none. Use reshape(1).")
    if tuple(tensor.shape) != (tensor_rows, *tensor.shape[1:]) or tuple(output.shape) != (
        output_rows,
        *tensor.shape[1:],
    ):
        row = ", ".join(str(size) for size in tensor.shape[1:])
        raise CommunicatorError(
            f"{op}: expected tensor [{tensor_rows}{', ' + row if row else ''}] and output "
            f"[{output_rows}{', ' + row if row else ''}], found {list(tensor.shape)} and {list(output.shape)}."
        )


def check_counts(op: str, counts: Sequence[int], world_size: int) -> tuple[int, ...]:
    """One non-negative count per rank.

    Raises:
        CommunicatorError: wrong number of counts, or a negative one.
    """
    rows = tuple(int(count) for count in counts)
    if len(rows) != world_size:
        raise CommunicatorError(f"{op}: {len(rows)} counts for {world_size} ranks; give one count per rank.")
    if any(count < 0 for count in rows):
        raise CommunicatorError(f"{op}: counts {list(rows)} hold a negative number; a rank without rows has 0.")
    return rows


def check_rank(op: str, what: str, rank: int, world_size: int) -> None:
    """`rank` must be one of the group.

    Raises:
        CommunicatorError: it is not.
    """
    if not 0 <= rank < world_size:
        raise CommunicatorError(f"{op}: {what}={rank}, but ranks are 0 to {world_size - 1}.")


def check_deadline(op: str, deadline: float) -> float:
    """Seconds, more than 0.

    Raises:
        CommunicatorError: zero, negative, infinite or NaN: a wait without an end is refused.
    """
    if not 0 < deadline < float("inf"):
        raise CommunicatorError(f"{op}: deadline={deadline} s; give a finite number of seconds above 0.")
    return deadline

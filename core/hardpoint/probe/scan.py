"""Rows with values that are no numbers, counted on the device and read by the host only when there are some."""

from __future__ import annotations

import torch


class RowScan:
    """Counts of bad values per row for up to `places` tensors of one step, kept on the device.

    One step costs a reduction per place and one copy of a single number to the host, which is read a step later (or at
    once on the CPU): nothing waits for the device unless something is found.

    Args:
        places: tensors scanned in a step.
        rows: most rows of one of them.
        device: where they live.
    """

    def __init__(self, places: int, rows: int, device: torch.device) -> None:
        self._counts = torch.zeros((places, rows), dtype=torch.int32, device=device)
        self._kept = torch.zeros_like(self._counts)
        self._on_host = device.type == "cpu"
        self._total = torch.zeros(1, dtype=torch.int64, pin_memory=not self._on_host)
        self._ready: torch.Event | None = None

    def look(self, place: int, tensor: torch.Tensor) -> None:
        """Count the values of `tensor` ``[rows, ...]`` that are NaN or infinite, per row; no host wait, graph-safe."""
        flat = tensor.reshape(tensor.shape[0], -1)
        # On the host looking is free: a sum tells whether there is anything to count, at a tenth of the cost.
        if self._on_host and bool(torch.isfinite(flat.sum(dim=1, dtype=torch.float32)).all()):
            return
        row = self._counts[place]
        torch.sum(~torch.isfinite(flat), dim=1, dtype=torch.int32, out=row[: flat.shape[0]])

    def finish_step(self) -> None:
        """Send the sum of the step to the host and clear the counts for the next one."""
        self._kept.copy_(self._counts)
        self._counts.zero_()
        self._total.copy_(self._kept.sum(dtype=torch.int64).reshape(1), non_blocking=True)
        if not self._on_host:
            self._ready = torch.Event(device=self._counts.device)
            self._ready.record()

    def found(self) -> torch.Tensor | None:
        """Counts int32 ``[places, rows]`` of the finished step on the host, if it had any; else None.

        Does not wait: where the sum has not arrived yet the answer is None too, and comes with a later call.
        """
        if self._ready is not None and not self._ready.query():
            return None
        return self._kept.cpu() if int(self._total[0]) else None

    def wait(self) -> None:
        """Wait for the sum of the finished step: before the next step may overwrite what was kept."""
        if self._ready is not None:
            self._ready.synchronize()

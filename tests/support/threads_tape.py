"""A link that keeps what is sent, in the stream in which it is sent, for who receives afterwards."""

from __future__ import annotations

import torch


class Tape:
    """See `hardpoint.sync.stream.Link`."""

    def __init__(self) -> None:
        self.messages: list[torch.Tensor] = []
        self.taken = 0

    def send(self, payload: torch.Tensor, audience: tuple[int, ...], deadline: float, /) -> None:
        self.messages.append(payload.clone())

    def receive(self, payload: torch.Tensor, audience: tuple[int, ...], deadline: float, /) -> None:
        payload.copy_(self.messages[self.taken])
        self.taken += 1

    def check(self) -> None:
        """Nothing fails here."""

    def close(self) -> None:
        """Nothing is held."""

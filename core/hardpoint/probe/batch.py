"""What a step's attention metadata says, on the host: the numbers against which rows are judged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

Phase = Literal["prefill", "decode", "mixed"]


@dataclass(frozen=True)
class Batch:
    """One step of one rank.

    Attributes:
        num_actual_tokens: rows that the metadata calls tokens.
        query_start_loc: ``[requests + 1]``; its end is the number of real rows, whatever `num_actual_tokens` says.
        seq_lens: ``[requests]``, context and query of each request.
    """

    num_actual_tokens: int
    query_start_loc: tuple[int, ...]
    seq_lens: tuple[int, ...]

    @property
    def real(self) -> int:
        """Rows that belong to a request."""
        return self.query_start_loc[-1] if self.query_start_loc else 0

    @property
    def phase(self) -> Phase:
        """Of the step, from what its requests ask."""
        return phase_of(self.query_start_loc, self.seq_lens)


def phase_of(query_start_loc: Sequence[int], seq_lens: Sequence[int]) -> Phase:
    """A request decodes if it asks for one token and has more than one; a step with both kinds is mixed."""
    queries = [end - begin for begin, end in pairwise(query_start_loc)]
    decodes = [query == 1 and length > 1 for query, length in zip(queries, seq_lens, strict=False)]
    if decodes and all(decodes):
        return "decode"
    return "mixed" if any(decodes) else "prefill"

"""`check_token_counts`: whether the numbers of one attention batch fit each other. Pure, on host integers.

In FR4 they did not: dp_rank 0 said num_actual_tokens=30 with query_start_loc=[0, 5, 10, 18, 26], so four padding rows
counted as tokens, no kernel wrote them, and they were NaN after attention.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

Rule = Literal["starts", "lengths", "context", "requests", "actual_tokens", "rows"]


@dataclass(frozen=True)
class TokenCountFault:
    """One broken rule.

    Attributes:
        rule: which: ``starts`` query_start_loc begins at 0, ``lengths`` it never falls, ``requests`` it has one entry
            more than seq_lens, ``context`` no request queries more tokens than its sequence has, ``actual_tokens``
            num_actual_tokens is its end, ``rows`` the hidden states hold that many rows.
        sentence: what was expected, what was found, what to do.
        rows: rows of the hidden states that it concerns, empty if none.
    """

    rule: Rule
    sentence: str
    rows: range = range(0)


def check_token_counts(
    *,
    num_actual_tokens: int,
    query_start_loc: Sequence[int],
    seq_lens: Sequence[int] | None = None,
    hidden_rows: int | None = None,
) -> tuple[TokenCountFault, ...]:
    """Every fault found, empty if the numbers are consistent.

    Args:
        num_actual_tokens: rows that the metadata calls tokens.
        query_start_loc: ``[requests + 1]``, where each request's rows begin, and the end of the last.
        seq_lens: ``[requests]``, context and query tokens of each request; None skips what needs it.
        hidden_rows: rows of the hidden states, padding included; None skips what needs it.
    """
    faults: list[TokenCountFault] = []
    starts = list(query_start_loc)
    if not starts or starts[0] != 0:
        faults.append(TokenCountFault("starts", f"query_start_loc must begin with 0, got {starts}"))
        if not starts:
            return tuple(faults)
    for request, (begin, end) in enumerate(pairwise(starts)):
        if end < begin:
            faults.append(
                TokenCountFault(
                    "lengths", f"query_start_loc falls from {begin} to {end} at request {request}; got {starts}"
                )
            )
    if seq_lens is not None:
        faults.extend(_check_requests(starts, list(seq_lens)))
    end = starts[-1]
    if num_actual_tokens > end:
        padding = range(max(end, 0), num_actual_tokens)
        faults.append(
            TokenCountFault(
                "actual_tokens",
                f"num_actual_tokens is {num_actual_tokens} but query_start_loc ends at {end}: {_rows(padding)} padding "
                f"counted as real, which no kernel writes; set num_actual_tokens to query_start_loc[-1]",
                padding,
            )
        )
    elif num_actual_tokens < end:
        left_out = range(max(num_actual_tokens, 0), end)
        faults.append(
            TokenCountFault(
                "actual_tokens",
                f"num_actual_tokens is {num_actual_tokens} but query_start_loc ends at {end}: {_rows(left_out)} tokens "
                f"that count as padding; set num_actual_tokens to query_start_loc[-1]",
                left_out,
            )
        )
    if hidden_rows is not None and max(num_actual_tokens, end) > hidden_rows:
        beyond = range(hidden_rows, max(num_actual_tokens, end))
        faults.append(
            TokenCountFault(
                "rows",
                f"the hidden states have {hidden_rows} rows, but num_actual_tokens is {num_actual_tokens} and "
                f"query_start_loc ends at {end}; {_rows(beyond)} past the end",
                beyond,
            )
        )
    return tuple(faults)


def _check_requests(starts: list[int], seq_lens: list[int]) -> list[TokenCountFault]:
    if len(starts) != len(seq_lens) + 1:
        sentence = (
            f"query_start_loc must have one entry more than seq_lens, got {len(starts)} entries {starts} for "
            f"{len(seq_lens)} requests {seq_lens}"
        )
        return [TokenCountFault("requests", sentence)]
    return [
        TokenCountFault(
            "context",
            f"request {request} queries {end - begin} tokens ({_rows(range(begin, end))} its own) but its sequence has "
            f"{length} in all; seq_lens counts context and query",
            range(begin, end),
        )
        for request, ((begin, end), length) in enumerate(zip(pairwise(starts), seq_lens, strict=True))
        if end - begin > length
    ]


def _rows(rows: range) -> str:
    if len(rows) == 1:
        return f"row {rows.start} is"
    return f"rows {rows.start} to {rows.stop - 1} are"

"""JSON from the wire: one object, ASCII, no key twice. What the fields may be is for whoever reads it to say."""

from __future__ import annotations

import json
from typing import Any


def json_object(data: bytes) -> dict[str, Any]:
    """`data` as an object. ValueError with what it is instead, in a few words."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = dict(pairs)
        if len(keys) != len(pairs):
            raise ValueError("an object holds the same key twice")
        return keys

    try:
        body = json.loads(data.decode("ascii"), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise ValueError(f"not JSON ({type(error).__name__}: {error!s:.80})") from None
    if not isinstance(body, dict):
        raise ValueError(f"not an object: {body!a:.80}")
    return body

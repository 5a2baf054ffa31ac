"""One pool of rank processes for all communicator tests: an ``import torch`` per rank is paid once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.ranks import RankPool


@pytest.fixture(scope="session")
def pool() -> Iterator[RankPool]:
    """Up to four ranks; a killed one is replaced by the next call."""
    made = RankPool(4)
    yield made
    made.close()

"""Processes that the reports share: starting one costs an ``import torch``."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hardpoint.conformance.pool import Pool
from support.field_report_kit import Kit
from support.ranks import RankPool


@pytest.fixture(scope="session")
def kit() -> Iterator[Kit]:
    """The conformance kit in two worker processes."""
    with Pool(slots=2) as pool:
        yield Kit(pool)


@pytest.fixture(scope="session")
def ranks() -> Iterator[RankPool]:
    """Rank processes, as many as the widest test so far has asked for."""
    pool = RankPool(2)
    try:
        yield pool
    finally:
        pool.close()

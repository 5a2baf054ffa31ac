"""Which kernel serves an operation: plugins offer, measured tables rank."""

from hardpoint.providers.collect import collect
from hardpoint.providers.measured import Measurement, Table, shipped
from hardpoint.providers.rank import MAX_ERROR, Ranking, Row, rank

__all__ = ["MAX_ERROR", "Measurement", "Ranking", "Row", "Table", "collect", "rank", "shipped"]

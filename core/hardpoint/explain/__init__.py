"""What reports and records of all ranks say together: where a NaN began, why a collective hangs. All pure."""

from hardpoint.explain.explanation import Explanation, Origin
from hardpoint.explain.hang import explain_hang
from hardpoint.explain.nan import explain_nan
from hardpoint.explain.source import read_sources

__all__ = ["Explanation", "Origin", "explain_hang", "explain_nan", "read_sources"]

"""Graph capture: the Protocol, and the part for backends that have none."""

from hardpoint.graphs.no_graphs import NoGraphs
from hardpoint.graphs.protocol import Graph, Graphs

__all__ = ["Graph", "Graphs", "NoGraphs"]

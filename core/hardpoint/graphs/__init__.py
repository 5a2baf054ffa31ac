"""Graph capture: the Protocol, and the part for backends that have none."""

from hardpoint.graphs.no_graphs import NoGraphs
from hardpoint.graphs.protocol import Graph, Graphs
from hardpoint.graphs.runtime import CapturedGraph, GraphRuntime, RuntimeGraphs

__all__ = ["CapturedGraph", "Graph", "GraphRuntime", "Graphs", "NoGraphs", "RuntimeGraphs"]

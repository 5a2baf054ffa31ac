"""The NaN probe: where the first value that is no number came from, said once, with what the batch looked like."""

from hardpoint.probe.batch import Batch, phase_of
from hardpoint.probe.probe import Probe
from hardpoint.probe.report import KIND, PROBE, REPORTS, Ranks, Report, read_report, wanted

__all__ = ["KIND", "PROBE", "REPORTS", "Batch", "Probe", "Ranks", "Report", "phase_of", "read_report", "wanted"]

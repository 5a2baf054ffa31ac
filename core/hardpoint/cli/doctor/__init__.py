"""``hardpoint doctor``: what is here, what is wrong with it, and what to do.

Integrations add sections through entry-point group ``hardpoint.doctor``: a callable without arguments that returns a
`DoctorSection`. It may import its host; what it raises becomes a finding.
"""

from hardpoint.cli.doctor.section import DoctorSection, Finding

__all__ = ["DoctorSection", "Finding"]

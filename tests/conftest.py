"""What holds for every test: how property-based tests are timed."""

from __future__ import annotations

from hypothesis import settings

# An example may wait for another process or for a busy machine: pytest-timeout is the deadline that counts.
settings.register_profile("hardpoint", deadline=None, print_blob=True)
settings.load_profile("hardpoint")

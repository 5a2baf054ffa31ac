"""The kit inside a vendor's own test run: two lines."""

pytest_plugins = ["hardpoint.conformance.plugin"]

"""The kit inside a vendor's own test run: `pytest tests` runs every law on the backend that pyproject.toml names."""

pytest_plugins = ["hardpoint.conformance.plugin"]

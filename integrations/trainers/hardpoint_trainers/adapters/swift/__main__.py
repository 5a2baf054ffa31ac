"""``python -m hardpoint_trainers.adapters.swift`` prints the path of the file for ``--external_plugins``."""

from pathlib import Path

print(Path(__file__).with_name("plugin.py"))

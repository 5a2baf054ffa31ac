"""The file for ``--external_plugins``: importing it registers hardpoint's trainers with ms-swift."""

from hardpoint_trainers.adapters.swift import register

register()

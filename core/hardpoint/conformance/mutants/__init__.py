"""Planted faults and legal variants that test the laws, one file per part; files named ``_*.py`` hold helpers."""

"""The command line: ``hardpoint``, also ``python -m hardpoint``.

Exit status: 0 good, 1 something was found, 2 wrong usage or no such backend.
"""

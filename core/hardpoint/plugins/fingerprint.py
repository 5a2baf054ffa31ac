"""What has to change for a plugin to count as new: the hash of its distribution's files as they are on disk."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path

from hardpoint.plugins.claims import Claim

_SUFFIXES = {".py", ".so", ".pyd", ".dylib", ".dll"}
_MOST_FILES = 5000


def fingerprint(claim: Claim) -> str:
    """A digest over RECORD, which names every file's hash, and over size and time of the code that is imported.

    RECORD alone would miss an edit in an editable install; the files alone would miss a renamed one. Nothing is
    imported: only the top-level package is located.
    """
    digest = hashlib.sha256()
    for name in ("RECORD", "METADATA", "PKG-INFO"):
        digest.update(f"{name}={claim.source.read_text(name)}\n".encode())
    for count, path in enumerate(_code(claim.value)):
        if count == _MOST_FILES:
            break  # a package this large comes with a RECORD
        status = path.stat()
        digest.update(f"{path} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _code(value: str) -> Iterator[Path]:
    top = value.partition(":")[0].strip().partition(".")[0]
    try:
        spec = importlib.util.find_spec(top) if top else None
    except (ImportError, ValueError):
        return  # no such module, or a __main__ without a spec: the import says so
    if spec is None:
        return
    if spec.submodule_search_locations is None:
        if spec.origin and Path(spec.origin).is_file():
            yield Path(spec.origin)
        return
    for folder in spec.submodule_search_locations:
        yield from sorted(path for path in Path(folder).rglob("*") if path.suffix in _SUFFIXES and path.is_file())

"""Find a vendor's name in one distribution, wherever that keeps it: Python, stubs, op schemas, native code."""

from __future__ import annotations

from functools import cached_property

from vendor_api import schemas
from vendor_api.archive import Archive
from vendor_api.found import MISSING, Found
from vendor_api.source import Source

# torch.ops namespaces whose library has another name.
_NAMESPACES = {"_C_cache_ops": "_C", "_C_ascend": "vllm_ascend_C"}
_OF_EVERY_MODULE = ("__file__", "__name__", "__path__")
_OPS = "torch.ops."
# torch_npu/_init/core/_exports.py gives every op of torch.ops.npu as a name of torch_npu too.
_EXPORTED = "torch_npu."


class Resolver:
    """Looks names up in one distribution."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self._source = Source(archive)

    def find(self, name: str) -> Found:
        """What `name` is there."""
        if name.startswith(_OPS):
            return self._op(name.removeprefix(_OPS))
        found = self._source.find(name)
        if found != MISSING:
            return found
        if name.startswith(_EXPORTED) and name.count(".") in (1, 2):
            found = self._op(f"npu.{name.removeprefix(_EXPORTED)}")
            if found != MISSING:
                return found
        if self._source.mentions(name):
            return Found("value", where="by its class's __getattr__ or __setattr__")
        owner, _, member = name.rpartition(".")
        if member in _OF_EVERY_MODULE and self.find(owner).kind == "module":
            return Found("value", where="of every module")
        return self._library_module(name) or self._native(name)

    def _library_module(self, name: str) -> Found | None:
        """An extension module: a shared library of that name."""
        stem = name.replace(".", "/")
        library = next((path for path in self._archive.libraries() if path.split(".")[0] == stem), None)
        return Found("module", where=library) if library else None

    def _op(self, path: str) -> Found:
        namespace, _, rest = path.partition(".")
        namespace = _NAMESPACES.get(namespace, namespace)
        if not rest:
            known = any(name.startswith(f"{namespace}.") for name in self._schemas)
            return Found("module", where="torch.ops") if known else MISSING
        return self._schemas.get(f"{namespace}.{rest}", MISSING)

    @cached_property
    def _schemas(self) -> schemas.Schemas:
        return schemas.read(self._archive)

    def _in_library(self, parts: list[str]) -> bool:
        return any(self._library_module(".".join(parts[:cut])) for cut in range(1, len(parts)))

    def _native(self, name: str) -> Found:
        """A name inside a ``_C`` module or on a class that native code makes: its text stands in a library, alone."""
        parts = name.split(".")
        inside = any(part == "_C" for part in parts[:-1]) or self._source.natives(name) or self._in_library(parts)
        if not inside:
            return MISSING
        needle = b"\0" + parts[-1].encode() + b"\0"
        for library in self._archive.libraries():
            if needle in self._library(library):
                return Found("native", where=f"name in {library}")
        return MISSING

    def _library(self, path: str) -> bytes:
        return self._libraries.setdefault(path, self._archive.data(path) or b"")

    @cached_property
    def _libraries(self) -> dict[str, bytes]:
        return {}

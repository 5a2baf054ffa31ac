"""Torch op schemas of a distribution: from torch-npu's YAML files, else from the text inside shared libraries."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import PurePosixPath

from vendor_api.archive import Archive
from vendor_api.found import Found

_YAML = (
    "torch_npu/csrc/aten/npu_native_functions.yaml",
    "torch_npu/csrc/aten/npu_native_functions_by_codegen.yaml",
)
_IN_YAML = re.compile(r"^\s*-?\s*func:\s*(\w+)((?:\.\w+)?)(\(.*\)\s*->\s*.+)$", re.MULTILINE)
_PRINTABLE = re.compile(rb"[\x20-\x7e\n\t]{6,8192}")
_TYPE = r"(?:Tensor|int|float|bool|str|ScalarType|Device)\b"
_IN_LIBRARY = re.compile(rf"\s*(\w+)((?:\.\w+)?)\s*(\(\s*(?:\*|\)|{_TYPE}).*->\s*(?:\(|{_TYPE}).*)", re.DOTALL)

Schemas = dict[str, Found]
"""``namespace.op`` and ``namespace.op.overload`` -> what is known of it."""


def read(archive: Archive) -> Schemas:
    """Schemas of all ops that the distribution registers."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    where: dict[str, str] = {}
    for namespace, op, overload, schema, file in [*_from_yaml(archive), *_from_libraries(archive)]:
        for name in (f"{namespace}.{op}", f"{namespace}.{op}.{overload or 'default'}"):
            found[name].append(schema)
            where[name] = file
    return {name: Found("op", tuple(dict.fromkeys(s)), where[name], "plain") for name, s in found.items()}


def _from_yaml(archive: Archive) -> list[tuple[str, str, str, str, str]]:
    rows = []
    for file in _YAML:
        for op, overload, schema in _IN_YAML.findall(archive.text(file) or ""):
            rows.append(("npu", op, overload.lstrip("."), _tidy(schema), file))
    return rows


def _from_libraries(archive: Archive) -> list[tuple[str, str, str, str, str]]:
    """Schemas stand in a library as plain text, where ``m.def("...")`` put them; the namespace is the library's name.

    Registration by a macro with another namespace than the library's name cannot be told from the text: such ops are
    listed under the library's name too.
    """
    rows = []
    for file in archive.libraries():
        name = PurePosixPath(file).name
        if not name.endswith(".abi3.so") and "_C." not in name:  # helper libraries register nothing
            continue
        data = archive.data(file) or b""
        for match in _PRINTABLE.finditer(data):
            text = match.group().decode()
            schema = _IN_LIBRARY.fullmatch(text) if "->" in text else None
            if schema:
                rows.append((name.split(".")[0], schema[1], schema[2].lstrip("."), _tidy(schema[3]), f"text in {file}"))
    return rows


def _tidy(schema: str) -> str:
    return re.sub(r"\s+", " ", schema).strip()

"""Read names and signatures out of a Python package's source without importing it."""

from __future__ import annotations

import ast
import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

Source = Callable[[str], str | None]
"""Module name -> its source text, None if there is no such module."""


@dataclass(frozen=True)
class Found:
    """One name as a release has it.

    Attributes:
        kind: ``module``, ``class``, ``function``, ``name`` (assignment or annotation) or ``missing``.
        signature: parameters with defaults for a function, bases for a class, else empty.
        where: module that defines it, after following re-exports and base classes.
    """

    kind: str
    signature: str = ""
    where: str = ""

    def as_json(self) -> dict[str, str]:
        return asdict(self)


MISSING = Found("missing")


def from_wheel(path: Path) -> Source:
    """Source of the modules inside a wheel."""
    archive = zipfile.ZipFile(path)
    names = set(archive.namelist())

    @cache
    def source(module: str) -> str | None:
        stem = module.replace(".", "/")
        for candidate in (f"{stem}.py", f"{stem}/__init__.py"):
            if candidate in names:
                return archive.read(candidate).decode()
        return None

    return source


def from_directory(root: Path) -> Source:
    """Source of the modules below a folder such as site-packages."""

    @cache
    def source(module: str) -> str | None:
        stem = root / module.replace(".", "/")
        for candidate in (stem.with_suffix(".py") if "." not in stem.name else None, stem / "__init__.py"):
            if candidate is not None and candidate.is_file():
                return candidate.read_text()
        return None

    return source


def read(source: Source, target: str) -> Found:
    """Find `target`, written ``package.module`` or ``package.module:Name`` or ``package.module:Class.method``."""
    module, _, path = target.partition(":")
    if source(module) is None:
        return MISSING
    if not path:
        return Found("module", where=module)
    first, *rest = path.split(".")
    found, node, where = _lookup(source, module, first, depth=0)
    for name in rest:
        if not isinstance(node, ast.ClassDef):
            return MISSING
        found, node, where = _member(source, where, node, name, depth=0)
    return found


def _lookup(source: Source, module: str, name: str, depth: int) -> tuple[Found, ast.AST | None, str]:
    """A top-level name of a module, through re-exports."""
    text = source(module)
    if text is None or depth > 8:
        return MISSING, None, module
    for node in _statements(ast.parse(text).body):
        described = _describe(node, name, module)
        if described is not None:
            return described, node, module
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    origin = _absolute(node, module, source)
                    if source(f"{origin}.{alias.name}") is not None:
                        return Found("module", where=f"{origin}.{alias.name}"), None, origin
                    return _lookup(source, origin, alias.name, depth + 1)
    if source(f"{module}.{name}") is not None:
        return Found("module", where=f"{module}.{name}"), None, module
    return MISSING, None, module


def _member(
    source: Source, module: str, owner: ast.ClassDef, name: str, depth: int
) -> tuple[Found, ast.AST | None, str]:
    """A member of a class, through its bases."""
    for node in _statements(owner.body):
        described = _describe(node, name, module)
        if described is not None:
            return described, node, module
    for node in ast.walk(owner):  # attributes set in methods: self.name = ..., self.name: T = ...
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        for target in targets:
            if isinstance(target, ast.Attribute) and target.attr == name and _is_self(target.value):
                return Found("name", where=module), node, module
    if depth < 8:
        for base in owner.bases:
            text = ast.unparse(base).split("[")[0].split(".")[-1]
            _, node, where = _lookup(source, module, text, 0)
            if isinstance(node, ast.ClassDef):
                inherited = _member(source, where, node, name, depth + 1)
                if inherited[0] != MISSING:
                    return inherited
    return MISSING, None, module


def _is_self(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id == "self"


def _statements(body: list[ast.stmt]) -> list[ast.stmt]:
    """Statements of a body, with those inside if/try/with flattened in."""
    flat: list[ast.stmt] = []
    for node in body:
        flat.append(node)
        if isinstance(node, ast.If):
            flat += _statements(node.body) + _statements(node.orelse)
        elif isinstance(node, ast.Try):
            flat += _statements(node.body) + _statements(node.orelse)
            for handler in node.handlers:
                flat += _statements(handler.body)
        elif isinstance(node, ast.With):
            flat += _statements(node.body)
    return flat


def _describe(node: ast.stmt, name: str, module: str) -> Found | None:
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name == name:
        decorators = [ast.unparse(d) for d in node.decorator_list]
        prefix = "@" + " @".join(decorators) + " " if decorators else ""
        return Found("function", f"{prefix}({_parameters(node.args)})", module)
    if isinstance(node, ast.ClassDef) and node.name == name:
        return Found("class", f"({', '.join(ast.unparse(b) for b in node.bases)})", module)
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    if any(isinstance(target, ast.Name) and target.id == name for target in targets):
        return Found("name", where=module)
    return None


def _parameters(arguments: ast.arguments) -> str:
    """Parameter names and defaults, without annotations: those change often and bind nobody."""
    bare = ast.parse(f"def f({ast.unparse(arguments)}): ...").body[0]
    assert isinstance(bare, ast.FunctionDef)
    for argument in [*bare.args.posonlyargs, *bare.args.args, *bare.args.kwonlyargs, bare.args.vararg, bare.args.kwarg]:
        if argument is not None:
            argument.annotation = None
    return ast.unparse(bare.args)


def _absolute(node: ast.ImportFrom, module: str, source: Source) -> str:
    if not node.level:
        return node.module or ""
    is_package = source(f"{module}.__init__") is not None
    parts = module.split(".")
    parts = parts[: len(parts) - node.level + (1 if is_package else 0)]
    return ".".join([*parts, *([node.module] if node.module else [])])

"""Our own source as a set of modules with their scopes: where a name is bound, and to what."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda


@dataclass(frozen=True)
class Binding:
    """One way in which a name gets its value.

    Attributes:
        kind: ``import`` (dotted name in `text`), ``value`` (expression), ``annotation`` (of a parameter or a field),
            ``function``, ``class``, ``opaque`` (a loop variable, an argument: anything).
    """

    kind: str
    node: ast.AST | None = None
    text: str = ""
    scope: Scope | None = None


@dataclass(eq=False, repr=False)
class Scope:
    """A module, class or function and the names bound in it."""

    module: Module
    node: ast.AST
    parent: Scope | None
    names: defaultdict[str, list[Binding]] = field(default_factory=lambda: defaultdict(list))

    @property
    def is_class(self) -> bool:
        return isinstance(self.node, ast.ClassDef)

    def lookup(self, name: str) -> list[Binding]:
        """Bindings of `name` as code in this scope sees it: class scopes are not seen from their methods."""
        scope: Scope | None = self
        while scope is not None:
            if scope.names.get(name) and (scope is self or not scope.is_class):
                return scope.names[name]
            scope = scope.parent
        return []

    def owner(self) -> Scope | None:
        """The class whose method this is, or is inside."""
        scope: Scope | None = self
        while scope is not None and not scope.is_class:
            scope = scope.parent
        return scope

    def self_name(self) -> str | None:
        """Name of the first parameter of the method that this is, or is inside."""
        scope: Scope | None = self
        while scope is not None and scope.parent is not None and not scope.parent.is_class:
            scope = scope.parent
        if scope is None or not isinstance(scope.node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            return None
        arguments = [*scope.node.args.posonlyargs, *scope.node.args.args]
        return arguments[0].arg if arguments else None


@dataclass(eq=False, repr=False)
class Module:
    """One file of ours."""

    name: str
    file: str
    tree: ast.Module
    scopes: dict[ast.AST, Scope] = field(default_factory=dict)

    @property
    def package(self) -> str:
        return self.name if self.file.endswith("__init__.py") else self.name.rpartition(".")[0]


class Project:
    """All modules below the source roots of `root` (``core``, ``backends/*`` ...), or the given texts."""

    def __init__(self, texts: dict[str, str]) -> None:
        """`texts`: path below the repository, as ``backends/npu/hardpoint_npu/device.py`` -> source."""
        self.modules: dict[str, Module] = {}
        for file, text in sorted(texts.items()):
            name = _module_name(file)
            self.modules[name] = module = Module(name, file, ast.parse(text))
            _Binder(module).visit_module()

    @staticmethod
    def of(root: Path, folders: tuple[str, ...]) -> Project:
        files = [path for folder in folders for path in sorted((root / folder).rglob("*.py"))]
        return Project({str(path.relative_to(root)): path.read_text() for path in files})


def _module_name(file: str) -> str:
    parts = file.removesuffix(".py").split("/")
    start = next((i for i, part in enumerate(parts) if part.startswith("hardpoint")), 0)
    return ".".join(part for part in parts[start:] if part != "__init__")


class _Binder:
    """Fills the scopes of a module."""

    def __init__(self, module: Module) -> None:
        self._module = module

    def visit_module(self) -> None:
        top = Scope(self._module, self._module.tree, None)
        self._module.scopes[self._module.tree] = top
        self._body(self._module.tree, top)

    def _body(self, node: ast.AST, scope: Scope) -> None:
        for child in ast.iter_child_nodes(node):
            self._statement(child, scope)

    def _statement(self, node: ast.AST, scope: Scope) -> None:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            self._function(node, scope)
            return
        if isinstance(node, ast.ClassDef):
            scope.names[node.name].append(Binding("class", node, scope=scope))
            inner = self._module.scopes[node] = Scope(self._module, node, scope)
            self._body(node, inner)
            return
        for name, binding in _bound(node, scope, self._module.package):
            place = scope
            if name.startswith("self."):
                owner = scope.owner()
                if owner is None or name.split(".")[0] != "self" or scope.self_name() != "self":
                    continue
                place, name = owner, name.removeprefix("self.")
            place.names[name].append(binding)
        self._body(node, scope)

    def _function(self, node: Function, scope: Scope) -> None:
        if not isinstance(node, ast.Lambda):
            scope.names[node.name].append(Binding("function", node, scope=scope))
        inner = self._module.scopes[node] = Scope(self._module, node, scope)
        given = node.args
        for a in [*given.posonlyargs, *given.args, *given.kwonlyargs]:
            kind = "opaque" if a.annotation is None else "annotation"
            inner.names[a.arg].append(Binding(kind, a.annotation, scope=scope))
        for a in filter(None, (given.vararg, given.kwarg)):
            inner.names[a.arg].append(Binding("opaque"))
        self._body(node, inner)


def _bound(node: ast.AST, scope: Scope, package: str) -> Iterator[tuple[str, Binding]]:
    """Names that one statement binds; attributes of self as ``self.name``."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            name = alias.name if alias.asname else alias.name.split(".")[0]
            yield alias.asname or name, Binding("import", node, name)
    elif isinstance(node, ast.ImportFrom):
        base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
        origin = ".".join([*base, *([node.module] if node.module else [])])
        for alias in node.names:
            yield alias.asname or alias.name, Binding("import", node, f"{origin}.{alias.name}")
    elif isinstance(node, ast.Assign):
        for target in node.targets:
            yield from _target(target, node.value, scope)
    elif isinstance(node, ast.AnnAssign):
        if node.value is not None:
            yield from _target(node.target, node.value, scope)
        yield from _named(node.target, Binding("annotation", node.annotation, scope=scope))
    elif isinstance(node, ast.NamedExpr):
        yield from _target(node.target, node.value, scope)
    elif isinstance(node, (ast.For, ast.AsyncFor, ast.comprehension)):
        yield from _opaque(node.target)
    elif isinstance(node, ast.withitem) and node.optional_vars is not None:
        yield from _opaque(node.optional_vars)
    elif isinstance(node, ast.ExceptHandler) and node.name:
        yield node.name, Binding("opaque")


def _target(target: ast.expr, value: ast.expr, scope: Scope) -> Iterator[tuple[str, Binding]]:
    if isinstance(target, ast.Tuple):
        if isinstance(value, ast.Tuple) and len(value.elts) == len(target.elts):
            for one, its in zip(target.elts, value.elts, strict=True):
                yield from _target(one, its, scope)
        else:
            yield from _opaque(target)
        return
    yield from _named(target, Binding("value", value, scope=scope))


def _named(target: ast.expr, binding: Binding) -> Iterator[tuple[str, Binding]]:
    if isinstance(target, ast.Name):
        yield target.id, binding
    elif isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name) and target.value.id == "self":
        yield f"self.{target.attr}", binding


def _opaque(target: ast.expr) -> Iterator[tuple[str, Binding]]:
    for node in ast.walk(target):
        if isinstance(node, ast.Name):
            yield node.id, Binding("opaque")

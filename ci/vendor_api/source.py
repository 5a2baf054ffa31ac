"""Find a dotted name in a package's source and stubs as Python would: re-exports, star imports, base classes."""

from __future__ import annotations

import ast
from dataclasses import dataclass, replace
from functools import lru_cache

from vendor_api.archive import Archive
from vendor_api.found import MISSING, Found

_DEPTH = 12
_IGNORED_BASES = ("object", "ABC", "Protocol", "Generic", "NamedTuple", "Enum", "IntEnum")


@dataclass(frozen=True)
class _Node:
    """A place in the source: what was found, its node, and the module that holds it."""

    found: Found
    node: ast.AST | None
    module: str
    owner: str = ""  # dotted name of a class, module included


_NOWHERE = _Node(MISSING, None, "")


class Source:
    """The Python side of one distribution."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self._tree = lru_cache(maxsize=None)(self._parse)

    def find(self, name: str) -> Found:
        """What ``package.module.Class.member`` is; `MISSING` if Python source and stubs do not have it."""
        return self._find(name).found

    def natives(self, name: str) -> bool:
        """Whether `name` is a member of a class that has a base in native code, where source cannot follow."""
        owner = self._find(name.rpartition(".")[0])
        return isinstance(owner.node, ast.ClassDef) and self._has_native_base(owner, 0)

    def mentions(self, name: str) -> bool:
        """Whether a class handles attribute `name` in its own ``__getattr__`` or ``__setattr__``, by its text."""
        owner, _, member = name.rpartition(".")
        found = self._find(owner)
        node = found.node if isinstance(found.node, ast.ClassDef) else self._instance(found)
        if node is None:
            return False
        hooks = (n for n in node.body if isinstance(n, ast.FunctionDef) and n.name in ("__getattr__", "__setattr__"))
        return any(isinstance(c, ast.Constant) and c.value == member for hook in hooks for c in ast.walk(hook))

    def _parse(self, module: str) -> list[ast.stmt] | None:
        file = self._archive.module_file(module)
        return None if file is None else _flat(ast.parse(self._archive.text(file) or "").body)

    def _find(self, name: str, depth: int = 0) -> _Node:
        parts = name.split(".")
        for cut in range(len(parts), 0, -1):
            module = ".".join(parts[:cut])
            if self._archive.module_file(module) is not None:
                at = _Node(Found("module", where=self._where(module)), None, module)
                for part in parts[cut:]:
                    at = self._below(at, part, depth)
                return at
        return _NOWHERE

    def _below(self, at: _Node, name: str, depth: int) -> _Node:
        if at.found.kind == "module":
            return self._in_module(at.module, name, depth)
        if isinstance(at.node, ast.ClassDef):
            return self._in_class(at, name, depth)
        instance = self._instance(at)
        return self._in_class(replace(at, node=instance), name, depth) if instance is not None else _NOWHERE

    def _instance(self, at: _Node) -> ast.ClassDef | None:
        """The class of a value written as ``name = Class(...)``."""
        value = at.node.value if isinstance(at.node, (ast.Assign, ast.AnnAssign)) else None
        if not isinstance(value, ast.Call):
            return None
        made = self._expression(at.module, value.func, 0).node
        return made if isinstance(made, ast.ClassDef) else None

    def _in_module(self, module: str, name: str, depth: int) -> _Node:
        body = self._tree(module)
        if body is None or depth > _DEPTH:
            return _NOWHERE
        defined = self._described(body, name, module, module)
        if defined is not None:
            return defined
        for node in body:
            if isinstance(node, ast.ImportFrom):
                origin = self._absolute(node, module)
                for alias in node.names:
                    if alias.name == "*" and self._star_gives(origin, name):
                        found = self._in_module(origin, name, depth + 1)
                        if found.found != MISSING:
                            return found
                    elif (alias.asname or alias.name) == name:
                        return self._find(f"{origin}.{alias.name}", depth + 1)
            elif isinstance(node, ast.Import):
                for alias in node.names:
                    if (alias.asname or alias.name.split(".")[0]) == name and not alias.name.startswith(f"{module}."):
                        return self._find(alias.name if alias.asname else name, depth + 1)
        if self._archive.module_file(f"{module}.{name}"):
            return _Node(Found("module", where=self._where(f"{module}.{name}")), None, f"{module}.{name}")
        return _NOWHERE

    def _star_gives(self, module: str, name: str) -> bool:
        for node in self._tree(module) or ():
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                return f"'{name}'" in ast.unparse(node.value)
        return not name.startswith("_")

    def _in_class(self, at: _Node, name: str, depth: int) -> _Node:
        assert isinstance(at.node, ast.ClassDef)
        owner = at.owner or f"{at.module}.{at.node.name}"
        if depth > _DEPTH:
            return _NOWHERE
        defined = self._described(_flat(at.node.body), name, at.module, owner, method=True)
        if defined is not None:
            return defined
        for node in ast.walk(at.node):  # set in methods: self.name = ...
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            if isinstance(node, (ast.Assign, ast.AnnAssign)) and any(
                isinstance(t, ast.Attribute) and t.attr == name and ast.unparse(t.value) == "self" for t in targets
            ):
                return _Node(Found("value", where=self._where(at.module)), node, at.module)
        for base in at.node.bases:
            found = self._expression(at.module, base, depth + 1)
            if isinstance(found.node, ast.ClassDef):
                inherited = self._in_class(found, name, depth + 1)
                if inherited.found != MISSING:
                    return inherited
        return _NOWHERE

    def _has_native_base(self, at: _Node, depth: int) -> bool:
        assert isinstance(at.node, ast.ClassDef)
        for base in at.node.bases:
            if ast.unparse(base).split("[")[0].split(".")[-1] in _IGNORED_BASES:
                continue
            found = self._expression(at.module, base, depth + 1)
            if not isinstance(found.node, ast.ClassDef) or (depth < _DEPTH and self._has_native_base(found, depth + 1)):
                return True
        return False

    def _expression(self, module: str, node: ast.expr, depth: int) -> _Node:
        """What a dotted expression in `module` names."""
        first, _, rest = ast.unparse(node).split("[")[0].partition(".")
        if not first.isidentifier():
            return _NOWHERE
        at = self._in_module(module, first, depth + 1)
        for part in rest.split(".") if rest else ():
            at = self._below(at, part, depth + 1)
        return at

    def _described(
        self, body: list[ast.stmt], name: str, module: str, owner: str, *, method: bool = False
    ) -> _Node | None:
        """What the statements of `body` define as `name`; all definitions of a function count, as overloads."""
        functions = [n for n in body if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef)) and n.name == name]
        if functions:
            where, first = self._where(module), functions[0]
            if any(ast.unparse(d).split(".")[-1] in ("property", "cached_property") for d in first.decorator_list):
                return _Node(Found("value", where=where), first, module)
            signatures = tuple(dict.fromkeys(_parameters(f, method=method) for f in functions))
            return _Node(Found("function", signatures, where, self._returned(first, module)), first, module)
        for node in body:
            if isinstance(node, ast.ClassDef) and node.name == name:
                path = f"{owner}.{name}"
                made = _Node(Found("class", where=self._where(module)), node, module, path)
                return replace(made, found=replace(made.found, signatures=self._construction(made), returns=path))
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            if isinstance(node, (ast.Assign, ast.AnnAssign)) and any(
                isinstance(t, ast.Name) and t.id == name for t in targets
            ):
                return self._assigned(node, module)
        return None

    def _assigned(self, node: ast.Assign | ast.AnnAssign, module: str) -> _Node:
        """A name given to something else is that something, else a value."""
        if isinstance(node.value, (ast.Name, ast.Attribute)):
            other = self._expression(module, node.value, 1)
            if other.found.kind in ("function", "class"):
                return other
        return _Node(Found("value", where=self._where(module)), node, module)

    def _construction(self, at: _Node) -> tuple[str, ...]:
        """Signatures of ``Class(...)``: its ``__init__``, else its ``__new__``; none if native code has it."""
        for name in ("__init__", "__new__"):
            found = self._in_class(at, name, 1).found
            if found.kind == "function":
                return found.signatures
        return () if self._has_native_base(at, 0) else ("()",)

    def _returned(self, node: ast.FunctionDef | ast.AsyncFunctionDef, module: str) -> str | None:
        """The class that a function's annotation names, ``plain`` if it is none of this distribution's."""
        annotation = node.returns
        if annotation is None:
            return None
        text = ast.unparse(annotation).strip("'\"").removeprefix("Optional[").removesuffix("]").split(" | ")[0]
        try:
            found = self._expression(module, ast.parse(text, mode="eval").body, 1)
        except SyntaxError:
            return "plain"
        return found.owner if isinstance(found.node, ast.ClassDef) and found.owner else "plain"

    def _where(self, module: str) -> str:
        return self._archive.module_file(module) or ""

    def _absolute(self, node: ast.ImportFrom, module: str) -> str:
        if not node.level:
            return node.module or ""
        package = (self._archive.module_file(module) or "").endswith(("/__init__.py", "/__init__.pyi"))
        parts = module.split(".")
        parts = parts[: len(parts) - node.level + (1 if package else 0)]
        return ".".join([*parts, *([node.module] if node.module else [])])


def _flat(body: list[ast.stmt]) -> list[ast.stmt]:
    """Statements with those inside if, try and with taken along."""
    flat: list[ast.stmt] = []
    for node in body:
        flat.append(node)
        if isinstance(node, (ast.If, ast.Try, ast.With)):
            flat += _flat(node.body) + _flat(getattr(node, "orelse", []))
            for handler in getattr(node, "handlers", []):
                flat += _flat(handler.body)
    return flat


def _parameters(node: ast.FunctionDef | ast.AsyncFunctionDef, *, method: bool) -> str:
    """Names and defaults, without annotations and without ``self``."""
    bare = ast.parse(f"def f({ast.unparse(node.args)}): ...").body[0]
    assert isinstance(bare, ast.FunctionDef)
    arguments = bare.args
    for a in [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]:
        if a is not None:
            a.annotation = None
    static = any(ast.unparse(d) == "staticmethod" for d in node.decorator_list)
    if method and not static:
        (arguments.posonlyargs or arguments.args)[:1] = []
    return f"({ast.unparse(arguments)})"

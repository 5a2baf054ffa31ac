"""What an expression of ours may be, as far as vendors are concerned."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from dataclasses import dataclass

from vendor_api.found import Found
from vendor_api.project import Binding, Module, Project, Scope
from vendor_api.vendors import canonical, generic_modules, vendor_of

Look = Callable[[str], Found]
"""Dotted name of a vendor -> what the newest supported release has there."""


@dataclass(frozen=True)
class Name:
    """Something reachable by a dotted name: a module, class, function or value of torch or a vendor."""

    path: str


@dataclass(frozen=True)
class Instance:
    """An object of the vendor's class `path`."""

    path: str


@dataclass(frozen=True)
class Unknown:
    """What the vendor's `path` gives when it is called; its source does not say what that is."""

    path: str


@dataclass(frozen=True)
class Ours:
    """A function or class of our own."""

    scope: Scope


@dataclass(frozen=True)
class Object:
    """An object of our own class."""

    scope: Scope


Atom = Name | Instance | Unknown | Ours | Object
Value = frozenset[Atom]
NOTHING: Value = frozenset()

_BY_TYPE = re.compile(r"(?<!d)type|kind")  # getattr(torch, device_type), not getattr(torch, dtype_name)


class Values:
    """Evaluates expressions of one project; flow-insensitive: a name is everything that it is ever bound to."""

    def __init__(self, project: Project, look: Look) -> None:
        self._project = project
        self._look = look
        self._known: dict[tuple[int, int], Value] = {}
        self._open: set[tuple[int, int]] = set()
        self._returned: dict[Scope, list[ast.expr]] = {}

    def of(self, node: ast.expr, scope: Scope) -> Value:
        """What `node` may be in `scope`."""
        key = (id(node), id(scope))
        if key not in self._known:
            if key in self._open:
                return NOTHING
            self._open.add(key)
            self._known[key] = self._evaluate(node, scope)
            self._open.discard(key)
        return self._known[key]

    def _evaluate(self, node: ast.expr, scope: Scope) -> Value:
        if isinstance(node, ast.Name):
            return self._name(node.id, scope)
        if isinstance(node, ast.Attribute):
            if isinstance(node.value, ast.Name) and node.value.id == scope.self_name() and scope.owner():
                return self._member(scope.owner(), node.attr)
            return self.attribute(self.of(node.value, scope), node.attr)
        if isinstance(node, ast.Call):
            return self._call(node, scope)
        if isinstance(node, ast.IfExp):
            return self.of(node.body, scope) | self.of(node.orelse, scope)
        if isinstance(node, ast.BoolOp):
            return frozenset().union(*(self.of(value, scope) for value in node.values))
        if isinstance(node, ast.NamedExpr):
            return self.of(node.value, scope)
        if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "sys.modules":
            return self._imported(node.slice)
        return NOTHING

    def _name(self, name: str, scope: Scope) -> Value:
        return self._bindings(scope.lookup(name))

    def _bindings(self, bindings: list[Binding]) -> Value:
        return frozenset().union(*(self._binding(binding) for binding in bindings))

    def _binding(self, binding: Binding) -> Value:
        if binding.kind == "import":
            return self._dotted(binding.text)
        if binding.kind == "value" and isinstance(binding.node, ast.expr) and binding.scope:
            return self.of(binding.node, binding.scope)
        if binding.kind == "annotation" and isinstance(binding.node, ast.expr) and binding.scope:
            return self._annotated(binding.node, binding.scope)
        if binding.kind in ("function", "class") and binding.scope and binding.node:
            inner = binding.scope.module.scopes[binding.node]
            decorators = [ast.unparse(d) for d in getattr(binding.node, "decorator_list", ())]
            if binding.kind == "function" and any(d.endswith("property") for d in decorators):
                return self._given_by_us(inner)
            return frozenset({Ours(inner)})
        return NOTHING

    def _dotted(self, text: str) -> Value:
        """A name that is imported: ours by its module, else torch's or a vendor's."""
        if text in self._project.modules:
            return NOTHING
        module, _, name = text.rpartition(".")
        if module in self._project.modules:
            ours = self._project.modules[module]
            return self._bindings(ours.scopes[ours.tree].names.get(name, []))
        return frozenset({Name(canonical(text))})

    def _annotated(self, node: ast.expr, scope: Scope) -> Value:
        """An object of the class that an annotation names."""
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            try:
                node = ast.parse(node.value, mode="eval").body
            except SyntaxError:
                return NOTHING
        if isinstance(node, ast.BinOp):  # X | None
            return self._annotated(node.left, scope) | self._annotated(node.right, scope)
        if not isinstance(node, (ast.Name, ast.Attribute)):
            return NOTHING
        made: set[Atom] = set()
        for atom in self.of(node, scope):
            if isinstance(atom, Name) and vendor_of(atom.path, scope.module.file):
                made.add(Instance(atom.path))
            elif isinstance(atom, Ours) and atom.scope.is_class:
                made.add(Object(atom.scope))
        return frozenset(made)

    def attribute(self, base: Value, name: str) -> Value:
        """What ``base.name`` may be."""
        found: Value = NOTHING
        for atom in base:
            if isinstance(atom, Name):
                found |= {Name(canonical(f"{atom.path}.{name}"))}
            elif isinstance(atom, Instance):
                found |= {Name(f"{atom.path}.{name}")}
            elif isinstance(atom, Object) or (isinstance(atom, Ours) and atom.scope.is_class):
                found |= self._member(atom.scope, name)
        return found

    def _member(self, owner: Scope | None, name: str, depth: int = 0) -> Value:
        """A member of our own class, through its bases."""
        if owner is None or depth > 8:
            return NOTHING
        if owner.names.get(name):
            return self._bindings(owner.names[name])
        assert isinstance(owner.node, ast.ClassDef)
        for base in owner.node.bases:
            for atom in self.of(base, owner.parent or owner):
                if isinstance(atom, Ours) and atom.scope.is_class:
                    found = self._member(atom.scope, name, depth + 1)
                    if found:
                        return found
                elif isinstance(atom, Name) and vendor_of(atom.path, owner.module.file):
                    return frozenset({Name(f"{atom.path}.{name}")})
        return NOTHING

    def _call(self, node: ast.Call, scope: Scope) -> Value:
        special = self._special(node, scope)
        if special is not None:
            return special
        given: Value = NOTHING
        for atom in self.of(node.func, scope):
            if isinstance(atom, Name):
                given |= self._given_by_vendor(atom.path, scope.module)
            elif isinstance(atom, Ours):
                given |= frozenset({Object(atom.scope)}) if atom.scope.is_class else self._given_by_us(atom.scope)
        return given

    def _given_by_vendor(self, path: str, module: Module) -> Value:
        if vendor_of(path, module.file) is None:
            return NOTHING
        found = self._look(path)
        if found.returns == "plain" or found.kind in ("missing", "module"):
            return NOTHING
        return frozenset({Instance(found.returns) if found.returns else Unknown(path)})

    def given_by(self, ours: Ours) -> Value:
        """What calling a function of ours may give."""
        return NOTHING if ours.scope.is_class else self._given_by_us(ours.scope)

    def _given_by_us(self, scope: Scope) -> Value:
        node = scope.node
        if isinstance(node, ast.Lambda):
            return self.of(node.body, scope)
        if scope not in self._returned:
            found = [n.value for n in own_nodes(node) if isinstance(n, ast.Return) and n.value is not None]
            self._returned[scope] = found
        returned = self._returned[scope]
        given: Value = frozenset().union(*(self.of(value, scope) for value in returned))
        annotation = getattr(node, "returns", None)
        return given | (self._annotated(annotation, scope.parent or scope) if annotation is not None else NOTHING)

    def _special(self, node: ast.Call, scope: Scope) -> Value | None:
        """What a call gives that reaches a module or attribute by other means than a name; None if it is none."""
        called = ast.unparse(node.func)
        arguments = node.args
        if called.endswith("import_module") or called in ("__import__", "sys.modules.get"):
            return self._imported(arguments[0]) if arguments else NOTHING
        if called.endswith("get_device_module"):
            return self._device_module(arguments[0] if arguments else None, scope)
        if called == "getattr" and len(arguments) >= 2:
            base = self.of(arguments[0], scope)
            names = names_of(arguments[1], scope.module.file)
            if names is None:
                by_type = base == {Name("torch")} and _BY_TYPE.search(ast.unparse(arguments[1]))
                return self._device_module(None, scope) if by_type else NOTHING
            return frozenset().union(*(self.attribute(base, name) for name in names))
        return None

    def _imported(self, node: ast.expr) -> Value:
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            return frozenset({Name(canonical(node.value))})
        return NOTHING

    def _device_module(self, node: ast.expr | None, scope: Scope) -> Value:
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            return frozenset({Name(canonical(f"torch.{node.value.split(':')[0]}"))})
        return frozenset(Name(path) for path in generic_modules(scope.module.file))


def names_of(node: ast.expr, file: str) -> tuple[str, ...] | None:
    """Names that a string expression may be: a constant, or an f-string with the device type in it; None if any."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return (node.value,)
    if isinstance(node, ast.JoinedStr):
        holes = [part for part in node.values if isinstance(part, ast.FormattedValue)]
        if len(holes) == 1 and _BY_TYPE.search(ast.unparse(holes[0].value)):
            kinds = [path.rpartition(".")[2] for path in generic_modules(file)]
            return tuple(
                "".join(str(p.value) if isinstance(p, ast.Constant) else kind for p in node.values) for kind in kinds
            )
    return None


def own_nodes(node: ast.AST) -> list[ast.AST]:
    """Nodes of a function without those of functions inside it."""
    found: list[ast.AST] = []
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)):
            found += [child, *own_nodes(child)]
    return found


__all__ = ["NOTHING", "Instance", "Name", "Ours", "Unknown", "Value", "Values", "names_of"]

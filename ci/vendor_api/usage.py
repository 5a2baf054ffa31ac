"""Every place where our source reaches a vendor, and every place where it does so in a way that cannot be followed."""

from __future__ import annotations

import ast
from dataclasses import dataclass

from vendor_api.found import Call
from vendor_api.project import Module, Project, Scope
from vendor_api.values import Instance, Look, Name, Ours, Unknown, Value, Values, names_of
from vendor_api.vendors import is_vendor_folder, vendor_of

_TORCH = (Name("torch"), Name("torch._C"), Name("torch.distributed"), Name("torch.ops"))


@dataclass(frozen=True)
class Use:
    """One reach for a vendor's name.

    Attributes:
        target: canonical dotted name.
        where: ``file:line``.
        call: shape of the call; None if the name is only read or handed on.
        handed_on: it goes somewhere as a value, so that a function is called where the reader does not see it.
        optional: a ``hasattr``, or a ``getattr`` with a default: the name may be missing.
        file: file of ours.
    """

    target: str
    where: str
    call: Call | None
    optional: bool
    file: str
    handed_on: bool = False


@dataclass(frozen=True)
class Blind:
    """A reach for a vendor that cannot be followed: where, and why."""

    where: str
    why: str


@dataclass(frozen=True)
class Usage:
    """What the source does with vendors."""

    uses: tuple[Use, ...]
    blind: tuple[Blind, ...]


def usage(project: Project, look: Look) -> Usage:
    """Read the whole project; `look` says what a vendor's name is, so that results of calls can be followed."""
    values = Values(project, look)
    readers = [_Reader(module, values, look) for module in project.modules.values()]
    for reader in readers:
        reader.read(reader.module.tree, reader.module.scopes[reader.module.tree], None)
    return Usage(
        tuple(dict.fromkeys(use for reader in readers for use in reader.uses)),
        tuple(dict.fromkeys(blind for reader in readers for blind in reader.blind)),
    )


class _Reader:
    """Walks one module."""

    def __init__(self, module: Module, values: Values, look: Look) -> None:
        self.module = module
        self.uses: list[Use] = []
        self.blind: list[Blind] = []
        self._values = values
        self._look = look

    def read(self, node: ast.AST, scope: Scope, parent: ast.AST | None) -> None:
        """Record what `node` and everything below it reaches."""
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            self._import(node)
        elif isinstance(node, ast.Call):
            self._call(node, scope)
        if isinstance(node, (ast.Attribute, ast.Name, ast.Call)):
            self._reached(node, scope, parent)
        inner = self.module.scopes.get(node, scope)
        for child in ast.iter_child_nodes(node):
            # Decorators, defaults and annotations belong to the scope around a function; its parameters' names do not.
            outside = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and not isinstance(
                child, ast.stmt
            )
            self.read(child, scope if outside else inner, node)

    def _import(self, node: ast.Import | ast.ImportFrom) -> None:
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        else:
            targets = [] if node.level else [f"{node.module}.{alias.name}" for alias in node.names]
        for target in targets:
            if target.endswith(".*") and vendor_of(target.removesuffix(".*"), self.module.file):
                self._note_blind(node, f"`{ast.unparse(node)}` hides which names are used: import them one by one")
            elif vendor_of(target, self.module.file):
                self._note(node, target)

    def _call(self, node: ast.Call, scope: Scope) -> None:
        """Calls by which an attribute or a module is reached under a computed name."""
        called = ast.unparse(node.func)
        if called in ("getattr", "hasattr", "setattr", "delattr") and len(node.args) >= 2:
            base = self._values.of(node.args[0], scope)
            names = names_of(node.args[1], self.module.file)
            if names is None:
                self._computed(node, called, base)
                return
            optional = called == "hasattr" or len(node.args) > 2 or len(names) > 1
            for name in names:
                self._record(node, self._values.attribute(base, name), None, optional=optional)
        elif called == "vars" and node.args and any(map(self._of_torch, self._values.of(node.args[0], scope))):
            self._note_blind(node, "vars of torch or of a vendor's module: write the attribute plainly")
        elif called.endswith(("attrgetter", "methodcaller")) and is_vendor_folder(self.module.file):
            self._note_blind(node, f"{called} reaches attributes out of sight: write them plainly")
        elif called.endswith("import_module") or called in ("__import__", "eval", "exec"):
            constant = bool(node.args) and isinstance(node.args[0], ast.Constant)
            if not constant and is_vendor_folder(self.module.file):
                self._note_blind(node, f"{called} with a computed name: write a plain import")
            elif constant:
                self._record(node, self._values.of(node, scope), None)

    def _computed(self, node: ast.Call, called: str, base: Value) -> None:
        reached = [atom.path for atom in base if isinstance(atom, (Name, Instance, Unknown)) and self._vendor(atom)]
        if Name("torch") in base and is_vendor_folder(self.module.file):
            reached.append("torch")
        if reached:
            self._note_blind(
                node, f"{called} on {' or '.join(sorted(reached))} with a computed name: write the attribute plainly"
            )

    def _reached(self, node: ast.Attribute | ast.Name | ast.Call, scope: Scope, parent: ast.AST | None) -> None:
        if isinstance(node, ast.Attribute):
            self._past_unknown(node, scope)
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            return
        value = self._values.of(node, scope)
        if (
            isinstance(node, ast.Attribute)
            and node.attr == "__dict__"
            and any(map(self._of_torch, self._values.of(node.value, scope)))
        ):
            self._note_blind(node, "__dict__ of torch or of a vendor's module: write the attribute plainly")
        if not any(self._vendor(atom) or isinstance(atom, Ours) for atom in value):
            return
        is_base = isinstance(parent, ast.Attribute) and parent.value is node
        call = _shape(parent) if isinstance(parent, ast.Call) and parent.func is node else None
        self._escaping_modules(node, value, parent)
        # What a name of ours stands for was recorded where it was bound; only a call of it says something new.
        direct = isinstance(node, ast.Attribute) and any(
            self._vendor(atom) or atom in _TORCH for atom in self._values.of(node.value, scope)
        )
        handed_on = call is None and not _followed(parent)
        if not direct and call is None and not handed_on:
            return
        if is_base and all(isinstance(atom, Name) and self._kind(atom) == "module" for atom in value):
            return  # what is taken from it is recorded
        self._record(node, value, call, optional=not direct, handed_on=handed_on)

    def _past_unknown(self, node: ast.Attribute, scope: Scope) -> None:
        """An attribute of what a vendor's function gave, where nothing says what that is."""
        for atom in self._values.of(node.value, scope):
            if isinstance(atom, Unknown):
                self._note_blind(
                    node,
                    f".{node.attr} of what {atom.path} returns, which its source does not say: add a line to "
                    "ci/vendor_api/returns.txt",
                )

    def _escaping_modules(self, node: ast.expr, value: Value, parent: ast.AST | None) -> None:
        """A vendor's module may be named again and returned; handed to anything else it is out of sight.

        So is a function of ours that returns one, where it is not called.
        """
        ours = [atom for atom in value if isinstance(atom, Ours) and not atom.scope.is_class]
        for atom in ours:
            called = isinstance(parent, ast.Call) and parent.func is node
            if not called and not _followed(parent) and any(map(self._is_module, self._values.given_by(atom))):
                self._note_blind(node, "a function that returns a vendor's module is handed on: call it here")
        modules = sorted(atom.path for atom in value if isinstance(atom, Name) and self._is_module(atom))
        if not modules or isinstance(parent, ast.Return) or _followed(parent):
            return
        if isinstance(parent, ast.Tuple) and isinstance(parent.ctx, ast.Load):
            return  # a, b = module, 1; a tuple that goes elsewhere loses sight of it and is seen where it is used
        if isinstance(parent, ast.Call) and ast.unparse(parent.func) in ("getattr", "hasattr", "setattr"):
            return
        self._note_blind(
            node, f"the module {' or '.join(modules)} is handed on as a value: name its attributes where they are used"
        )

    def _record(
        self, node: ast.AST, value: Value, call: Call | None, *, optional: bool = False, handed_on: bool = False
    ) -> None:
        for atom in sorted((atom for atom in value if isinstance(atom, Name)), key=lambda name: name.path):
            if self._vendor(atom):
                if call is not None and call.hidden:
                    self._note_blind(node, f"{atom.path} is called with * or **: write its arguments out")
                self._note(node, atom.path, call, optional=optional, handed_on=handed_on)

    def _vendor(self, atom: object) -> bool:
        path = getattr(atom, "path", None)
        return isinstance(path, str) and vendor_of(path, self.module.file) is not None

    def _of_torch(self, atom: object) -> bool:
        return atom == Name("torch") or self._is_module(atom)

    def _is_module(self, atom: object) -> bool:
        return isinstance(atom, Name) and self._vendor(atom) and self._kind(atom) == "module"

    def _kind(self, atom: Name) -> str:
        return self._look(atom.path).kind

    def _note(
        self,
        node: ast.AST,
        target: str,
        call: Call | None = None,
        *,
        optional: bool = False,
        handed_on: bool = False,
    ) -> None:
        self.uses.append(Use(target, self._where(node), call, optional, self.module.file, handed_on))

    def _note_blind(self, node: ast.AST, why: str) -> None:
        self.blind.append(Blind(self._where(node), why))

    def _where(self, node: ast.AST) -> str:
        return f"{self.module.file}:{getattr(node, 'lineno', 0)}"


def _followed(parent: ast.AST | None) -> bool:
    """Whether a value in this place stays in sight: it is read, compared, or given to a name or attribute of self."""
    if isinstance(parent, (ast.Assign, ast.AnnAssign)):
        targets = parent.targets if isinstance(parent, ast.Assign) else [parent.target]
        return all(isinstance(t, (ast.Name, ast.Tuple)) or ast.unparse(t).startswith("self.") for t in targets)
    reads = (ast.Attribute, ast.Compare, ast.BoolOp, ast.IfExp, ast.NamedExpr, ast.If, ast.UnaryOp, ast.Expr)
    asks = isinstance(parent, ast.Call) and ast.unparse(parent.func) in ("callable", "hasattr", "isinstance")
    return asks or isinstance(parent, reads)


def _shape(node: ast.Call) -> Call:
    hidden = any(isinstance(a, ast.Starred) for a in node.args) or any(k.arg is None for k in node.keywords)
    return Call(len(node.args), tuple(k.arg for k in node.keywords if k.arg is not None), hidden)

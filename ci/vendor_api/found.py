"""What a name turns out to be in one release, and whether a call fits it."""

from __future__ import annotations

import ast
import inspect
import re
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Found:
    """One name as a release has it.

    Attributes:
        kind: ``module``, ``class``, ``function``, ``op``, ``value``, ``native`` (the name stands in a shared library;
            more cannot be read there) or ``missing``.
        signatures: of a function, or of a class's construction: parameters with defaults, without ``self``; one per
            overload. For an op: its schemas. Empty: it takes what cannot be read.
        where: file that defines it.
        returns: what a call gives: dotted name of a vendor's class, ``plain`` for anything else that is known, None if
            the source does not say.
    """

    kind: str
    signatures: tuple[str, ...] = ()
    where: str = ""
    returns: str | None = None

    def as_json(self) -> dict[str, Any]:
        row: dict[str, Any] = {"kind": self.kind}
        if self.signatures:
            row["signatures"] = list(self.signatures)
        if self.where:
            row["where"] = self.where
        if self.returns:
            row["returns"] = self.returns
        return row

    @staticmethod
    def of_json(row: dict[str, Any]) -> Found:
        return Found(row["kind"], tuple(row.get("signatures", ())), row.get("where", ""), row.get("returns"))


MISSING = Found("missing")


@dataclass(frozen=True)
class Call:
    """The shape of a call: how many positional arguments, which keywords, and whether ``*`` or ``**`` hides some."""

    positional: int
    keywords: tuple[str, ...]
    hidden: bool = False

    def __str__(self) -> str:
        words = [f"{self.positional} positional"] * bool(self.positional) + [f"{word}=" for word in self.keywords]
        return f"({', '.join(words)})"


def misfit(found: Found, call: Call) -> str | None:
    """Why `call` does not fit any signature of `found`; None if it fits one, or if none could be read."""
    if found.kind == "module":
        return "a module is called"
    if not found.signatures:
        return None
    reasons = [_bind(signature, call, op=found.kind == "op") for signature in found.signatures]
    if None in reasons:
        return None
    texts = " or ".join(" ".join(signature.split())[:240] for signature in found.signatures)
    return f"{reasons[0]}; it takes {texts}"


def _bind(text: str, call: Call, *, op: bool) -> str | None:
    signature = of_schema(text) if op else of_parameters(text)
    try:
        signature.bind(*[None] * call.positional, **dict.fromkeys(call.keywords))
    except TypeError as error:
        return f"called with {call}: {error}"
    return None


def of_parameters(text: str) -> inspect.Signature:
    """The signature written as ``(a, b=1, *, c)``."""
    node = ast.parse(f"def f{text}: ...").body[0]
    assert isinstance(node, ast.FunctionDef)
    given, kinds = node.args, inspect.Parameter
    plain = [*given.posonlyargs, *given.args]
    optional = {a.arg for a in plain[len(plain) - len(given.defaults) :]} if given.defaults else set()
    optional |= {a.arg for a, default in zip(given.kwonlyargs, given.kw_defaults, strict=True) if default is not None}

    def one(name: str, kind: Any) -> inspect.Parameter:
        return kinds(name, kind, default=None if name in optional else kinds.empty)

    made = [one(a.arg, kinds.POSITIONAL_ONLY) for a in given.posonlyargs]
    made += [one(a.arg, kinds.POSITIONAL_OR_KEYWORD) for a in given.args]
    made += [kinds(given.vararg.arg, kinds.VAR_POSITIONAL)] if given.vararg else []
    made += [one(a.arg, kinds.KEYWORD_ONLY) for a in given.kwonlyargs]
    made += [kinds(given.kwarg.arg, kinds.VAR_KEYWORD)] if given.kwarg else []
    return inspect.Signature(made)


def of_schema(text: str) -> inspect.Signature:
    """The signature of a torch op schema ``(Tensor self, int n, *, int? m=None) -> Tensor``."""
    kinds = inspect.Parameter
    made: list[inspect.Parameter] = []
    kind: Any = kinds.POSITIONAL_OR_KEYWORD
    for part in _split(_inside(text)):
        if part == "*":
            kind = kinds.KEYWORD_ONLY
            continue
        left, _, default = part.partition("=")
        name = left.split()[-1]
        name = f"{name}_" if name in ("from", "lambda", "in", "is") else name
        made.append(kinds(name, kind, default=None if default else kinds.empty))
    # A schema may put a required parameter after one with a default; for binding the former is what counts.
    seen_default = False
    for index, parameter in enumerate(made):
        seen_default |= parameter.default is not kinds.empty
        if seen_default and parameter.kind is not kinds.KEYWORD_ONLY:
            made[index] = parameter.replace(default=None)
    return inspect.Signature(made)


def _inside(text: str) -> str:
    """What stands in the first pair of parentheses."""
    depth = 0
    for index, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if letter == ")" and depth == 0:
            return text[1:index]
    raise ValueError(f"parentheses of op schema {text!r} do not close")


def _split(text: str) -> list[str]:
    """Parts between commas that stand in no bracket."""
    parts, depth, start = [], 0, 0
    for index, letter in enumerate(text):
        depth += (letter in "([") - (letter in ")]")
        if letter == "," and depth == 0:
            parts.append(text[start:index])
            start = index + 1
    parts.append(text[start:])
    return [re.sub(r"\s+", " ", part).strip() for part in parts if part.strip()]

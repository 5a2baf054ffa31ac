"""What a backend states about itself for the kit: claims that laws hang on, wider tolerances, and cases of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hardpoint.backend import Capabilities


@dataclass(frozen=True)
class Claim:
    """A declared fact that makes a law due.

    Attributes:
        name: as the report shows it, for example ``"graph"`` or ``"dtype bfloat16"``.
        declared: whether these capabilities state it. True makes the law due; False makes it "not claimed".
    """

    name: str
    declared: Callable[[Capabilities], bool]


GRAPH = Claim("graph", lambda capabilities: capabilities.graph)
SLEEP = Claim("sleep", lambda capabilities: capabilities.sleep)
STREAMS = Claim("streams", lambda capabilities: capabilities.streams)


def dtype(name: str) -> Claim:
    """Arithmetic in the torch dtype `name`, for example ``dtype("bfloat16")``."""
    return Claim(f"dtype {name}", lambda capabilities: name in capabilities.dtypes)


def communication_dtype(name: str) -> Claim:
    """The native collective library carries the torch dtype `name`."""
    return Claim(f"communication dtype {name}", lambda capabilities: name in capabilities.communication_dtypes)


def reduce_op(name: str) -> Claim:
    """Collectives reduce with `name`, one of ``sum, avg, min, max, prod``."""
    return Claim(f"reduce op {name}", lambda capabilities: name in capabilities.reduce_ops)


def sparse_format(name: str) -> Claim:
    """The device-private storage format `name`, for example ``"NZ"``."""
    return Claim(f"sparse format {name}", lambda capabilities: name in capabilities.sparse_formats)


def extra(name: str) -> Claim:
    """A claim of `Capabilities.extras`."""
    return Claim(f"extra {name}", lambda capabilities: name in capabilities.extras)


@dataclass(frozen=True)
class Tolerance:
    """A tolerance that a backend needs and says why; printed in the report.

    Attributes:
        law: id of the law that it is for, or ``"*"``.
        dtype: torch dtype name that it is for.
        rtol, atol: relative and absolute, as in `torch.testing.assert_close`.
        reason: a sentence.
    """

    law: str
    dtype: str
    rtol: float
    atol: float
    reason: str


@dataclass(frozen=True)
class ExtraCase:
    """A law that a backend brings for itself; it runs and is reported like the others.

    Attributes:
        id: ``part.kebab-case-statement``; must not be the id of a law of the kit.
        statement: what must hold, as a sentence.
        function: called with a `LawContext`.
        claim: name of the entry of `Capabilities.extras` that this case proves, None if it proves none.
        ranks: world sizes to run in.
        deadline: seconds for one run.
    """

    id: str
    statement: str
    function: Callable[[Any], None]
    claim: str | None = None
    ranks: tuple[int, ...] = (1,)
    deadline: float = 60.0

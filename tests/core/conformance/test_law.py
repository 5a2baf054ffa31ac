"""`law` refuses, at import, what the report could not show."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hardpoint import Capabilities
from hardpoint.conformance import LawContext, law
from hardpoint.conformance.claims import GRAPH


def holds(context: LawContext) -> None:
    """A law about
    nothing in particular.

    What follows is for readers of the code.
    """


def says_nothing(context: LawContext) -> None: ...


def test_the_first_paragraph_of_the_docstring_is_the_statement() -> None:
    made = law(part="device", id="device.about-nothing")(holds)
    assert made.statement == "A law about nothing in particular."
    assert (made.profile, made.ranks, made.devices) == ("required", (1,), 1)


@pytest.mark.parametrize(
    "id", ["streams.other-part", "device.Upper", "device.two_words", "device.", "device", "device.a.b"]
)
def test_an_id_that_is_not_part_and_kebab_case_is_refused(id: str) -> None:
    with pytest.raises(ValueError, match=r"must read 'device\.kebab-case-statement'"):
        law(part="device", id=id)(holds)


def test_a_law_without_a_statement_is_refused_with_the_functions_name() -> None:
    with pytest.raises(ValueError, match=r"device\.mute has no statement.*says_nothing"):
        law(part="device", id="device.mute")(says_nothing)
    assert law(part="device", id="device.mute", statement="Generated.")(says_nothing).statement == "Generated."


@pytest.mark.parametrize("ranks", [(), (0,), (2, 0)])
def test_a_law_without_a_world_is_refused(ranks: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="at least one world size"):
        law(part="device", id="device.nowhere", ranks=ranks)(holds)


def test_a_claimed_law_is_due_only_where_the_claim_is_declared() -> None:
    made = law(part="graphs", id="graphs.only-with-graphs", claim=GRAPH)(holds)
    assert made.profile == "claimed"
    bare = Capabilities(dtypes=frozenset(), communication_dtypes=frozenset())
    assert made.due(replace(bare, graph=True)) and not made.due(bare)
    assert law(part="graphs", id="graphs.always")(holds).due(bare)

"""Finding, trying, loading and asking plugins, one at a time: a broken one is a row with a reason, never a crash."""

from hardpoint.plugins.candidate import Candidate, State
from hardpoint.plugins.registry import Registry
from hardpoint.plugins.request import OFF, Choice, Request, parse_request

__all__ = ["OFF", "Candidate", "Choice", "Registry", "Request", "State", "parse_request"]

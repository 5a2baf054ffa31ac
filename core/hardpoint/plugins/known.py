"""Names of backends that people ask for, and the extra that brings each: for the message when nothing provides one."""

from __future__ import annotations

from dataclasses import dataclass

DISTRIBUTION = "hardpoint"


@dataclass(frozen=True)
class KnownName:
    """A backend that hardpoint knows by name without its plugin being installed."""

    name: str
    extra: str | None
    aliases: tuple[str, ...] = ()

    @property
    def remedy(self) -> str:
        wanted = f"{DISTRIBUTION}[{self.extra}]" if self.extra else DISTRIBUTION
        return f"no installed distribution provides it; pip install --upgrade '{wanted}'"


KNOWN = (
    KnownName("cpu", None, ("host",)),
    KnownName("cuda", "cuda", ("nvidia", "gpu")),
    KnownName("xpu", "xpu", ("intel",)),
    KnownName("npu", "npu", ("ascend",)),
    KnownName("sim", None, ("simulator",)),
)


def find_known(name: str) -> KnownName | None:
    """The known backend called `name`, by name or alias."""
    return next((known for known in KNOWN if name == known.name or name in known.aliases), None)

"""What each vendor's visibility variable may say, and what its driver makes of it. Data and pure string work.

The vendors differ where it hurts: CUDA numbers devices in the order of the list, Level Zero ignores that order,
torch_npu sees no device at all when the list does not ascend, and Ascend reads nothing from the first blank on. A value
that the driver would read otherwise than it looks is refused with a sentence that says so.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from hardpoint.errors import DeviceError

Form = Literal["number", "range", "uuid", "sub-device", "name"]
_SHAPES: tuple[tuple[Form, re.Pattern[str]], ...] = (
    ("number", re.compile(r"\d+")),
    ("sub-device", re.compile(r"\d+(\.\d+)+")),
    ("range", re.compile(r"(\d+)-(\d+)")),
    ("uuid", re.compile(r"(GPU|MIG)-[0-9A-Za-z/-]+")),
    ("name", re.compile(r"Ascend\d+[A-Z]*-(\d+)")),
)
_PLAIN: dict[Form, str] = {
    "number": "index",
    "range": "range",
    "uuid": "UUID or MIG name",
    "sub-device": "sub-device",
    "name": "name such as Ascend910-0",
}


@dataclass(frozen=True)
class Rule:
    """How one variable is read.

    Attributes:
        variable: its name.
        forms: what an entry may be.
        order: which device comes first: that of the list, that of the driver, or the list, which has to ascend.
        repeats: naming a device twice counts once; else it is refused.
        blanks: blanks around an entry are passed over.
        empty_hides: an empty value hides every device; else it is as if unset.
        minus_one_ends: ``-1`` hides itself and what follows.
        hides_all: words that hide every device.
        otherwise: what the driver does with an entry that it cannot read, for the message.
        applied_before: variable that is applied to what this one leaves, so that its numbers count among those.
        noset: Ray's variable that keeps Ray from setting this one, None if Ray does not set it.
        source: where all this can be read.
    """

    variable: str
    forms: tuple[Form, ...]
    order: Literal["listed", "driver", "ascending"] = "listed"
    repeats: bool = False
    blanks: bool = True
    empty_hides: bool = True
    minus_one_ends: bool = False
    hides_all: tuple[str, ...] = ("NoDevFiles",)  # what Ray and container runtimes write
    otherwise: str = ""
    applied_before: str | None = None
    noset: str | None = None
    source: str = ""


_CUDA = "CUDA hides it and what follows"
_NOSET = "RAY_EXPERIMENTAL_NOSET_"
RULES: dict[str, Rule] = {
    rule.variable: rule
    for rule in (
        Rule(
            "CUDA_VISIBLE_DEVICES",
            ("number", "uuid"),
            minus_one_ends=True,
            otherwise=_CUDA,
            noset=f"{_NOSET}CUDA_VISIBLE_DEVICES",
            source="CUDA programming guide, CUDA environment variables",
        ),
        Rule(
            "HIP_VISIBLE_DEVICES",
            ("number", "uuid"),
            minus_one_ends=True,
            otherwise="HIP hides it and what follows",
            noset=f"{_NOSET}HIP_VISIBLE_DEVICES",
            source="ROCm documentation, GPU isolation",
        ),
        Rule(
            "ZE_AFFINITY_MASK",
            ("number", "sub-device"),
            order="driver",
            repeats=True,
            empty_hides=False,
            otherwise="torch.xpu (2.13 and later) refuses to count devices by it",
            applied_before="ONEAPI_DEVICE_SELECTOR",
            noset=f"{_NOSET}ZE_AFFINITY_MASK",  # Ray 2.58 and later (ray #64440)
            source="Level Zero specification, affinity mask; torch/xpu/__init__.py, _parse_visible_devices",
        ),
        Rule(
            "ONEAPI_DEVICE_SELECTOR",
            ("number", "sub-device"),
            order="driver",
            repeats=True,
            empty_hides=False,
            otherwise="SYCL ends the process",
            noset=f"{_NOSET}ONEAPI_DEVICE_SELECTOR",
            source="DPC++ environment variables; ray/_private/accelerators/intel_gpu.py",
        ),
        Rule(
            "ASCEND_RT_VISIBLE_DEVICES",
            ("number",),
            order="ascending",
            blanks=False,
            minus_one_ends=True,
            otherwise="the driver reads only what stands before it",
            noset=f"{_NOSET}ASCEND_RT_VISIBLE_DEVICES",
            source="CANN environment variables; torch_npu/npu/__init__.py, _parse_visible_devices",
        ),
        Rule(
            "ASCEND_VISIBLE_DEVICES",
            ("number", "range", "name"),
            order="driver",
            hides_all=("void",),
            otherwise="Ascend Docker Runtime refuses the container",
            source="Ascend Docker Runtime user guide",
        ),
    )
}


def rule_of(variable: str) -> Rule:
    """The rule of a variable; a lenient one for a vendor's that is not in the table."""
    lenient: tuple[Form, ...] = ("number", "range", "uuid", "sub-device", "name")
    return RULES.get(variable) or Rule(variable, lenient, minus_one_ends=True, otherwise="nobody knows what it means")


def visible_devices(
    variable: str, value: str | None, environment: Mapping[str, str] | None = None
) -> tuple[str, ...] | None:
    """What each logical device is on the machine, in order; None if all are visible, as they are.

    `environment` (default: this process's) is asked for ``ZE_FLAT_DEVICE_HIERARCHY`` alone, which decides whether the
    sub-devices of one card are one device.

    Raises:
        DeviceError: an entry that the driver does not read as it looks: what it is, what the driver would do, and what
            to write instead.
    """
    rule = rule_of(variable)
    if value is None or (not value.strip() and not rule.empty_hides):
        return None
    if variable == "ONEAPI_DEVICE_SELECTOR":
        return _selected(rule, value)
    if not value.strip() or value.strip() in rule.hides_all:
        return ()
    found = _entries(rule, value, value.split(","))
    if rule.order == "driver":
        hierarchy = (os.environ if environment is None else environment).get("ZE_FLAT_DEVICE_HIERARCHY", "FLAT")
        return _as_the_driver_orders(found, composite=hierarchy == "COMPOSITE")
    if rule.order == "ascending" and list(map(int, found)) != sorted(map(int, found)):
        fitting = ",".join(sorted(found, key=int))
        raise DeviceError(
            f"{variable}={value!r} does not ascend; torch_npu sees no device then. Write {variable}={fitting}."
        )
    return tuple(found)


def _entries(rule: Rule, value: str, parts: list[str]) -> list[str]:
    found: list[str] = []
    for part in parts:
        entry = part.strip() if rule.blanks else part
        if entry == "-1" and rule.minus_one_ends:
            break
        found += _expand(rule, value, entry)
    twice = sorted({entry for entry in found if found.count(entry) > 1})
    if twice and not rule.repeats:
        raise DeviceError(f"{rule.variable}={value!r} names {', '.join(twice)} more than once; name every device once.")
    return list(dict.fromkeys(found))


def _expand(rule: Rule, value: str, entry: str) -> list[str]:
    """The devices that one entry names."""
    form, match = next(((form, m) for form, shape in _SHAPES if (m := shape.fullmatch(entry))), (None, None))
    written = f"{rule.variable}={value!r}"
    if form is None or match is None:
        known = " or ".join(_PLAIN[form] for form in rule.forms)
        raise DeviceError(
            f"{written}: {entry!r} is no device {known}; {rule.otherwise}. Write for example {rule.variable}=0,1."
        )
    if form == "range":
        first, last = int(match[1]), int(match[2])
        if last < first:
            raise DeviceError(f"{written}: range {entry!r} runs backwards; write {last}-{first}.")
        if form in rule.forms:
            return [str(index) for index in range(first, last + 1)]
        listed = ",".join(str(index) for index in range(first, last + 1))
        raise DeviceError(f"{written}: {entry!r} is a range, {rule.otherwise}. Write {listed}.")
    if form not in rule.forms:
        raise DeviceError(f"{written}: {entry!r} is a {_PLAIN[form]}, {rule.otherwise}. Write numbers.")
    return [match[1]] if form == "name" else [entry]


def _as_the_driver_orders(entries: list[str], *, composite: bool) -> tuple[str, ...]:
    """Level Zero reports devices in its own order, not the mask's; parts of one card are one device if `composite`."""
    ordered = sorted(entries, key=lambda entry: tuple(map(int, entry.split("."))))
    if not composite:
        return tuple(ordered)
    cards: dict[str, list[str]] = {}
    for entry in ordered:
        cards.setdefault(entry.split(".")[0], []).append(entry)
    return tuple(card if card in parts else "+".join(parts) for card, parts in cards.items())


def _selected(rule: Rule, value: str) -> tuple[str, ...] | None:
    """Devices that ``ONEAPI_DEVICE_SELECTOR`` names by number; None if it names kinds (``level_zero:gpu``)."""
    numbers: list[str] = []
    for term in filter(None, (part.strip() for part in value.split(";"))):
        backend, colon, devices = term.partition(":")
        if not colon:
            raise DeviceError(
                f"{rule.variable}={value!r}: {term!r} has no backend; {rule.otherwise}. Write for example "
                f"{rule.variable}=level_zero:0,1."
            )
        if backend.lower() not in ("level_zero", "*"):
            continue
        parts = [part.strip() for part in devices.split(",")]
        if any(part.lower() in ("*", "*.*", "gpu") for part in parts):
            return None
        numbers += [part for part in parts if part.lower() not in ("cpu", "fpga")]
    if not numbers:
        return None if "!" in value else ()
    return _as_the_driver_orders(_entries(rule, value, numbers), composite=False)

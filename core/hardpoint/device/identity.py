"""Logical index, physical index and UUID of a device, from the vendor's visibility variable. Pure string work.

Values that vendors accept: indexes (``2,0``), ranges (``0-3``, ASCEND_RT_VISIBLE_DEVICES and ZE_AFFINITY_MASK do not
mix them with UUIDs), UUIDs or a unique start of one (``GPU-8932f937``, CUDA programming guide), MIG names
(``MIG-<uuid>`` or ``MIG-GPU-<uuid>/1/0``) and Level Zero sub-devices (``0.1``).
"""

from __future__ import annotations

import re

from hardpoint.errors import DeviceError

_NUMBER = re.compile(r"\d+(\.\d+)?")
_RANGE = re.compile(r"(\d+)-(\d+)")
_NAME = re.compile(r"(GPU|MIG)-[0-9A-Za-z/-]+")


def visible_devices(variable: str, value: str | None) -> tuple[str, ...] | None:
    """What each logical device is on the machine, in order; None if `value` is None (unset: all, as they are).

    An empty value, or ``-1``, hides everything; as in CUDA, what follows a ``-1`` is hidden too.

    Raises:
        DeviceError: an entry that is no index, range, UUID or MIG name, or one that is named twice.
    """
    if value is None:
        return None
    found: list[str] = []
    for entry in (part.strip() for part in value.split(",")):
        if entry == "-1" or (entry == "" and not found):
            break
        span = _RANGE.fullmatch(entry)
        if span:
            first, last = int(span[1]), int(span[2])
            if last < first:
                raise DeviceError(f"{variable}={value!r}: range {entry!r} runs backwards; write {last}-{first}.")
            found.extend(str(index) for index in range(first, last + 1))
        elif _NUMBER.fullmatch(entry) or _NAME.fullmatch(entry):
            found.append(entry)
        else:
            raise DeviceError(
                f"{variable}={value!r}: {entry!r} is no device index, range, UUID or MIG name. "
                f"Write for example {variable}=0,1."
            )
    twice = sorted({entry for entry in found if found.count(entry) > 1})
    if twice:
        raise DeviceError(f"{variable}={value!r} names {', '.join(twice)} more than once; name every device once.")
    return tuple(found)


def physical_name(variable: str | None, value: str | None, logical: int) -> str | None:
    """Index or name on the machine of a logical device; the index itself if nothing is hidden, None if not listed.

    Raises:
        DeviceError: the value cannot be read, see `visible_devices`.
    """
    listed = visible_devices(variable, value) if variable is not None else None
    if listed is None:
        return str(logical)
    return listed[logical] if logical < len(listed) else None


def uuid_in(physical: str | None) -> str | None:
    """`physical` itself if it is a full UUID or MIG name, else None."""
    if physical is None:
        return None
    full = re.fullmatch(r"(GPU|MIG)-[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", physical)
    return physical if full or physical.startswith("MIG-GPU-") else None

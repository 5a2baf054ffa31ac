"""Is a manifest what this model loads? A pure comparison, made before a byte of the update moves."""

from __future__ import annotations

import re
from collections.abc import Iterable

from hardpoint.errors import SyncError
from hardpoint.sync import Manifest, TensorSpec
from hardpoint_vllm.weight_transfer.first_load import FirstLoad

_SHOWN = 5
_EXPERT = re.compile(r"(?<=\.experts\.)\d+(?=\.)")


def check(manifest: Manifest, first: FirstLoad, *, experts_elsewhere: int = 0) -> None:
    """Refuse `manifest` unless it brings all that `first` took, as it took it, and nothing that it does not know.

    Args:
        experts_elsewhere: with expert parallelism, the number of logical experts: this rank was never offered those of
            other ranks, so they are known by their siblings' names.

    Raises:
        SyncError: names missing, extra, of another shape or dtype, up to five each with the total.
    """
    sent = {spec.name: spec for spec in manifest.tensors}
    siblings = {_EXPERT.sub("*", name): spec for name, spec in first.specs.items()} if experts_elsewhere else {}
    missing = [first.specs[name] for name in sorted(first.required - sent.keys())]
    extra, different = [], []
    for name, spec in sent.items():
        known = first.specs.get(name) or _sibling(name, siblings, experts_elsewhere)
        if known is None:
            extra.append(spec)
        elif (known.shape, known.dtype) != (spec.shape, spec.dtype):
            different.append(f"{spec} instead of {known.dtype}{list(known.shape)}")
    problems = [
        _listed("missing", missing),
        _listed("not of this model", extra),
        _listed("in another form", different),
    ]
    found = "; ".join(problem for problem in problems if problem)
    if found:
        raise SyncError(
            f"Update of epoch {manifest.epoch} refused before any tensor moved: {found}. Send the tensors that the "
            "checkpoint of this engine has, under its names, in its dtypes."
        )


def _sibling(name: str, siblings: dict[str, TensorSpec], experts: int) -> TensorSpec | None:
    numbers = _EXPERT.findall(name)
    if len(numbers) != 1 or int(numbers[0]) >= experts:
        return None
    return siblings.get(_EXPERT.sub("*", name))


def _listed(what: str, items: Iterable[object]) -> str:
    texts = [str(item) for item in items]
    if not texts:
        return ""
    more = f" and {len(texts) - _SHOWN} more" if len(texts) > _SHOWN else ""
    return f"{len(texts)} {what}: {', '.join(texts[:_SHOWN])}{more}"

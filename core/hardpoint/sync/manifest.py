"""What one update holds: epoch, and names, shapes and dtypes as in the checkpoint. Travels as bounded, checked JSON."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from hardpoint.errors import SyncError
from hardpoint.sync.dtypes import ITEMSIZE, dtype_name
from hardpoint.sync.json_object import json_object

if TYPE_CHECKING:
    import torch

FORMAT = "hardpoint.manifest"
VERSION = 1
DEFAULT_BUCKET_BYTES = 512 << 20


@dataclass(frozen=True)
class ManifestLimits:
    """What a reader accepts. The defaults hold a trillion parameters and bound what a bad peer can make us allocate.

    Attributes:
        message_bytes: encoded size; a tensor costs about 100 bytes.
        tensors: number of entries.
        total_bytes: sum over the tensors.
        bucket_bytes: largest bucket, of which each side holds two.
        name_length: characters of one name.
        dimensions: of one tensor.
    """

    message_bytes: int = 64 << 20
    tensors: int = 1 << 19
    total_bytes: int = 8 << 40
    bucket_bytes: int = 8 << 30
    name_length: int = 512
    dimensions: int = 8


LIMITS = ManifestLimits()


@dataclass(frozen=True)
class TensorSpec:
    """One tensor as the checkpoint has it. `dtype` is a torch name, for example ``"bfloat16"``."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    @classmethod
    def of(cls, name: str, tensor: torch.Tensor) -> TensorSpec:
        """Spec of a tensor in memory."""
        return cls(name, tuple(int(n) for n in tensor.shape), dtype_name(tensor.dtype))

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.elements * ITEMSIZE[self.dtype]

    def __str__(self) -> str:
        return f"{self.name} {self.dtype}{list(self.shape)}"


@dataclass(frozen=True)
class Manifest:
    """All tensors of one update, in the order they are sent.

    Attributes:
        epoch: number of the update; grows from one committed update to the next.
        tensors: dense entries, one per checkpoint name.
        bucket_bytes: payload bytes of one bucket, a multiple of `hardpoint.sync.buckets.ALIGNMENT`.

    Raises:
        SyncError: on construction, for a duplicate or unprintable name, an unknown dtype, a negative dimension, or
            anything beyond `LIMITS`; the sentence names the tensor.
    """

    epoch: int
    tensors: tuple[TensorSpec, ...]
    bucket_bytes: int = DEFAULT_BUCKET_BYTES

    def __post_init__(self) -> None:
        _check(self, LIMITS)

    @classmethod
    def of(
        cls,
        epoch: int,
        named_tensors: Mapping[str, torch.Tensor] | Iterable[tuple[str, torch.Tensor]],
        bucket_bytes: int = DEFAULT_BUCKET_BYTES,
    ) -> Manifest:
        """Manifest of tensors in memory (or on the meta device)."""
        pairs = named_tensors.items() if isinstance(named_tensors, Mapping) else named_tensors
        return cls(epoch, tuple(TensorSpec.of(name, tensor) for name, tensor in pairs), bucket_bytes)

    @cached_property
    def total_bytes(self) -> int:
        return sum(spec.nbytes for spec in self.tensors)

    def to_bytes(self) -> bytes:
        """Canonical JSON (same manifest, same bytes)."""
        body = {
            "format": FORMAT,
            "version": VERSION,
            "epoch": self.epoch,
            "bucket_bytes": self.bucket_bytes,
            "tensors": [[spec.name, list(spec.shape), spec.dtype] for spec in self.tensors],
        }
        data = json.dumps(body, separators=(",", ":"), sort_keys=True, ensure_ascii=True).encode()
        if len(data) > LIMITS.message_bytes:
            raise SyncError(
                f"The manifest of epoch {self.epoch} takes {len(data)} bytes, more than the "
                f"{LIMITS.message_bytes} that receivers accept. Send the model in several updates or shorten the names."
            )
        return data

    @classmethod
    def from_bytes(cls, data: bytes, limits: ManifestLimits = LIMITS) -> Manifest:
        """Read what a peer sent. SyncError, as a sentence, for anything but a well-formed manifest within `limits`."""
        if len(data) > limits.message_bytes:
            raise SyncError(f"Manifest refused: {len(data)} bytes, at most {limits.message_bytes} are accepted.")
        body = _object(data)
        if body.get("format") != FORMAT:
            raise SyncError(f"Manifest refused: format is {_short(body.get('format'))}, expected {FORMAT!r}.")
        if not _is_int(body.get("version")) or body["version"] != VERSION:
            raise SyncError(
                f"Manifest refused: version {_short(body.get('version'))} is not known here, expected {VERSION}. "
                "Install the same hardpoint version on the trainer and on the engine."
            )
        expected = {"format", "version", "epoch", "bucket_bytes", "tensors"}
        if set(body) != expected:
            odd = sorted(set(body) ^ expected)
            raise SyncError(f"Manifest refused: missing or unknown fields {_short(odd)}.")
        if not isinstance(body["tensors"], list):
            raise SyncError(f"Manifest refused: tensors must be a list, found {_short(body['tensors'])}.")
        if len(body["tensors"]) > limits.tensors:
            raise SyncError(f"Manifest refused: {len(body['tensors'])} tensors, at most {limits.tensors} are accepted.")
        tensors = tuple(_spec(index, entry) for index, entry in enumerate(body["tensors"]))
        manifest = cls(body["epoch"], tensors, body["bucket_bytes"])
        if limits != LIMITS:  # the constructor has checked those
            _check(manifest, limits)
        return manifest

    def digest(self) -> str:
        """SHA-256 of `to_bytes`, as hexadecimal."""
        return hashlib.sha256(self.to_bytes()).hexdigest()


def _object(data: bytes) -> dict[str, Any]:
    try:
        return json_object(data)
    except ValueError as error:
        raise SyncError(f"Manifest refused: {error}.") from None


def _spec(index: int, entry: object) -> TensorSpec:
    if not isinstance(entry, list) or len(entry) != 3:
        raise SyncError(f"Manifest refused: entry {index} must be [name, shape, dtype], found {_short(entry)}.")
    name, shape, dtype = entry
    if not isinstance(shape, list):
        raise SyncError(f"Manifest refused: shape of entry {index} must be a list, found {_short(shape)}.")
    return TensorSpec(name, tuple(shape), dtype)


def _check(manifest: Manifest, limits: ManifestLimits) -> None:
    if not _is_int(manifest.epoch) or not 0 <= manifest.epoch < 1 << 63:
        raise SyncError(f"Manifest refused: epoch must be an integer from 0 to 2^63-1, found {_short(manifest.epoch)}.")
    size = manifest.bucket_bytes
    if not _is_int(size) or not 64 <= size <= limits.bucket_bytes or size % 64:
        raise SyncError(
            f"Manifest refused: bucket_bytes must be a multiple of 64 from 64 to {limits.bucket_bytes}, "
            f"found {_short(size)}."
        )
    if len(manifest.tensors) > limits.tensors:
        raise SyncError(f"Manifest refused: {len(manifest.tensors)} tensors, at most {limits.tensors} are accepted.")
    seen: dict[str, int] = {}
    total = 0
    for index, spec in enumerate(manifest.tensors):
        _check_spec(index, spec, limits)
        if spec.name in seen:
            raise SyncError(
                f"Manifest refused: tensor {spec.name} is listed twice, as entries {seen[spec.name]} and {index}."
            )
        seen[spec.name] = index
        total += spec.nbytes
        if total > limits.total_bytes:
            raise SyncError(
                f"Manifest refused: up to tensor {spec.name} the update has {total} bytes, "
                f"at most {limits.total_bytes} are accepted."
            )


def _check_spec(index: int, spec: TensorSpec, limits: ManifestLimits) -> None:
    name = spec.name
    if not isinstance(name, str) or not name or len(name) > limits.name_length:
        raise SyncError(
            f"Manifest refused: the name of entry {index} must be text of 1 to {limits.name_length} characters, "
            f"found {_short(name)}."
        )
    if not name.isprintable():
        raise SyncError(f"Manifest refused: the name of entry {index}, {_short(name)}, holds unprintable characters.")
    if not isinstance(spec.dtype, str) or spec.dtype not in ITEMSIZE:
        raise SyncError(
            f"Manifest refused: tensor {name} has dtype {_short(spec.dtype)}; known are {', '.join(ITEMSIZE)}."
        )
    if len(spec.shape) > limits.dimensions:
        raise SyncError(
            f"Manifest refused: tensor {name} has {len(spec.shape)} dimensions, at most {limits.dimensions}."
        )
    for size in spec.shape:
        if not _is_int(size) or not 0 <= size <= limits.total_bytes:
            raise SyncError(
                f"Manifest refused: tensor {name} has shape {_short(list(spec.shape))}; "
                f"each size must be an integer from 0 to {limits.total_bytes}."
            )


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _short(value: object, limit: int = 80) -> str:
    # ascii(): what a peer sent must not reach a terminal or a log as control characters.
    try:
        text = ascii(value)
    except (ValueError, RecursionError):
        text = f"<{type(value).__name__}>"
    return text if len(text) <= limit else text[: limit - 3] + "..."

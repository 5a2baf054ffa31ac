from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from hardpoint.errors import SyncError
from hardpoint.sync import LIMITS, Manifest, ManifestLimits, TensorSpec
from hardpoint.sync.dtypes import ITEMSIZE, dtype_name, torch_dtype

names = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=20)
specs = st.builds(
    TensorSpec, names, st.lists(st.integers(0, 50), max_size=4).map(tuple), st.sampled_from(sorted(ITEMSIZE))
)
manifests = st.builds(
    Manifest,
    st.integers(0, 2**63 - 1),
    st.lists(specs, max_size=8, unique_by=lambda spec: spec.name).map(tuple),
    st.integers(1, 1000).map(lambda n: n * 64),
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def body(**changes: Any) -> dict[str, Any]:
    """A valid message with some fields replaced."""
    plain = {"format": "hardpoint.manifest", "version": 1, "epoch": 3, "bucket_bytes": 64, "tensors": []}
    return {**plain, **changes}


def encoded(value: object) -> bytes:
    return json.dumps(value).encode()


@given(manifests)
def test_reading_gives_what_was_written(manifest: Manifest) -> None:
    again = Manifest.from_bytes(manifest.to_bytes())
    assert again == manifest
    assert again.digest() == manifest.digest()


@given(manifests, manifests)
def test_digest_tells_manifests_apart(one: Manifest, other: Manifest) -> None:
    assert (one.digest() == other.digest()) == (one == other)


@given(st.binary(max_size=300))
@example(b"[" * 100_000)
@example(b'{"format":' + b"9" * 5000 + b"}")
@example(encoded(body(epoch=True)))
@example(encoded(body(tensors=[["a\x1b[2J", [1], "uint8"]])))
@example(encoded(body(tensors=[["\ud800", [1], "uint8"]])))
@example(b'{"format":"hardpoint.manifest","format":"hardpoint.manifest"}')
def test_garbage_is_refused_in_a_printable_sentence(data: bytes) -> None:
    with pytest.raises(SyncError) as refusal:
        Manifest.from_bytes(data)
    assert str(refusal.value).isprintable()
    assert len(str(refusal.value)) < 600


@given(
    st.sampled_from(["format", "version", "epoch", "bucket_bytes", "tensors", "more"]),
    json_values,
)
def test_any_field_of_any_type_is_read_or_refused(field: str, value: Any) -> None:
    try:
        manifest = Manifest.from_bytes(encoded(body(**{field: value})))
    except SyncError:
        return
    # As text: True is not 1 there.
    assert json.dumps(body(**{field: value}), sort_keys=True) == json.dumps(
        json.loads(manifest.to_bytes()), sort_keys=True
    )


@given(json_values)
def test_any_entry_is_read_or_refused(value: Any) -> None:
    try:
        manifest = Manifest.from_bytes(encoded(body(tensors=[value])))
    except SyncError:
        return
    assert [[spec.name, list(spec.shape), spec.dtype] for spec in manifest.tensors] == [value]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"version": 2}, "version 2 is not known here, expected 1"),
        ({"format": "pickle"}, "format is 'pickle'"),
        ({"epoch": -1}, "epoch must be"),
        ({"epoch": 2**63}, "epoch must be"),
        ({"bucket_bytes": 65}, "bucket_bytes must be a multiple of 64"),
        ({"bucket_bytes": LIMITS.bucket_bytes * 2}, "bucket_bytes must be"),
        ({"extra": 1}, "unknown fields"),
        ({"tensors": {}}, "tensors must be a list"),
        ({"tensors": [["w", [2], "float32"], ["w", [2], "float32"]]}, "w is listed twice, as entries 0 and 1"),
        ({"tensors": [["w", [2, -1], "float32"]]}, r"w has shape \[2, -1\]"),
        ({"tensors": [["w", [2.0], "float32"]]}, "w has shape"),
        ({"tensors": [["w", [True], "float32"]]}, "w has shape"),
        ({"tensors": [["w", [1] * 9, "float32"]]}, "w has 9 dimensions"),
        ({"tensors": [["w", [2], "object"]]}, "w has dtype 'object'"),
        ({"tensors": [["w", [2], "__class__"]]}, "w has dtype"),
        ({"tensors": [["", [2], "uint8"]]}, "name of entry 0"),
        ({"tensors": [["a\nb", [2], "uint8"]]}, "unprintable"),
        ({"tensors": [["w", [1 << 40, 1 << 40], "uint8"]]}, "up to tensor w the update has"),
    ],
)
def test_refusals_say_what_and_where(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SyncError, match=sentence):
        Manifest.from_bytes(encoded(body(**changes)))


def test_limits_of_the_reader_hold() -> None:
    data = Manifest(0, tuple(TensorSpec(f"w{n}", (64,), "uint8") for n in range(3)), 128).to_bytes()
    Manifest.from_bytes(data, ManifestLimits(tensors=3, total_bytes=192))
    for limits, sentence in (
        (ManifestLimits(message_bytes=len(data) - 1), "bytes, at most"),
        (ManifestLimits(tensors=2), "3 tensors, at most 2"),
        (ManifestLimits(total_bytes=191), "up to tensor w2"),
        (ManifestLimits(bucket_bytes=64), "bucket_bytes"),
        (ManifestLimits(name_length=1), "1 to 1 characters"),
    ):
        with pytest.raises(SyncError, match=sentence):
            Manifest.from_bytes(data, limits)


def test_specs_are_made_from_tensors() -> None:
    tensors = {"a": torch.zeros(2, 3, dtype=torch.bfloat16), "scalar": torch.tensor(1.0), "none": torch.empty(0, 4)}
    manifest = Manifest.of(1, tensors, 64)
    assert [str(spec) for spec in manifest.tensors] == ["a bfloat16[2, 3]", "scalar float32[]", "none float32[0, 4]"]
    assert manifest.total_bytes == 16
    with pytest.raises(SyncError, match="complex64 cannot be sent"):
        TensorSpec.of("c", torch.zeros(1, dtype=torch.complex64))


@pytest.mark.parametrize("name", sorted(ITEMSIZE))
def test_every_dtype_of_the_table_is_as_torch_has_it(name: str) -> None:
    assert torch_dtype(name).itemsize == ITEMSIZE[name]
    assert dtype_name(torch_dtype(name)) == name

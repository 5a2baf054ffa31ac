"""Comparison of tensors, with a sentence that shows where they differ first."""

from __future__ import annotations

import torch

# (rtol, atol) per dtype name; wider than torch.testing's for the small types, since a reduction may add in any order.
DEFAULT_TOLERANCE: dict[str, tuple[float, float]] = {
    "float64": (1e-7, 1e-9),
    "float32": (1e-5, 1e-6),
    "float16": (1e-2, 1e-3),
    "bfloat16": (2e-2, 1e-3),
    "float8_e4m3fn": (1.3e-1, 1e-2),
    "float8_e5m2": (2.6e-1, 1e-2),
    "complex64": (1e-5, 1e-6),
    "complex128": (1e-7, 1e-9),
}


def dtype_name(dtype: torch.dtype) -> str:
    """``"bfloat16"`` for ``torch.bfloat16``."""
    return str(dtype).removeprefix("torch.")


def bitwise_difference(actual: torch.Tensor, expected: torch.Tensor) -> str | None:
    """None if two host tensors have the same shape, dtype and bits, else where they differ first. NaN equals itself."""
    shape = _shape_difference(actual, expected)
    if shape is not None:
        return shape
    width = actual.element_size()
    left, right = _bytes(actual, width), _bytes(expected, width)
    wrong = (left != right).any(dim=1).nonzero().flatten()
    return None if wrong.numel() == 0 else _first(actual, expected, wrong)


def close_difference(actual: torch.Tensor, expected: torch.Tensor, rtol: float, atol: float) -> str | None:
    """None if ``|actual - expected| <= atol + rtol * |expected|`` everywhere, else where it does not hold first."""
    shape = _shape_difference(actual, expected)
    if shape is not None:
        return shape
    wide = torch.complex128 if actual.is_complex() else torch.float64
    right = torch.isclose(actual.to(wide), expected.to(wide), rtol=rtol, atol=atol, equal_nan=True)
    wrong = (~right).flatten().nonzero().flatten()
    return None if wrong.numel() == 0 else _first(actual, expected, wrong)


def _bytes(tensor: torch.Tensor, width: int) -> torch.Tensor:
    # A tensor of one element counts as contiguous with any stride, which a view as bytes refuses; a clone has stride 1.
    flat = tensor.clone(memory_format=torch.contiguous_format).reshape(-1)
    return flat.view(torch.uint8).reshape(-1, width)


def _shape_difference(actual: torch.Tensor, expected: torch.Tensor) -> str | None:
    if actual.shape != expected.shape:
        return f"expected shape {tuple(expected.shape)}, got {tuple(actual.shape)}"
    if actual.dtype != expected.dtype:
        return f"expected dtype {dtype_name(expected.dtype)}, got {dtype_name(actual.dtype)}"
    return None


def _first(actual: torch.Tensor, expected: torch.Tensor, wrong: torch.Tensor) -> str:
    flat = int(wrong[0])
    place = tuple(int(i) for i in torch.unravel_index(torch.tensor(flat), actual.shape)) if actual.dim() else ()
    found = actual.reshape(-1)[flat : flat + 1].tolist()[0]
    wanted = expected.reshape(-1)[flat : flat + 1].tolist()[0]
    return (
        f"{wrong.numel()} of {actual.numel()} elements differ, first at {list(place)}: expected {wanted}, got {found}"
    )

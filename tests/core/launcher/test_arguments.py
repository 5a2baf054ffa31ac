"""Arguments by name, their one device, and refusals that say which argument, where, and that nothing ran."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from hardpoint.errors import LaunchRefused
from hardpoint.launcher.arguments import device_of, kernel_name, named_arguments, refuse_wrong_dtypes, tensors_of
from hardpoint.launcher.python_kernel import facts_of, python_kernel
from support.fake_triton import on


def kernel(out: torch.Tensor, x: torch.Tensor, *parts: torch.Tensor, factor: float = 2.0) -> None:
    raise AssertionError("looking at arguments must not run the kernel")


def test_arguments_come_in_the_kernels_order_with_its_defaults() -> None:
    assert named_arguments(kernel, (1,), {"x": 2}) == {"out": 1, "x": 2, "parts": (), "factor": 2.0}
    assert list(named_arguments(kernel, (), {"factor": 3.0, "x": 2, "out": 1})) == ["out", "x", "parts", "factor"]
    assert named_arguments(kernel, (1, 2, 3, 4), {})["parts"] == (3, 4)


@pytest.mark.parametrize(
    ("args", "kwargs", "reason"),
    [
        ((1,), {}, "missing a required argument: 'x'"),
        ((1, 2), {"x": 3}, "multiple values for argument 'x'"),
        ((1, 2), {"y": 3}, "unexpected keyword argument 'y'"),
    ],
)
def test_arguments_that_the_kernel_cannot_take_are_refused(args: Any, kwargs: Any, reason: str) -> None:
    with pytest.raises(
        LaunchRefused, match=f"kernel kernel cannot take these arguments: .*{reason}.*nothing was launched"
    ):
        named_arguments(kernel, args, kwargs)


def test_what_cannot_be_called_is_no_kernel() -> None:
    with pytest.raises(LaunchRefused, match="expected a Python function as kernel, got 'scale'"):
        named_arguments("scale", (), {})  # type: ignore[arg-type]


def test_a_kernel_without_a_name_is_named_by_what_it_is() -> None:
    assert kernel_name(kernel) == "kernel"
    assert "object" in kernel_name(object())


def test_tensors_are_found_in_any_nesting_and_labelled_by_their_place() -> None:
    a, b, c, d = (torch.zeros(1) for _ in range(4))
    found = dict(tensors_of({"x": a, "n": 3, "parts": [b, (c, "text")], "state": {"conv": d}, "none": None}))
    assert list(found) == ["x", "parts[0]", "parts[1][0]", "state['conv']"]
    assert [*found.values()] == [a, b, c, d]


def test_the_device_is_that_of_all_tensors() -> None:
    x, y = on(1, torch.zeros(2)), on(1, torch.zeros(2))
    assert device_of("k", {"n": 1, "x": x, "parts": [y]}, "cuda") == 1
    assert device_of("k", {"parts": [y]}, "cuda") == 1
    assert device_of("k", {"x": torch.zeros(2)}, "cpu") == 0  # the host has no index


def test_no_tensor_is_refused() -> None:
    with pytest.raises(LaunchRefused, match=r"kernel k has no tensor among its arguments.*nothing was launched"):
        device_of("k", {"n": 1, "parts": []}, "cuda")


def test_tensors_elsewhere_are_refused_by_label_and_place() -> None:
    x, host = on(1, torch.zeros(2)), torch.zeros(2)
    with pytest.raises(
        LaunchRefused, match=r"argument parts\[0\] is elsewhere \(x on cuda:1, parts\[0\] on cpu\); copy it"
    ):
        device_of("k", {"x": x, "parts": [host]}, "cuda")
    with pytest.raises(LaunchRefused, match=r"arguments a, b are elsewhere \(a on cpu, b on cpu\); copy them"):
        device_of("k", {"a": host, "b": host}, "cuda")


def test_two_devices_are_refused_by_label_and_place() -> None:
    x, y = on(0, torch.zeros(2)), on(1, torch.zeros(2))
    with pytest.raises(LaunchRefused, match=r"all tensors on one device, found x on cuda:0, y on cuda:1"):
        device_of("k", {"x": x, "y": y}, "cuda")


def test_dtypes_are_checked_for_what_is_declared_and_given() -> None:
    @python_kernel(dtypes={"x": ("float32", "bfloat16"), "bias": ("float32",)})
    def typed(x: Any, out: Any, bias: Any = None) -> None: ...

    facts = facts_of(typed)
    half, full = torch.zeros(1, dtype=torch.float16), torch.zeros(1)
    refuse_wrong_dtypes("typed", {"x": full, "out": half, "bias": None}, facts)
    refuse_wrong_dtypes("typed", {"x": full.bfloat16(), "out": half, "bias": full}, facts)
    with pytest.raises(LaunchRefused, match="argument x has dtype float16, and the kernel takes bfloat16 or float32"):
        refuse_wrong_dtypes("typed", {"x": half, "out": half, "bias": None}, facts)
    with pytest.raises(LaunchRefused, match="argument bias has dtype float16"):
        refuse_wrong_dtypes("typed", {"x": full, "out": full, "bias": half}, facts)

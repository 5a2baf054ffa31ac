"""Visibility variables, each as its own driver reads it: numbers, ranges, names, order, and what is refused."""

from __future__ import annotations

import pytest

from hardpoint.device.visibility import RULES, visible_devices
from hardpoint.errors import DeviceError

UUID = "GPU-8932f937-d72c-4106-c12f-20bd9faed9f6"
MIG = "MIG-8932f937-d72c-4106-c12f-20bd9faed9f6"
CUDA, ZE, ONEAPI = "CUDA_VISIBLE_DEVICES", "ZE_AFFINITY_MASK", "ONEAPI_DEVICE_SELECTOR"
ASCEND, CONTAINER, FOREIGN = "ASCEND_RT_VISIBLE_DEVICES", "ASCEND_VISIBLE_DEVICES", "ACME_VISIBLE_DEVICES"


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        (CUDA, None, None),
        (CUDA, "", ()),
        (CUDA, " ", ()),
        (CUDA, "-1", ()),
        (CUDA, "NoDevFiles", ()),
        (CUDA, "0", ("0",)),
        (CUDA, "2,0", ("2", "0")),
        (CUDA, " 2 , 0 ", ("2", "0")),
        (CUDA, "1,-1,0", ("1",)),
        (CUDA, UUID, (UUID,)),
        (CUDA, "GPU-8932f937", ("GPU-8932f937",)),
        (CUDA, f"{MIG},{UUID}", (MIG, UUID)),
        (CUDA, f"MIG-{UUID}/1/0", (f"MIG-{UUID}/1/0",)),
        (ZE, None, None),
        (ZE, "", None),
        (ZE, "3,1", ("1", "3")),
        (ZE, "0, 2,0", ("0", "2")),
        (ZE, "0.1,1.0", ("0.1", "1.0")),
        (ZE, "10,9", ("9", "10")),
        (ONEAPI, "level_zero:1,0", ("0", "1")),
        (ONEAPI, "level_zero:gpu", None),
        (ONEAPI, "*:*", None),
        (ONEAPI, "opencl:cpu;level_zero:2", ("2",)),
        (ONEAPI, "opencl:gpu", ()),
        (ONEAPI, "!level_zero:0", None),
        (ASCEND, "", ()),
        (ASCEND, "2,3,7", ("2", "3", "7")),
        (ASCEND, "1,2,-1,3", ("1", "2")),
        (CONTAINER, "void", ()),
        (CONTAINER, "0-2,4", ("0", "1", "2", "4")),
        (CONTAINER, "Ascend910-3,Ascend910-1", ("1", "3")),
        (CONTAINER, "Ascend310P-0", ("0",)),
        (FOREIGN, "5,0-1", ("5", "0", "1")),
        (FOREIGN, "0.1", ("0.1",)),
    ],
)
def test_values_that_a_driver_reads(variable: str, value: str | None, expected: tuple[str, ...] | None) -> None:
    assert visible_devices(variable, value, {}) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("0", ("0",)),
        ("0.0", ("0.0",)),
        ("1.1, 1.2", ("1.1+1.2",)),
        ("0.2, 1.3, 1.0, 0.3", ("0.2+0.3", "1.0+1.3")),
        ("0.1,0", ("0",)),
    ],
)
def test_sub_devices_of_a_card_are_one_device_where_the_hierarchy_says_so(
    value: str, expected: tuple[str, ...]
) -> None:
    """The examples of the Level Zero specification."""
    assert visible_devices(ZE, value, {"ZE_FLAT_DEVICE_HIERARCHY": "COMPOSITE"}) == expected


@pytest.mark.parametrize(
    ("variable", "value", "sentence"),
    [
        (CUDA, "a", "'a' is no device index or UUID or MIG name; CUDA hides it and what follows"),
        (CUDA, "0,,1", "'' is no device index"),
        (CUDA, "0,1,0", "names 0 more than once"),
        (CUDA, "cuda:0", "'cuda:0' is no device index"),
        (CUDA, "0-3", r"'0-3' is a range, CUDA hides it and what follows. Write 0,1,2,3\."),
        (CUDA, "0.1", "'0.1' is a sub-device"),
        (ZE, "0-3", "'0-3' is a range, torch.xpu .* refuses to count devices by it. Write 0,1,2,3"),
        (ZE, "-1", "'-1' is no device index or sub-device"),
        (ZE, "GPU-1", "'GPU-1' is a UUID"),
        (ONEAPI, "0,1", r"'0,1' has no backend; SYCL ends the process. Write for example .*=level_zero:0,1\."),
        (ASCEND, "0-3", r"'0-3' is a range, the driver reads only what stands before it. Write 0,1,2,3\."),
        (ASCEND, "1, 2", "' 2' is no device index; the driver reads only what stands before it"),
        (ASCEND, "3,1", r"does not ascend; torch_npu sees no device then. Write ASCEND_RT_VISIBLE_DEVICES=1,3\."),
        (ASCEND, "1,1", "names 1 more than once"),
        (CONTAINER, "3-1", "runs backwards; write 1-3"),
        (FOREIGN, "0-2,1", "names 1 more than once"),
    ],
)
def test_what_a_driver_reads_otherwise_than_it_looks_is_refused(variable: str, value: str, sentence: str) -> None:
    with pytest.raises(DeviceError, match=sentence) as caught:
        visible_devices(variable, value, {})
    assert str(caught.value).startswith(f"{variable}={value!r}")


def test_every_rule_says_where_it_can_be_read() -> None:
    assert all(rule.source and rule.otherwise for rule in RULES.values())

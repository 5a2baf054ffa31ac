"""What is known about Ascend NPUs, HCCL and ACL graphs, as data with sources. Nothing here asks a device."""

from __future__ import annotations

from dataclasses import dataclass

from hardpoint import Capabilities

VARIABLE = "ASCEND_RT_VISIBLE_DEVICES"
MARK = "npu_rules"

# float64 has kernels on the AI CPU only, and not for everything; complex and float8 have conversions at most.
DTYPES = frozenset({"float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"})

# Ascend/pytorch, torch_npu/csrc/distributed, `kScalarTypeToHcclDataType`, also moves uint8, bool, float64 and, newly,
# float8. HCCL adds up only these (HcclAllReduce in the CANN reference; int64 not on all cards): whatever cannot be
# added up in its own type travels as bytes, which is what vllm-ascend's own table (pyhccl_wrapper.py:64-82) comes to.
COMMUNICATION_DTYPES = frozenset({"float32", "float16", "bfloat16", "int32", "int8"})

# The same file, `hcclOp`: no AVG. It is refused by name; divide a sum instead.
REDUCE_OPS = frozenset({"sum", "min", "max", "prod"})

# ACL format numbers (vllm-ascend utils.py, ACL_FORMAT_FRACTAL_ND and ACL_FORMAT_FRACTAL_NZ).
ND = 2
NZ = 29
NZ_NAME = "NZ"
# vllm-ascend utils.py:249-286: float32 never goes to NZ; the cast knows these.
NZ_DTYPES = frozenset({"float16", "bfloat16", "int8"})

# Triton-Ascend refuses, or starts only part of, a grid whose product is larger (vllm-ascend ops/triton: bincount.py:56,
# rotary_embedding.py:454, layernorm_guard.py:12).
PROGRAMS = 65_535

# 2,048 streams on a device, of which vllm-ascend leaves 248 to everything but graphs (0.18, utils.py:460-464,
# and its design document ACL_Graph.md). Beyond them capture fails with 207008 and takes the device with it (vllm-ascend
# issues 9564 and 3869).
GRAPH_STREAMS = 1_800


@dataclass(frozen=True)
class KnownBad:
    """Something that makes graph capture fail, and the way out.

    Attributes:
        sign: text of the driver's error, or ``VARIABLE=value`` of a setting that forbids captures.
        advice: what it means and what to do, as the end of a sentence.
        source: where it was reported.
    """

    sign: str
    advice: str
    source: str


# Settings under which no capture can work: known before it is tried.
GRAPH_CONFLICTS: tuple[KnownBad, ...] = (
    KnownBad(
        "ASCEND_LAUNCH_BLOCKING=1",
        "every launch is waited for, which a capture forbids; unset it",
        "vllm-ascend 0.23, platform.py:645-654",
    ),
)
# Errors of a capture that say nothing by themselves.
GRAPH_ERRORS: tuple[KnownBad, ...] = (
    KnownBad(
        "207008",
        "the device has no stream left; capture fewer batch sizes",
        "vllm-ascend 0.23, compilation/acl_graph.py:28-47, issues 9564 and 3869",
    ),
    KnownBad(
        "alloc sq cq fail",
        "the driver runs out of queues; it takes HDK 25.5.1 or newer",
        "vllm-ascend 0.26, compilation/acl_graph.py:33, 207",
    ),
)


def capabilities(*, graph: bool, sleep: bool) -> Capabilities:
    """The claims. Sleep keeps addresses on NPU, so that graphs and sleep go together."""
    return Capabilities(
        dtypes=DTYPES,
        communication_dtypes=COMMUNICATION_DTYPES,
        reduce_ops=REDUCE_OPS,
        graph=graph,
        sleep=sleep,
        streams=True,
        sparse_formats=frozenset({NZ_NAME}),
        extras={
            MARK: "grids and graph streams stay within the chip's limits, buffers are zero, graph tasks take updates"
        },
    )

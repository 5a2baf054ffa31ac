"""What is known about Intel GPUs and XCCL, as data, each fact with its source. Nothing here asks a device."""

from __future__ import annotations

from dataclasses import dataclass

from hardpoint import Capabilities

VARIABLE = "ZE_AFFINITY_MASK"
MARK = "xpu_rules"

# torch-xpu-ops implements these on every card. float64 needs the aspect fp64, which Arc lacks (intel/torch-xpu-ops
# issue 1742), and one set of claims has to hold on all cards; float8 has conversions and storage only.
DTYPES = frozenset({"float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"})

# intel/torch-xpu-ops, src/xccl/ProcessGroupXCCL.cpp, `xcclDatatypes`: int16 is absent. float8 is there "for
# non-reduction ops" only, and bool as uint8: what cannot be added up in its own type travels as bytes.
COMMUNICATION_DTYPES = frozenset({"float32", "float64", "float16", "bfloat16", "int64", "int32", "int8", "uint8"})

# The same file, `xcclOps`: AVG under XCCL_HAS_AVG, which is oneCCL 2021.15 and newer. verl issue 7917 met it missing.
REDUCE_OPS = frozenset({"sum", "min", "max", "prod"})
ONECCL_WITH_AVG = (2021, 15)

# torch.xpu.XPUGraph and torch.xpu.graph: absent before.
TORCH_WITH_GRAPHS = "2.11"


@dataclass(frozen=True)
class KnownBad:
    """A configuration in which XCCL is known to fail, and what is done about it.

    Attributes:
        name: for messages.
        reason: what goes wrong, as the end of a sentence that begins with the rank.
        source: where it was reported.
        one_card: the affinity mask shows the process a single card.
        masks_differ: the ranks' affinity masks are not the same.
        oneccl: versions from the first to before the second; None for all.
        device: part of the device's name; "" for all.
        unless: variable and value that make it work, ("", "") if none does.
    """

    name: str
    reason: str
    source: str
    one_card: bool = False
    masks_differ: bool = False
    oneccl: tuple[tuple[int, ...], tuple[int, ...]] | None = None
    device: str = ""
    unless: tuple[str, str] = ("", "")


# Whatever matches sends the group through host memory (`hardpoint.communicator.HostStaged`), said in one log line.
KNOWN_BAD: tuple[KnownBad, ...] = (
    KnownBad(
        name="one card per process",
        reason="XCCL hangs in its first collective when ZE_AFFINITY_MASK shows each process a single card",
        source="huggingface/trl issue 6786 and pull request 6787",
        one_card=True,
    ),
    KnownBad(
        name="masks that differ",
        reason="oneCCL cannot reach across processes whose ZE_AFFINITY_MASK names other cards, and hangs",
        source="intel/llm-scaler issue 178",
        masks_differ=True,
    ),
    KnownBad(
        name="B60 with oneCCL 2022",
        reason="all-reduce hangs on Arc Pro B60 with oneCCL 2022, but for the ring algorithm",
        source="uxlfoundation/oneCCL issue 215, vllm-project/vllm issue 50545",
        oneccl=((2022,), (2023,)),
        device="B60",
        unless=("CCL_ALLREDUCE", "ring"),
    ),
)


def capabilities(oneccl: tuple[int, ...], *, graph: bool, sleep: bool) -> Capabilities:
    """Claims for a oneCCL of this version (empty: not known). Graphs and sleep exclude each other here."""
    average = {"avg"} if oneccl >= ONECCL_WITH_AVG else set()
    return Capabilities(
        dtypes=DTYPES,
        communication_dtypes=COMMUNICATION_DTYPES,
        reduce_ops=REDUCE_OPS | average,
        graph=graph,
        sleep=sleep,
        streams=True,
        extras={
            MARK: "buffers are zero, expert ranks meet before MoE collectives, known-bad XCCL set-ups go by the host"
        },
    )

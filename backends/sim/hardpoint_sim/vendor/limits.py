"""What the simulated chip and its libraries cannot do, as data.

Stated here and not taken from the backends: a backend's own table, if it claims too much, has to run into these.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

_PLAIN = frozenset({"float32", "float16", "bfloat16", "int64", "int32", "int8"})


@dataclass(frozen=True)
class LibraryLimits:
    """A native collective library.

    Attributes:
        name: as torch.distributed calls it.
        version: of the library, for tables of known-bad ones.
        dtypes: dtype names that it moves.
        reduce_dtypes: dtype names that it adds up.
        reduce_ops: names out of ``sum, avg, min, max, prod``.
        one_card_mask: variable that, where it names exactly one device, makes every collective hang.
        late_rank_hangs: gathers and scatters of a communicator called ``moe/...`` hang unless its ranks have met by
            `barrier` right before.
    """

    name: str = "gloo"
    version: tuple[int, ...] = ()
    dtypes: frozenset[str] | None = None
    reduce_dtypes: frozenset[str] | None = None
    reduce_ops: frozenset[str] | None = None
    one_card_mask: str | None = None
    late_rank_hangs: bool = False


@dataclass(frozen=True)
class Limits:
    """One simulated accelerator. None, and an empty set, mean no limit.

    Attributes:
        library: its collective library; None for the simulator's own.
        missing_dtypes: dtype names without arithmetic: computing in them fails, storing and copying does not.
        graph_streams: streams that live graphs may hold on one device.
        programs: most programs of one launch, the product of its grid.
        private_formats: ACL number and name of the formats that `format_cast` knows besides the plain one.
    """

    library: LibraryLimits | None = None
    missing_dtypes: frozenset[str] = frozenset()
    graph_streams: int | None = None
    programs: int | None = None
    private_formats: tuple[tuple[int, str], ...] = ()


LIMITS: MappingProxyType[str, Limits] = MappingProxyType(
    {
        "xpu": Limits(
            # torch-xpu-ops, src/xccl/ProcessGroupXCCL.cpp, xcclDatatypes and xcclOps: AVG only from oneCCL 2021.15 on.
            library=LibraryLimits(
                name="xccl",
                version=(2021, 14),
                dtypes=_PLAIN | {"float64", "uint8", "bool", "float8_e4m3fn", "float8_e5m2"},
                reduce_dtypes=_PLAIN | {"float64", "uint8"},
                reduce_ops=frozenset({"sum", "min", "max", "prod"}),
                one_card_mask="ZE_AFFINITY_MASK",
                late_rank_hangs=True,
            ),
            missing_dtypes=frozenset({"float64", "complex128"}),  # Arc; data-centre cards have them
        ),
        "npu": Limits(
            # torch_npu, csrc/distributed: kScalarTypeToHcclDataType without float8, which is new there; hcclOp.
            library=LibraryLimits(
                name="hccl",
                version=(8, 1),
                dtypes=_PLAIN | {"float64", "int16", "uint8", "bool"},
                reduce_dtypes=_PLAIN | {"int16"},
                reduce_ops=frozenset({"sum", "min", "max", "prod"}),
            ),
            missing_dtypes=frozenset({"float64", "complex128", "complex64"}),
            graph_streams=8,
            programs=65_535,
            private_formats=((29, "NZ"),),
        ),
    }
)


def limits_of(profile: str) -> Limits:
    """Limits under the profile's name up to its first ``-`` (``xpu-sleep`` is an ``xpu``); none for a name without."""
    return LIMITS.get(profile.partition("-")[0], Limits())

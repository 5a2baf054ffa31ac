"""Laws of `Capabilities`: what is declared is there and right, and what is not declared is refused aloud."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.distributed as dist

from hardpoint.communicator.protocol import Rendezvous
from hardpoint.conformance import claims
from hardpoint.conformance.claims import GRAPH, SLEEP, STREAMS, Claim
from hardpoint.conformance.context import LawContext
from hardpoint.conformance.law import Law, law
from hardpoint.conformance.laws._kernels import add_kernel
from hardpoint.conformance.laws._tagged import bytes_less, numbers, tagged
from hardpoint.conformance.laws._work import complete, late_result
from hardpoint.errors import CommunicatorError, LifecycleError

REDUCE_OPS = ("sum", "avg", "min", "max", "prod")
FLOATS = ("float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2")
INTEGERS = ("int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8")
COMPLEX = ("complex128", "complex64")
DTYPES = (*FLOATS, *COMPLEX, *INTEGERS, "bool")
SHARED = Claim("ranks share a device", lambda capabilities: capabilities.ranks_share_device)


def telling(name: str) -> torch.Tensor:
    """Host values ``[12]`` that no narrower type carries: the largest, the smallest, and the finest steps at 1."""
    dtype: torch.dtype = getattr(torch, name)
    if dtype == torch.bool:
        return torch.tensor([True, False, True, True] * 3)
    if name in INTEGERS:
        info = torch.iinfo(dtype)
        odd = info.max // 2 | 1
        whole = [info.min, info.max, odd, odd - 1, odd - 2, 1, 0, 2, 3, 5, 100, 101]
        return torch.tensor([min(value, (1 << 63) - 1) for value in whole], dtype=torch.int64).to(dtype)
    real = {"complex128": "float64", "complex64": "float32"}.get(name, name)
    limits = torch.finfo(getattr(torch, real))
    fine = [1.0 + limits.eps, 1.0 + 3 * limits.eps, 1.0 - limits.eps, -(1.0 + limits.eps)]
    values = [*fine, limits.max / 4, -limits.max / 4, limits.tiny * 4, 0.0, 0.5, 1.5, -2.0, 3.0]
    host = torch.tensor(values, dtype=torch.float64)
    return torch.complex(host, host.flip(0)).to(dtype) if name in COMPLEX else host.to(dtype)


def _computes(name: str) -> Callable[[LawContext], None]:
    dtype: torch.dtype = getattr(torch, name)

    def check(context: LawContext) -> None:
        host = telling(name)
        steps: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]]
        if dtype == torch.bool:
            steps = {
                "and": lambda x, y: x & y,
                "or": lambda x, y: x | y,
                "xor": lambda x, y: x ^ y,
                "not": lambda x, y: ~x,
            }
        else:
            steps = {
                "x + y": lambda x, y: x + y,
                "x - y": lambda x, y: x - y,
                "x * y": lambda x, y: x * y,
                "in place": lambda x, y: x.clone().add_(y),
            }
        if name not in COMPLEX:
            steps["where(x == y)"] = lambda x, y: torch.where(x == y, x, y)
        for index in context.device_indices:
            x, y = context.to_device(host, index), context.to_device(host.roll(5), index)
            context.check(x.dtype == dtype, f"a tensor of {name} copied to device {index} is {x.dtype}")
            context.equal(x, host, f"values of {name} copied to device {index} and back")
            for what, step in steps.items():
                expected = step(host, host.roll(5))
                context.equal(step(x, y), expected, f"{what} of {name} on device {index}")
        if dtype != torch.bool:
            x, out = context.to_device(host), context.to_device(host.roll(5))
            context.backend.launcher.launch(add_kernel(), out, x)
            context.equal(out, host.roll(5) + host, f"a kernel that adds {name}")
        if name in FLOATS[:4]:
            small = (torch.arange(64) % 5 - 2).to(dtype).reshape(8, 8)
            product = context.to_device(small) @ context.to_device(small)
            context.equal(product, (small.double() @ small.double()).to(dtype), f"a matrix product of {name}")
            total = context.to_device(host[:4].abs()).sum()
            context.close(total, host[:4].abs().sum(), f"a sum of {name}")

    return check


dtype_laws: tuple[Law, ...] = tuple(
    law(
        part="capabilities",
        id=f"capabilities.computes-{name.replace('_', '-')}",
        claim=claims.dtype(name),
        deadline=30,
        statement=f"Arithmetic in {name} gives what the host gives in {name}, to the last bit: nothing is narrowed.",
    )(_computes(name))
    for name in DTYPES
    if hasattr(torch, name)
)


def _carries(name: str) -> Callable[[LawContext], None]:
    def check(context: LawContext) -> None:
        group, world = context.communicator(), context.world_size
        parts = [telling(name).roll(rank) for rank in range(world)]
        mine = context.to_device(parts[context.rank])
        root = world - 1
        moved = mine.clone()
        group.broadcast(moved, src=root)
        context.equal(moved, parts[root], f"broadcast of {name}")
        output = context.to_device(torch.cat(parts))
        output.zero_()
        group.all_gather(output, mine)
        context.equal(output, torch.cat(parts), f"all_gather of {name}")
        context.check(output.dtype == parts[0].dtype, f"all_gather of {name} left {output.dtype}")
        if name == "bool" or name in COMPLEX:
            return
        # The others bring zeros: the sum is then one rank's values, exactly, in any order of addition.
        for owner in range(world):
            value = context.to_device(parts[owner] if context.rank == owner else torch.zeros_like(parts[owner]))
            group.all_reduce(value)
            context.equal(value, parts[owner], f"all_reduce of {name}, only rank {owner} brings anything but zeros")

    return check


communication_laws: tuple[Law, ...] = tuple(
    law(
        part="capabilities",
        id=f"capabilities.carries-{name.replace('_', '-')}",
        claim=claims.communication_dtype(name),
        ranks=2,
        deadline=30,
        statement=f"Collectives carry {name} to the last bit, and add it up without going through a narrower type.",
    )(_carries(name))
    for name in DTYPES
    if hasattr(torch, name)
)


def _expected(op: str, parts: list[torch.Tensor]) -> torch.Tensor:
    stacked = torch.stack(parts).double()
    if op == "avg":
        return stacked.mean(0)
    if op == "prod":
        return stacked.prod(0)
    return stacked.sum(0) if op == "sum" else stacked.amin(0) if op == "min" else stacked.amax(0)


def _reduces(op: str) -> Callable[[LawContext], None]:
    def check(context: LawContext) -> None:
        group, world = context.communicator(), context.world_size
        for name in ("float32", "float64", "bfloat16", "int64", "int32"):
            integer = name in INTEGERS
            if name not in context.backend.capabilities.communication_dtypes or (op == "avg" and integer):
                continue
            dtype = getattr(torch, name)
            # Small and even, of both signs, each rank's largest elsewhere: exact in every type, and no two ops agree.
            rows = torch.arange(world * 4)
            parts = [((rows * (rank + 1) + 3 * rank) % 7 * 2 - 6).to(dtype) for rank in range(world)]
            expected = _expected(op, parts).to(dtype)
            others = [_expected(other, parts).to(dtype) for other in REDUCE_OPS if other != op]
            assert not any(torch.equal(expected, other) for other in others), "the values do not tell the ops apart"
            value = context.to_device(parts[context.rank])
            group.all_reduce(value, op=op)
            context.equal(value, expected, f"all_reduce of {name} with op={op!r} over {world} ranks")
            mine = context.to_device(parts[context.rank])
            output = context.to_device(torch.zeros(4, dtype=dtype))
            group.reduce_scatter(output, mine, op=op)
            own = expected[context.rank * 4 : context.rank * 4 + 4]
            context.equal(output, own, f"reduce_scatter of {name} with op={op!r} over {world} ranks")
            counts = [4 * world - 1, *[0] * (world - 2), 1]
            begin = sum(counts[: context.rank])
            output = context.to_device(torch.zeros(counts[context.rank], dtype=dtype))
            group.reduce_scatter_ragged(output, mine, counts, op=op)
            own = expected[begin : begin + counts[context.rank]]
            context.equal(output, own, f"reduce_scatter_ragged of {name} with op={op!r} over {world} ranks")

    return check


reduce_laws: tuple[Law, ...] = tuple(
    law(
        part="capabilities",
        id=f"capabilities.reduces-with-{op}",
        claim=claims.reduce_op(op),
        ranks=2,
        deadline=30,
        statement=f"Every reducing collective with op={op!r} leaves the {op} over all ranks, and not another one.",
    )(_reduces(op))
    for op in REDUCE_OPS
)


@law(part="capabilities", id="capabilities.names-are-known", deadline=30)
def names_are_known(context: LawContext) -> None:
    """Every declared dtype and reduce op is one that this kit has a law for: a claim that nobody checks is refused."""
    declared = context.backend.capabilities
    named = {law.id for laws in (dtype_laws, communication_laws, reduce_laws) for law in laws}

    def check(what: str, names: frozenset[str], prefix: str) -> None:
        unknown = sorted(name for name in names if f"{prefix}-{name.replace('_', '-')}" not in named)
        context.check(not unknown, f"{what} declares {', '.join(unknown)}, for which there is no law")

    check("dtypes", declared.dtypes, "capabilities.computes")
    check("communication_dtypes", declared.communication_dtypes, "capabilities.carries")
    check("reduce_ops", declared.reduce_ops, "capabilities.reduces-with")


@law(part="capabilities", id="capabilities.extras-are-proven", deadline=30)
def extras_are_proven(context: LawContext) -> None:
    """Every further claim, of `extras` and of `sparse_formats`, has a law of the kit or of the backend's own."""
    from hardpoint.conformance.registry import laws

    declared = context.backend.capabilities
    own = {case.claim for case in context.extra_cases}
    claimed = {law.claim.name for law in laws().values() if law.claim is not None}
    known = {name for name in (*declared.extras, *declared.sparse_formats) if claims.extra(name).name in claimed}
    known |= {name for name in declared.sparse_formats if claims.sparse_format(name).name in claimed}
    proven = own | known
    for what, names in (("extras", set(declared.extras)), ("sparse_formats", set(declared.sparse_formats))):
        bare = sorted(names - proven)
        context.check(
            not bare,
            f"{what} declares {', '.join(bare)} and no law proves it; return an ExtraCase with claim='...' from "
            "hardpoint_conformance, or do not declare it",
        )
    for name, sentence in declared.extras.items():
        context.check(str(sentence).strip(), f"the claim {name} comes without a sentence that says what it is")
    unclaimed = sorted(claim for claim in own if claim and claim not in {*declared.extras, *declared.sparse_formats})
    context.check(not unclaimed, f"cases prove {', '.join(unclaimed)}, which is not declared")


@law(part="capabilities", id="capabilities.undeclared-reductions-are-refused", ranks=2, deadline=30)
def undeclared_reductions_are_refused(context: LawContext) -> None:
    """A reduce op or dtype that is not declared is refused with a sentence that names it, and the group stays whole."""
    group, declared = context.communicator(), context.backend.capabilities
    value = context.full(4, value=1.0 + context.rank)
    output = context.full(2, value=0.0)
    for op in (*(op for op in REDUCE_OPS if op not in declared.reduce_ops), "median", ""):
        with context.refuses(f"all_reduce with op={op!r}", CommunicatorError, naming=[repr(op)]):
            group.all_reduce(value, op=op)
        with context.refuses(f"reduce_scatter with op={op!r}", CommunicatorError, naming=[repr(op)]):
            group.reduce_scatter(output, value, op=op)
    context.equal(value, torch.full((4,), 1.0 + context.rank), "a tensor after refused reductions")
    for name in ("float8_e4m3fn", "float8_e5m2", "int16", "int8", "float16"):
        if name in declared.communication_dtypes:
            continue
        narrow = context.to_device(torch.zeros(4, dtype=getattr(torch, name)))
        with context.refuses(f"all_reduce of {name}", CommunicatorError, naming=[name]):
            group.all_reduce(narrow)
    context.meet()
    moved = context.full(4, value=float(context.rank))
    group.broadcast(moved, src=1)
    context.equal(moved, torch.ones(4), "a broadcast after refused reductions")


@law(part="capabilities", id="capabilities.graphs-are-there", claim=GRAPH, deadline=30)
def graphs_are_there(context: LawContext) -> None:
    """A backend that declares graphs captures and replays on every device."""
    for index in context.device_indices:
        reason = context.backend.graphs.supported(index)
        context.check(reason is None, f"graphs are declared, device {index} refuses them: {reason}")
        value = context.full(4, value=1.0, index=index)
        with context.backend.graphs.capture(index) as graph:
            value.add_(1.0)
        with context.backend.device.use(index):
            graph.replay()
            graph.replay()
        context.equal(value, torch.full((4,), 3.0), f"1 plus 1, captured once and replayed twice on device {index}")


@law(part="capabilities", id="capabilities.sleep-is-there", claim=SLEEP, deadline=30)
def sleep_is_there(context: LawContext) -> None:
    """A backend that declares sleep gives device memory back on every device, and has it again at the same address."""
    memory, device = context.backend.memory_map, context.backend.device
    for index in context.device_indices:
        tag = f"weights of device {index} of capabilities.sleep-is-there"
        mine = tagged(context, tag, {"w": numbers(context, 1 << 20, dtype=torch.uint8)}, index)
        place = mine.tensors["w"].device
        context.check(place == context.on(index), f"memory of device {index} was asked for, it is on {place}")
        before = device.memory(index)
        memory.save([tag])
        memory.unmap([tag])
        gone = bytes_less(context, before, device.memory(index))
        context.check(gone >= 0.9 * mine.nbytes, f"{mine.nbytes} bytes of device {index} sleep, {gone} bytes came free")
        memory.map([tag])
        memory.restore([tag])
        device.synchronize(index)
        mine.check(f"after it was unmapped and mapped on device {index}")


@law(part="capabilities", id="capabilities.undeclared-sleep-is-refused-or-right", deadline=30)
def undeclared_sleep_is_refused_or_right(context: LawContext) -> None:
    """Where sleep is not declared, adopting device memory is refused by name, or it sleeps and loses nothing."""
    memory = context.backend.memory_map
    tag = "weights of capabilities.undeclared-sleep-is-refused-or-right"
    host = numbers(context, 5000)
    tensor = context.to_device(host)
    address = tensor.data_ptr()
    try:
        memory.adopt(tag, {"w_undeclared": tensor})
    except LifecycleError as error:
        context.check("w_undeclared" in str(error), f"the refusal does not name the tensor: {error}")
        return
    memory.save([tag])
    memory.unmap([tag])
    memory.map([tag])
    memory.restore([tag])
    context.equal(tensor, host, "a tensor that was adopted, unmapped, mapped and restored")
    context.check(tensor.data_ptr() == address, "the tensor has another address")


@law(part="capabilities", id="capabilities.streams-run-side-by-side", claim=STREAMS, deadline=30)
def streams_run_side_by_side(context: LawContext) -> None:
    """A backend that declares streams has work that the host does not wait for, on more than one stream at a time."""
    device = context.backend.device
    for index in context.device_indices:
        streams = [device.stream(index) for _ in range(2)]
        late = 0
        for _ in range(5):
            buffers = [late_result(context, stream, 2.0, index=index) for stream in streams]
            late += sum(not complete(buffer, 2.0) for buffer in buffers)
            for stream, buffer in zip(streams, buffers, strict=True):
                stream.synchronize()
                context.check(complete(buffer, 2.0), f"a stream of device {index} was waited for, its work is not done")
            if late:
                break
        if not late:
            context.note(f"device {index}: no work was ever seen late; it runs in order with the host, which is legal")
        # Work on one stream must be waitable while the other still has work: neither holds the other up for good.
        first, second = (late_result(context, stream, 3.0, index=index) for stream in streams)
        streams[1].synchronize()
        context.check(complete(second, 3.0), f"the second stream of device {index} was waited for, and is not done")
        streams[0].synchronize()
        context.check(complete(first, 3.0), f"the first stream of device {index} was waited for, and is not done")


@law(part="capabilities", id="capabilities.undeclared-streams-are-in-order", deadline=30)
def undeclared_streams_are_in_order(context: LawContext) -> None:
    """Where streams are not declared every stream is in order with the host: work is done when its call returns."""
    if context.backend.capabilities.streams:
        context.note("streams are declared")
        return
    for index in context.device_indices:
        buffer = late_result(context, context.backend.device.stream(index), 2.0, index=index)
        context.check(complete(buffer, 2.0), f"streams are not declared, and work on one of device {index} was late")


@law(part="capabilities", id="capabilities.ranks-share-a-device", claim=SHARED, ranks=2, deadline=30)
def ranks_share_a_device(context: LawContext) -> None:
    """A backend that declares that ranks may share a device has collectives between two ranks that both work on it."""
    last = context.device_indices[-1]
    assert context.store is not None
    store = dist.PrefixStore("shared", context.store)  # type: ignore[attr-defined]  # torch exports it lazily
    meeting = Rendezvous(store, context.rank, context.world_size, "shared", 10.0, last)
    group = context.backend.communicator(meeting)
    try:
        value = context.full(4, value=1.0 + context.rank, index=last)
        group.all_reduce(value)
        context.equal(value, torch.full((4,), 3.0), f"a sum over two ranks that share device {last}")
        output = context.full(8, value=0.0, index=last)
        group.all_gather(output, context.full(4, value=float(context.rank), index=last))
        context.equal(output, torch.tensor([0.0] * 4 + [1.0] * 4), f"a gather of two ranks that share device {last}")
        verdict = group.vote(True, "sharing a device")
        context.check(verdict.unanimous, f"a vote of two ranks that share device {last} gave {verdict}")
    finally:
        context.meet()
        group.close()


@law(part="capabilities", id="capabilities.claims-hold-still", deadline=30)
def claims_hold_still(context: LawContext) -> None:
    """Capabilities are facts: frozen sets of names, the same before and after the backend has worked."""
    declared = context.backend.capabilities
    before = repr(declared)
    for field in ("dtypes", "communication_dtypes", "reduce_ops", "sparse_formats"):
        names = getattr(declared, field)
        context.check(isinstance(names, frozenset), f"{field} is a {type(names).__name__}, expected a frozenset")
        context.check(all(isinstance(name, str) for name in names), f"{field} holds something that is no name: {names}")
    for field in ("graph", "sleep", "streams", "ranks_share_device"):
        context.check(isinstance(getattr(declared, field), bool), f"{field} is {getattr(declared, field)!r}, no bool")
    context.check("float32" in declared.dtypes, "float32 is not declared; no law could compute anything")
    context.check("sum" in declared.reduce_ops, "sum is not declared; no engine could reduce anything")
    context.to_host(context.full(4, value=1.0) * 2)
    context.check(repr(context.backend.capabilities) == before, "the capabilities changed while the backend worked")

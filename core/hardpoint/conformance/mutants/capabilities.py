"""Backends that declare what they do not have, and backends that declare less or more than others and keep it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from hardpoint.backend import Backend, Capabilities
from hardpoint.conformance.laws.capabilities import DTYPES, REDUCE_OPS
from hardpoint.conformance.mutant import LegalVariant, Mutant
from hardpoint.conformance.mutants import _proxy
from hardpoint.errors import CommunicatorError
from hardpoint.graphs import NoGraphs


def declaring(backend: Backend, **facts: Any) -> Backend:
    """`backend` with other claims, and the same parts."""
    return replace(backend, capabilities=replace(backend.capabilities, **facts))


def also(names: frozenset[str], *more: str) -> frozenset[str]:
    return names | frozenset(more)


def blunt(tensor: torch.Tensor) -> None:
    """Zero the lowest byte of every element, in place: what is left of a value that went through a narrower type."""
    if tensor.numel() == 0:
        return
    host = tensor.detach().cpu().reshape(-1)
    host.view(torch.uint8).reshape(-1, tensor.element_size())[:, 0] = 0
    tensor.copy_(host.reshape(tensor.shape))


class _Blunt(TorchFunctionMode):
    """Arithmetic in one dtype loses the lowest byte, on devices of one type (everywhere if that is the host)."""

    _FUNCTIONS = frozenset(
        {"add", "sub", "mul", "add_", "__add__", "__mul__", "__sub__", "__and__", "__or__", "__xor__"}
    )

    def __init__(self, dtype: torch.dtype, device_type: str) -> None:
        super().__init__()
        self._dtype, self._device_type = dtype, device_type

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        if name not in self._FUNCTIONS or not isinstance(result, torch.Tensor):
            return result
        if result.dtype == self._dtype and result.device.type == self._device_type:
            blunt(result)
        return result


def _narrows(name: str) -> Callable[[Backend], Backend]:
    def mutate(backend: Backend) -> Backend:
        # Arithmetic is torch's, not a part's. The mode is per thread, and a law has a thread of its own.
        entered = threading.local()

        def torch_device(index: int | None = None) -> torch.device:
            if not hasattr(entered, "mode"):
                entered.mode = _Blunt(getattr(torch, name), backend.device.type)
                entered.mode.__enter__()
            return backend.device.torch_device(index)

        claimed = declaring(backend, dtypes=also(backend.capabilities.dtypes, name))
        return _proxy.device(claimed, torch_device=torch_device)

    return mutate


narrowed_dtypes: tuple[Mutant, ...] = tuple(
    Mutant(
        f"capabilities.narrows-{name.replace('_', '-')}",
        f"capabilities.computes-{name.replace('_', '-')}",
        "capabilities",
        f"Arithmetic in {name} is declared and done in a narrower type, or not there at all.",
        _narrows(name),
    )
    for name in DTYPES
)

dtype_of_kernels = Mutant(
    "capabilities.kernels-narrow",
    "capabilities.computes-float32",
    "capabilities",
    "Kernels compute float32 in a narrower type, torch's own operations do not.",
    lambda backend: replace(backend, launcher=_narrowing_launcher(backend)),
)


def _narrowing_launcher(backend: Backend) -> Any:
    def launch(kernel: Any, *arguments: Any, **options: Any) -> None:
        backend.launcher.launch(kernel, *arguments, **options)
        for argument in arguments[:1]:
            if isinstance(argument, torch.Tensor) and argument.dtype == torch.float32:
                blunt(argument)

    return _proxy.Changed(backend.launcher, launch=launch)


def _carries_less(name: str) -> Callable[[Backend], Backend]:
    def mutate(backend: Backend) -> Backend:
        def wrap(group: Any) -> Any:
            def after(op: str) -> Any:
                def call(tensor: torch.Tensor, *arguments: Any, **options: Any) -> None:
                    getattr(group, op)(tensor, *arguments, **options)
                    if tensor.dtype == getattr(torch, name):
                        blunt(tensor)

                return call

            return _proxy.Changed(group, **{op: after(op) for op in ("broadcast", "all_gather", "all_reduce")})

        claimed = declaring(backend, communication_dtypes=also(backend.capabilities.communication_dtypes, name))
        return _proxy.communicator(claimed, wrap)

    return mutate


narrowed_communication: tuple[Mutant, ...] = tuple(
    Mutant(
        f"capabilities.carries-less-than-{name.replace('_', '-')}",
        f"capabilities.carries-{name.replace('_', '-')}",
        "capabilities",
        f"Collectives are declared to carry {name} and send it in a narrower type.",
        _carries_less(name),
    )
    for name in DTYPES
)


def _other_op(declared: str, used: str) -> Callable[[Backend], Backend]:
    def mutate(backend: Backend) -> Backend:
        def wrap(group: Any) -> Any:
            def call(name: str) -> Any:
                def reduce(*arguments: Any, op: str = "sum", **options: Any) -> None:
                    getattr(group, name)(*arguments, op=used if op == declared else op, **options)

                return reduce

            names = ("all_reduce", "reduce_scatter", "reduce_scatter_ragged")
            return _proxy.Changed(group, **{name: call(name) for name in names})

        claimed = declaring(backend, reduce_ops=also(backend.capabilities.reduce_ops, declared))
        return _proxy.communicator(claimed, wrap)

    return mutate


exchanged_reductions: tuple[Mutant, ...] = tuple(
    Mutant(
        f"capabilities.{declared}-is-{used}",
        f"capabilities.reduces-with-{declared}",
        "capabilities",
        f"Reducing with op={declared!r} is declared, and gives the {used}.",
        _other_op(declared, used),
    )
    for declared, used in (("sum", "max"), ("avg", "sum"), ("min", "max"), ("max", "sum"), ("prod", "sum"))
)


def _scatter_sums(backend: Backend) -> Backend:
    def wrap(group: Any) -> Any:
        def reduce_scatter_ragged(*arguments: Any, op: str = "sum", **options: Any) -> None:
            group.reduce_scatter_ragged(*arguments, op="sum", **options)

        return _proxy.Changed(group, reduce_scatter_ragged=reduce_scatter_ragged)

    return _proxy.communicator(backend, wrap)


ragged_scatter_always_sums = Mutant(
    "capabilities.ragged-scatter-always-sums",
    "capabilities.reduces-with-max",
    "capabilities",
    "The ragged scatter ignores the reduce op and adds up.",
    _scatter_sums,
)

unknown_names = Mutant(
    "capabilities.unknown-names",
    "capabilities.names-are-known",
    "capabilities",
    "A dtype is declared that nobody can check.",
    lambda backend: declaring(backend, dtypes=also(backend.capabilities.dtypes, "float4_acme")),
)

unknown_op = Mutant(
    "capabilities.unknown-reduce-op",
    "capabilities.names-are-known",
    "capabilities",
    "A reduce op is declared that nobody can check.",
    lambda backend: declaring(backend, reduce_ops=also(backend.capabilities.reduce_ops, "median")),
)

bare_extra = Mutant(
    "capabilities.bare-extra",
    "capabilities.extras-are-proven",
    "capabilities",
    "A further claim comes without a law.",
    lambda backend: declaring(
        backend, extras=MappingProxyType({**backend.capabilities.extras, "fast": "it is very fast"})
    ),
)

bare_format = Mutant(
    "capabilities.bare-sparse-format",
    "capabilities.extras-are-proven",
    "capabilities",
    "A storage format is declared and nothing shows that it works.",
    lambda backend: declaring(backend, sparse_formats=frozenset({"NZ"})),
)


def _falls_back(backend: Backend) -> Backend:
    def wrap(group: Any) -> Any:
        def call(name: str) -> Any:
            def reduce(*arguments: Any, op: str = "sum", **options: Any) -> None:
                getattr(group, name)(*arguments, op=op if op in REDUCE_OPS else "sum", **options)

            return reduce

        return _proxy.Changed(group, **{name: call(name) for name in ("all_reduce", "reduce_scatter")})

    return _proxy.communicator(backend, wrap)


unknown_op_means_sum = Mutant(
    "capabilities.unknown-op-means-sum",
    "capabilities.undeclared-reductions-are-refused",
    "capabilities",
    "A reduce op that is not there is replaced by the sum without a word.",
    _falls_back,
)


def _says_nothing(backend: Backend) -> Backend:
    def wrap(group: Any) -> Any:
        def call(name: str) -> Any:
            def reduce(*arguments: Any, op: str = "sum", **options: Any) -> None:
                if op not in backend.capabilities.reduce_ops:
                    raise CommunicatorError("not supported")
                getattr(group, name)(*arguments, op=op, **options)

            return reduce

        return _proxy.Changed(group, **{name: call(name) for name in ("all_reduce", "reduce_scatter")})

    return _proxy.communicator(backend, wrap)


refuses_without_a_sentence = Mutant(
    "capabilities.refuses-without-a-sentence",
    "capabilities.undeclared-reductions-are-refused",
    "capabilities",
    "An undeclared reduce op is refused, and the message does not say which.",
    _says_nothing,
)

graph_without_graphs = Mutant(
    "capabilities.graph-without-graphs",
    "capabilities.graphs-are-there",
    "capabilities",
    "Graphs are declared, and every capture is refused.",
    lambda backend: declaring(replace(backend, graphs=NoGraphs()), graph=True),
)


class _Eager:
    """Graphs that run the block while it is captured and have nothing to replay."""

    def __init__(self, base: Any) -> None:
        self._base = base

    def supported(self, device_index: int, model: str = "", dtype: str = "") -> str | None:
        return None

    def capturing(self) -> bool:
        return False

    @contextmanager
    def capture(self, device_index: int) -> Iterator[Any]:
        yield _proxy.Changed(self._base, replay=lambda: None)


graph_that_replays_nothing = Mutant(
    "capabilities.graph-that-replays-nothing",
    "capabilities.graphs-are-there",
    "capabilities",
    "Graphs are declared; capture runs the block, and replay does nothing.",
    lambda backend: declaring(replace(backend, graphs=_Eager(backend.graphs)), graph=True),
)


def _host_sleep(backend: Backend) -> Backend:
    from hardpoint.lifecycle import HostMemoryMap

    return declaring(replace(backend, memory_map=HostMemoryMap()), sleep=True)


sleep_of_host_memory = Mutant(
    "capabilities.sleep-of-host-memory",
    "capabilities.sleep-is-there",
    "capabilities",
    "Sleep is declared, and the memory map knows host memory alone.",
    _host_sleep,
)

sleep_frees_nothing = Mutant(
    "capabilities.sleep-frees-nothing",
    "capabilities.sleep-is-there",
    "capabilities",
    "Sleep is declared, and unmapping gives nothing back to the device.",
    lambda backend: replace(
        backend, memory_map=_proxy.Changed(backend.memory_map, unmap=lambda tags: None, map=lambda tags: None)
    ),
)


def _undeclared_and_lossy(backend: Backend) -> Backend:
    memory: Any = _proxy.Changed(backend.memory_map, restore=lambda tags: None)
    return declaring(replace(backend, memory_map=memory), sleep=False)


undeclared_sleep_loses_contents = Mutant(
    "capabilities.undeclared-sleep-loses-contents",
    "capabilities.undeclared-sleep-is-refused-or-right",
    "capabilities",
    "Sleep is not declared, and the memory map takes device memory all the same and loses its contents.",
    _undeclared_and_lossy,
)


def _streams_forget(backend: Backend) -> Backend:
    def change(made: Any) -> Any:
        return _proxy.Changed(made, synchronize=lambda: None)

    def stream(index: int | None = None) -> Any:
        return change(backend.device.stream(index))

    def use_stream(made: Any) -> Any:
        return backend.device.use_stream(getattr(made, "_base", made))

    return _proxy.device(declaring(backend, streams=True), stream=stream, use_stream=use_stream)


streams_that_cannot_be_waited_for = Mutant(
    "capabilities.streams-that-cannot-be-waited-for",
    "capabilities.streams-run-side-by-side",
    "capabilities",
    "Streams are declared, and waiting for one of them waits for nothing.",
    _streams_forget,
)

streams_undeclared = Mutant(
    "capabilities.streams-undeclared",
    "capabilities.undeclared-streams-are-in-order",
    "capabilities",
    "Work runs late on streams, and the backend declares that it is in order with the host.",
    lambda backend: declaring(backend, streams=False),
)


def _one_rank_each(backend: Backend) -> Backend:
    def factory(rendezvous: Any) -> Any:
        if rendezvous.name == "shared" and rendezvous.rank:
            raise CommunicatorError(f"device {rendezvous.device_index} is in use by another rank")
        return backend.communicator(rendezvous)

    return replace(declaring(backend, ranks_share_device=True), communicator=factory)


shares_no_device = Mutant(
    "capabilities.shares-no-device",
    "capabilities.ranks-share-a-device",
    "capabilities",
    "It is declared that ranks may share a device, and the second rank on it is refused.",
    _one_rank_each,
)

mutable_facts = Mutant(
    "capabilities.mutable-facts",
    "capabilities.claims-hold-still",
    "capabilities",
    "The claims are ordinary sets that anybody may change.",
    lambda backend: declaring(backend, dtypes=set(backend.capabilities.dtypes)),
)

# -- legal ---------------------------------------------------------------------------------------------------------


def _modest(capabilities: Capabilities) -> Capabilities:
    return Capabilities(
        dtypes=frozenset({"float32", "bfloat16"}) & capabilities.dtypes,
        communication_dtypes=capabilities.communication_dtypes,
        reduce_ops=capabilities.reduce_ops,
        streams=capabilities.streams,
        ranks_share_device=capabilities.ranks_share_device,
        extras=capabilities.extras,
    )


declares_little = LegalVariant(
    "capabilities.declares-little",
    "capabilities",
    "A backend may declare less than it can: what is not declared is shown as not claimed.",
    lambda backend: replace(backend, capabilities=_modest(backend.capabilities)),
)

exact_refusals = LegalVariant(
    "capabilities.refuses-in-other-words",
    "capabilities",
    "Refusals may read as they like, as long as they name what was asked for.",
    lambda backend: _proxy.communicator(backend, lambda group: _proxy.Changed(group, all_reduce=_polite(group))),
)


def _polite(group: Any) -> Any:
    def all_reduce(tensor: torch.Tensor, *, op: str = "sum", **options: Any) -> None:
        try:
            group.all_reduce(tensor, op=op, **options)
        except CommunicatorError as error:
            kind = str(tensor.dtype).removeprefix("torch.")
            raise CommunicatorError(f"sorry, no all_reduce of {kind} with {op!r} here") from error

    return all_reduce

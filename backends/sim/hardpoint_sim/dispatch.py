"""What happens to one torch operation on simulated tensors: view now, compute late, or read for the host.

Shapes are known at once (the operation runs on meta tensors); values are computed by queued work on the host tensors.
An operation whose result's shape or value the host needs (`nonzero`, `item`, `equal`) waits for the current stream, as
it does on a real device.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from hardpoint.errors import DeviceError
from hardpoint_sim import copies
from hardpoint_sim.engine import Engine
from hardpoint_sim.placement import named_tensors, place
from hardpoint_sim.slot import DEVICE_TYPE
from hardpoint_sim.tensor import SimTensor, allocate, wrap
from hardpoint_sim.work import Work

_aten = torch.ops.aten
_EMPTY = {
    _aten.empty_like.default,
    _aten.new_empty.default,
    _aten.new_empty_strided.default,
}
# Moving and clearing bytes needs no arithmetic in their type.
_BYTES_ONLY = {_aten.clone.default, _aten.zero_.default, _aten.fill_.Scalar, _aten.fill_.Tensor, _aten.cat.default}
_UNDEFERRED_NAMESPACES = {"c10d", "_c10d_functional"}


def dispatch(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Entry point of `SimTensor.__torch_dispatch__`."""
    special = _SPECIAL.get(func)
    if special is not None:
        return special(func, args, kwargs)
    if _is_composite(func):
        return func.decompose(*args, **kwargs)
    tensors = list(named_tensors(func, args, kwargs))
    sims = [tensor for _, tensor in tensors if isinstance(tensor, SimTensor)]
    if not sims:
        raise DeviceError(f"{func} reached the simulator without a tensor on a simulated device")
    written = _written(func, args, kwargs)
    first = place(func, tensors, {id(tensor) for tensor in written}, sims[0].engine.rules.check_devices)
    if _is_view(func):
        return _view(func, args, kwargs)
    engine = first.engine
    for label, tensor in tensors:
        if isinstance(tensor, SimTensor):
            engine.heap.refuse_unmapped(tensor.cell, f"{func}, {label},")
    index = first.device.index
    if kwargs.get("device") is not None:
        target = torch.device(kwargs["device"])
        if target.type != DEVICE_TYPE:
            return _on_host(func, args, kwargs)
        index = engine.current() if target.index is None else engine.state(target.index).index
    return compute(engine, index, func, args, kwargs)


def compute(engine: Engine, index: int, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Queue `func` on the current stream of ``sim:index``; its results are there at once, poisoned until it runs."""
    refuse_host_generator(func, args, kwargs)
    tags = func.tags
    if (
        func.namespace in _UNDEFERRED_NAMESPACES
        or torch.Tag.dynamic_output_shape in tags
        or torch.Tag.data_dependent_output in tags
        or not _returns_tensors(func)
    ):
        return _run_now(engine, index, func, args, kwargs)
    meta_args, meta_kwargs = tree_map(_to_meta, (args, kwargs))
    if "device" in kwargs:
        meta_kwargs["device"] = torch.device("meta")
    try:
        shaped = func(*meta_args, **meta_kwargs)
    except NotImplementedError:
        return _run_now(engine, index, func, args, kwargs)  # no shape function: the shape comes from the values
    written = _written(func, args, kwargs)
    _adopt_resized(engine, index, func, written, _written(func, meta_args, meta_kwargs))

    result, fresh = _results(engine, index, func, args, kwargs, shaped)
    if func in _EMPTY:
        return result
    if engine.missing_dtypes and func not in _BYTES_ONLY:
        _refuse_missing_dtypes(engine, func, [*fresh, *written])
    host_args, host_kwargs = to_host(args, kwargs)
    outputs = [tensor.host if tensor is not None else None for tensor in fresh]

    def run(seed: int) -> None:
        values = _flat_returns(func(*host_args, **host_kwargs))
        for output, value in zip(outputs, values, strict=True):
            if output is not None:
                output.copy_(value)

    random = torch.Tag.nondeterministic_seeded in tags
    touched = [t for t in tree_flatten((args, kwargs, result))[0] if isinstance(t, SimTensor)]
    work = Work(
        str(func),
        _seeded(run) if random else run,
        cells=tuple({id(t.cell): t.cell for t in touched}.values()),
        writes=tuple([t.host for t in written if isinstance(t, SimTensor)] + [o for o in outputs if o is not None]),
        random=random,
    )
    engine.submit(engine.current_stream(index), work)
    return result


def _refuse_missing_dtypes(engine: Engine, func: Any, results: list[Any]) -> None:
    for tensor in results:
        name = "" if tensor is None else str(tensor.dtype).removeprefix("torch.")
        if name in engine.missing_dtypes:
            raise DeviceError(
                f"{func}: the device has no arithmetic in {name}; compute on the host or in another dtype"
            )


def to_host(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The same arguments on the memory behind them; host tensors are copied, since the caller may change them."""
    host_args, host_kwargs = tree_map(_to_host, (args, kwargs))
    if "device" in kwargs:
        host_kwargs["device"] = torch.device("cpu")
    return host_args, host_kwargs


def refuse_host_generator(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    for value in (*args, *kwargs.values()):
        if isinstance(value, torch.Generator):
            raise DeviceError(
                f"{func} on a simulated device was given a generator of {value.device}; a host generator cannot drive "
                "it. Seed the device with torch.manual_seed, or draw on the host and copy"
            )


def _view(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    base = next(value for value in tree_flatten((args, kwargs))[0] if isinstance(value, SimTensor))
    host_args, host_kwargs = tree_map(lambda v: v.host if isinstance(v, SimTensor) else v, (args, kwargs))
    result = func(*host_args, **host_kwargs)
    return tree_map(lambda v: wrap(v, base.block) if isinstance(v, torch.Tensor) else v, result)


def _on_host(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``zeros_like(x, device="cpu")`` and its kind: the device tensor gives shape and dtype, not its values."""
    like = args[0]
    stand_in = torch.empty_strided(like.shape, like.stride(), dtype=like.dtype, device="cpu")
    return func(stand_in, *args[1:], **kwargs)


def _run_now(engine: Engine, index: int, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    engine.wait([engine.current_stream(index).mark()], f"{func}, whose result the host needs,")
    host_args, host_kwargs = to_host(args, kwargs)
    with engine.lock, torch.no_grad():
        value = func(*host_args, **host_kwargs)
    owners = {
        id(h): a
        for h, a in zip(tree_flatten((host_args, host_kwargs))[0], tree_flatten((args, kwargs))[0], strict=True)
    }

    def back(item: Any) -> Any:
        if not isinstance(item, torch.Tensor):
            return item
        if id(item) in owners:
            return owners[id(item)]
        made = allocate(engine, index, item, str(func))
        made.host.copy_(item)
        return made

    return tree_map(back, value)


def _results(
    engine: Engine, index: int, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], shaped: Any
) -> tuple[Any, list[SimTensor | None]]:
    """The operation's return value, and per flat return the tensor to fill (None: written in place, or no tensor)."""
    returns = func._schema.returns
    items = (shaped,) if len(returns) == 1 else tuple(shaped or ())
    made: list[Any] = []
    fresh: list[SimTensor | None] = []
    for declared, item in zip(returns, items, strict=True):
        if declared.alias_info is not None and declared.alias_info.is_write:
            owner = _argument_of(func, declared.alias_info.before_set, args, kwargs)
            made.append(owner)
            fresh.extend([None] * len(_flat_returns(owner)))
            continue
        flat, spec = tree_flatten(item)
        tensors = [allocate(engine, index, t, str(func)) if isinstance(t, torch.Tensor) else t for t in flat]
        made.append(tree_unflatten(tensors, spec))
        fresh.extend(t if isinstance(t, SimTensor) else None for t in tensors)
    if not returns:
        return None, []
    return (made[0] if len(returns) == 1 else tuple(made)), fresh


def _flat_returns(value: Any) -> list[Any]:
    return [] if value is None else tree_flatten(value)[0]


def _written(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[torch.Tensor]:
    """Tensors among the arguments that the schema says are written."""
    found: list[torch.Tensor] = []
    for position, declared in enumerate(func._schema.arguments):
        if declared.alias_info is not None and declared.alias_info.is_write:
            value = args[position] if position < len(args) else kwargs.get(declared.name)
            found.extend(t for t in tree_flatten(value)[0] if isinstance(t, torch.Tensor))
    return found


def _argument_of(func: Any, aliases: set[str], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    for position, declared in enumerate(func._schema.arguments):
        if declared.alias_info is not None and declared.alias_info.before_set & aliases:
            return args[position] if position < len(args) else kwargs.get(declared.name)
    raise DeviceError(f"{func} returns an alias of an argument that its schema does not name")


def _adopt_resized(
    engine: Engine, index: int, func: Any, written: list[torch.Tensor], shaped: list[torch.Tensor]
) -> None:
    """Let an empty ``out=`` tensor take the result's shape, as torch does; refuse to resize one that has elements."""
    for tensor, meta in zip(written, shaped, strict=True):
        if tensor.shape == meta.shape or not isinstance(tensor, SimTensor):
            continue
        if tensor.numel():
            raise DeviceError(
                f"{func} would have to resize its output on {tensor.device} from {list(tensor.shape)} to "
                f"{list(meta.shape)}; give an output of the right shape, or an empty one"
            )
        grown = allocate(engine, index, meta, str(func))
        with torch._C.DisableTorchFunctionSubclass():
            torch.Tensor.data.__set__(tensor, grown)  # type: ignore[attr-defined]
        tensor.host, tensor.block = grown.host, grown.block


def _seeded(run: Callable[[int], None]) -> Callable[[int], None]:
    """Run under the host generator seeded with the work's own seed, so that the order of execution changes nothing."""

    def seeded(seed: int) -> None:
        state = torch.default_generator.get_state()
        torch.default_generator.manual_seed(seed)
        try:
            run(seed)
        finally:
            torch.default_generator.set_state(state)

    return seeded


@functools.cache
def _is_composite(func: Any) -> bool:
    """Under `torch.inference_mode` torch hands over composites such as ``aten.to`` undivided."""
    return bool(func._can_decompose())


@functools.cache
def _is_view(func: Any) -> bool:
    return any(r.alias_info is not None and not r.alias_info.is_write for r in func._schema.returns)


@functools.cache
def _returns_tensors(func: Any) -> bool:
    """False if the schema returns something that is not a tensor, a list of tensors, or nothing at all."""
    return all("Tensor" in str(declared.type) for declared in func._schema.returns)


def _to_meta(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
    return value


def _to_host(value: Any) -> Any:
    if isinstance(value, SimTensor):
        return value.host
    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    return value


def _refuse(reason: str) -> Callable[..., Any]:
    def refuse(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        raise DeviceError(f"{func} is not possible on a simulated device: {reason}")

    return refuse


_SPECIAL: dict[Any, Callable[[Any, tuple[Any, ...], dict[str, Any]], Any]] = {
    _aten.copy_.default: lambda func, args, kwargs: copies.copy_(*args, **kwargs),
    _aten._to_copy.default: lambda func, args, kwargs: copies.to_copy(*args, **kwargs),
    _aten.is_pinned.default: lambda func, args, kwargs: False,
    _aten._pin_memory.default: _refuse("there is no pinned memory; copy to the host with .cpu()"),
    _aten._fused_sdp_choice.default: lambda func, args, kwargs: 0,  # 0: the composite of plain operations
    _aten.set_.source_Storage: _refuse("its memory cannot be swapped; copy the values"),
    _aten.set_.source_Storage_storage_offset: _refuse("its memory cannot be swapped; copy the values"),
    _aten.set_.source_Tensor: _refuse("its memory cannot be swapped; copy the values"),
    _aten.resize_.default: _refuse("tensors keep their size; allocate another one"),
}

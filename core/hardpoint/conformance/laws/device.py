"""Laws of `Device`: which device is current, where memory lands, what copies carry, what synchronize waits for."""

from __future__ import annotations

import os

import torch
from hypothesis import strategies as st

from hardpoint.conformance.context import LawContext
from hardpoint.conformance.law import law
from hardpoint.conformance.laws._work import complete, late_result
from hardpoint.errors import DeviceError

_MIB = 1 << 20


@law(part="device", id="device.names-its-devices", deadline=20)
def names_its_devices(context: LawContext) -> None:
    """There is at least one device, the count does not change, and `torch_device(i)` names device i of the type."""
    device = context.backend.device
    count = device.count()
    context.check(count >= 1, f"expected at least one device, count() says {count}")
    context.check(device.count() == count, "count() changed between two calls")
    for index in range(count):
        named = device.torch_device(index)
        context.check(
            named.type == device.type, f"torch_device({index}) is {named}, of another type than {device.type}"
        )
        # Torch's own host device has no index.
        right = named.index == index or (device.type == "cpu" and named.index is None)
        context.check(right, f"torch_device({index}) is {named}")


@law(part="device", id="device.current-is-per-thread", devices=2, deadline=20)
def current_is_per_thread(context: LawContext) -> None:
    """The current device is per thread: a thread starts with device 0, and neither thread sees the other's choice."""
    device = context.backend.device
    last = device.count() - 1

    def other() -> tuple[int, int]:
        first = device.current()
        with device.use(0):
            return first, device.current()

    with device.use(last):
        first, inside = context.in_thread(other)
        context.check(first == 0, f"a new thread should start on device 0, it saw {first} while its parent used {last}")
        context.check(inside == 0, f"use(0) in the thread gave device {inside}")
        now = device.current()
        context.check(now == last, f"device {last} is in use here, but after another thread used 0 it reads {now}")


@law(part="device", id="device.current-is-restored", deadline=30)
def current_is_restored(context: LawContext) -> None:
    """`use` makes its device current and gives back the one before it, however deep, also when the block raises."""
    device = context.backend.device
    before = device.current()

    def enter(path: list[tuple[int, bool]]) -> None:
        if not path:
            return
        (index, raises), *rest = path
        outside = device.current()
        try:
            with device.use(index):
                context.check(
                    device.current() == index, f"inside use({index}) the current device is {device.current()}"
                )
                enter(rest)
                after = device.current()
                context.check(
                    after == index, f"after an inner block, inside use({index}), the current device is {after}"
                )
                if raises:
                    raise KeyError(index)
        except KeyError:
            pass
        way = "by an exception" if raises else "normally"
        context.check(
            device.current() == outside,
            f"use({index}) was left {way}; expected device {outside} to be current again, found {device.current()}",
        )

    steps = st.tuples(st.integers(0, device.count() - 1), st.booleans())
    context.examples(enter, count=30, path=st.lists(steps, min_size=1, max_size=5))
    context.check(device.current() == before, f"the current device was {before}, and is {device.current()} at the end")


@law(part="device", id="device.bad-index-is-refused", deadline=20)
def bad_index_is_refused(context: LawContext) -> None:
    """An index that names no device is refused with a DeviceError that says the index, and nothing changes."""
    device = context.backend.device
    before = device.current()
    for index in (device.count(), device.count() + 7, -1):
        with context.refuses(f"use({index})", DeviceError, naming=[str(index)]), device.use(index):
            pass
        after = device.current()
        context.check(after == before, f"after the refused use({index}) the current device is {after}, was {before}")
        for name in ("synchronize", "stream", "current_stream", "memory", "identity", "torch_device", "event"):
            with context.refuses(f"{name}({index})", DeviceError, naming=[str(index)]):
                getattr(device, name)(index)


@law(part="device", id="device.none-means-current", devices=2, deadline=20)
def none_means_current(context: LawContext) -> None:
    """Where an index is left out, the calling thread's current device is meant."""
    device = context.backend.device
    for index in context.device_indices:
        with device.use(index):
            found = device.torch_device().index
            context.check(found == index, f"under use({index}), torch_device() is device {found}")
            logical = device.identity().logical
            context.check(logical == index, f"under use({index}), identity() is the one of device {logical}")
            with device.use_stream(device.stream()):
                found = device.current()
                context.check(found == index, f"under use({index}), stream() is a stream of device {found}")
        with device.use(0):
            buffer = context.full(4, value=2.0, index=index)
            context.check(buffer.device.index == index, f"asked for device {index}, got {buffer.device}")


@law(part="device", id="device.memory-lands-where-asked", deadline=20)
def memory_lands_where_asked(context: LawContext) -> None:
    """A tensor is on the device that was asked for, whichever is current, and nothing lands on another one."""
    device = context.backend.device
    for current in context.device_indices:
        with device.use(current):
            for index in context.device_indices:
                asked = device.torch_device(index)
                for made in (torch.empty(3, device=asked), torch.zeros(2, 2, device=asked), torch.ones(3).to(asked)):
                    right = made.device.index == index or (device.type == "cpu" and made.device.index is None)
                    context.check(
                        right, f"asked for device {index} while device {current} was current, got {made.device}"
                    )
            context.check(device.current() == current, f"allocating changed the current device to {device.current()}")


@law(part="device", id="device.devices-do-not-share-memory", devices=2, deadline=20)
def devices_do_not_share_memory(context: LawContext) -> None:
    """Writing to one device changes nothing on another, and a copy between devices carries every bit."""
    tensors = [context.full(64, value=float(index + 1), index=index) for index in context.device_indices]
    tensors[0].fill_(100.0)
    for index, tensor in list(enumerate(tensors))[1:]:
        context.equal(tensor, torch.full((64,), float(index + 1)), f"device {index} after a write to device 0")
    for index in context.device_indices[1:]:
        moved = tensors[0].to(context.on(index))
        context.check(moved.device.index == index, f"a copy to device {index} is on {moved.device}")
        context.equal(moved, torch.full((64,), 100.0), f"a copy from device 0 to device {index}")


@law(part="device", id="device.copies-carry-every-bit", deadline=60)
def copies_carry_every_bit(context: LawContext) -> None:
    """Host to device and back is bitwise the same: every declared dtype, empty, transposed and sliced tensors."""
    names = sorted(context.backend.capabilities.dtypes)

    def check(name: str, shape: list[int], form: str) -> None:
        dtype = getattr(torch, name)
        if dtype == torch.bool:
            host = torch.randint(0, 2, shape, generator=context.generator) == 1
        else:
            # Every bit pattern, NaN included: a copy has no business with what the bits mean.
            size = [*shape, dtype.itemsize]
            host = torch.randint(0, 256, size, dtype=torch.uint8, generator=context.generator).view(dtype).squeeze(-1)
        if form == "transposed":
            host = host.transpose(0, -1)
        elif form == "sliced":
            host = host[..., ::2]
        there = host.to(context.device)
        context.check(there.dtype == dtype, f"a {name} tensor arrived as {there.dtype}")
        context.equal(there, host, f"{form} {name} of shape {tuple(host.shape)}, to the device and back")

    context.examples(
        check,
        count=40,
        name=st.sampled_from(names),
        shape=st.lists(st.integers(0, 5), min_size=1, max_size=3),
        form=st.sampled_from(["plain", "transposed", "sliced"]),
    )
    for name in names:
        check(name, [7], "plain")


@law(part="device", id="device.synchronize-waits-for-all-streams", deadline=30)
def synchronize_waits_for_all_streams(context: LawContext) -> None:
    """After `synchronize(i)` the work of every stream of device i is done, and the host sees its results."""
    device = context.backend.device
    for index in context.device_indices:
        streams = [device.stream(index) for _ in range(3)]
        buffers = [late_result(context, stream, 5.0 + n, index=index) for n, stream in enumerate(streams)]
        device.synchronize(index)
        for number, buffer in enumerate(buffers):
            context.check(
                complete(buffer, 5.0 + number),
                f"synchronize({index}) returned, but the copy queued on stream {number} of {len(streams)} had not "
                f"arrived: expected {5.0 + number} everywhere, found {buffer.tolist()}",
            )
        for number, stream in enumerate(streams):
            context.check(stream.query(), f"synchronize({index}) returned, but stream {number} says it is not done")


@law(part="device", id="device.memory-adds-up", deadline=30)
def memory_adds_up(context: LawContext) -> None:
    """Memory is in bytes and adds up: free within total, allocated within reserved, and 64 MiB more show as such."""
    device = context.backend.device
    for index in context.device_indices:
        before = device.memory(index)
        context.check(before.total > 0, f"device {index}: total memory is {before.total}")
        context.check(0 <= before.free <= before.total, f"device {index}: free {before.free} of {before.total} bytes")
        context.check(
            0 <= before.allocated <= before.reserved,
            f"device {index}: allocated {before.allocated} of {before.reserved} reserved bytes",
        )
        held = context.full(64 * _MIB, value=1, dtype=torch.uint8, index=index)
        device.synchronize(index)
        after = device.memory(index)
        grown = after.allocated - before.allocated
        context.check(grown >= 63 * _MIB, f"device {index}: 64 MiB were allocated, `allocated` grew by {grown} bytes")
        del held


@law(part="device", id="device.empty-cache-keeps-live-memory", deadline=20)
def empty_cache_keeps_live_memory(context: LawContext) -> None:
    """`empty_cache` gives back only what nobody holds: tensors that live keep their values."""
    for index in context.device_indices:
        held = context.arange(1000, index=index)
        freed = context.full(1000, value=3.0, index=index)
        del freed
        context.backend.device.empty_cache()
        context.equal(held, torch.arange(1000.0), f"a live tensor on device {index} after empty_cache")


@law(part="device", id="device.identity-is-stable", deadline=20)
def identity_is_stable(context: LawContext) -> None:
    """A device keeps its names: the same in every call and thread, no two devices alike, the variable as it is set."""
    device = context.backend.device
    seen: set[tuple[str | None, str | None]] = set()
    for index in context.device_indices:
        found = device.identity(index)
        context.check(found.logical == index, f"identity({index}).logical is {found.logical}")
        there = context.in_thread(lambda index=index: device.identity(index))  # type: ignore[misc]
        context.check(there == found, f"identity({index}) is {found} here and {there} in another thread")
        names = (found.physical, found.uuid)
        alike = names in seen and names != (None, None)
        context.check(not alike, f"device {index} has the physical name and uuid of another device: {names}")
        seen.add(names)
        if found.visibility_variable is not None:
            value = os.environ.get(found.visibility_variable)
            context.check(
                found.visibility_value == value,
                f"{found.visibility_variable} is {value!r}, identity({index}) says {found.visibility_value!r}",
            )

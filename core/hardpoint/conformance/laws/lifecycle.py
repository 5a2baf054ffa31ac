"""Laws of sleep and wake: what memory keeps, what ranks do together, and who serves what meanwhile."""

from __future__ import annotations

import functools
import gc
import threading
import time
from collections.abc import Callable
from typing import Any

import torch
from hypothesis import strategies as st

from hardpoint.conformance.claims import SLEEP
from hardpoint.conformance.context import LawContext
from hardpoint.conformance.law import law
from hardpoint.conformance.laws._tagged import (
    DEADLINES,
    bytes_less,
    bytes_more,
    fresh_tag,
    lifecycle,
    numbers,
    tagged,
)
from hardpoint.conformance.laws._thread_ranks import PROMPT, TAGS, VOLATILE, Fault, Script, ThreadRanks, at_once
from hardpoint.conformance.laws._work import keep_busy
from hardpoint.errors import LifecycleError
from hardpoint.lifecycle import Deadlines, IdleHost, Phase

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.uint8)
SLACK = 1.5


# -- memory --------------------------------------------------------------------------------------------------------


@law(part="lifecycle", id="lifecycle.contents-and-addresses-survive", deadline=60)
def contents_and_addresses_survive(context: LawContext) -> None:
    """A level 1 sleep and a wake leave every bit of every tensor as it was, and every tensor at its address."""

    def check(shapes: list[tuple[list[int], torch.dtype]], times: int) -> None:
        contents = {f"w{n}": numbers(context, *shape, dtype=dtype) for n, (shape, dtype) in enumerate(shapes)}
        tag = fresh_tag("weights of lifecycle.contents-and-addresses-survive")
        mine = tagged(context, tag, contents)
        view = mine.tensors["w0"].reshape(-1)[:1]
        sleeper = lifecycle(context)
        for _ in range(times):
            sleeper.sleep([tag])
            sleeper.wake([tag])
            mine.check("after sleep and wake")
        context.check(view.data_ptr() == mine.addresses["w0"], "a view is not where its tensor is")
        context.equal(view, contents["w0"].reshape(-1)[:1], "a view after sleep and wake")

    check([([3000, 7], torch.float32), ([1], torch.uint8), ([257], torch.int64)], 2)
    shape = st.lists(st.integers(1, 40), min_size=1, max_size=3)
    each = st.tuples(shape, st.sampled_from(DTYPES))
    context.examples(check, count=8, shapes=st.lists(each, min_size=1, max_size=4), times=st.integers(1, 2))


@law(part="lifecycle", id="lifecycle.kept-copies-are-not-stale", deadline=40)
def kept_copies_are_not_stale(context: LawContext) -> None:
    """Copies that stay between cycles hold the contents of the last sleep, not those of the first."""
    tag, other = (fresh_tag(f"{name} of lifecycle.kept-copies-are-not-stale") for name in ("weights", "others"))
    mine = tagged(context, tag, {"w": numbers(context, 3000), "v": numbers(context, 11)})
    same = tagged(context, other, {"w": numbers(context, 500)})
    sleeper = lifecycle(context, keep_copies=True)
    for value in (3, 5, 7):
        sleeper.sleep([tag, other])
        sleeper.wake([tag, other])
        mine.check("after a cycle with kept copies")
        same.check("after a cycle with kept copies, unchanged before")
        mine.write(value)
    context.backend.memory_map.discard([tag, other])
    sleeper.sleep([tag, other])
    sleeper.wake([tag, other])
    mine.check("after a cycle whose kept copies somebody had dropped")
    same.check("unchanged, after a cycle whose kept copies somebody had dropped")


@law(part="lifecycle", id="lifecycle.every-device-sleeps", devices=2, deadline=40)
def every_device_sleeps(context: LawContext) -> None:
    """Memory of every device keeps contents and addresses through sleep and wake, whichever device is current."""
    device = context.backend.device
    held = {}
    for index in context.device_indices:
        tag = fresh_tag(f"weights of device {index} of lifecycle.every-device-sleeps")
        held[tag] = tagged(context, tag, {"w": numbers(context, 500)}, index), lifecycle(context, device_index=index)
    for current in (context.device_indices[0], context.device_indices[-1]):
        with device.use(current):
            for tag, (_, sleeper) in held.items():
                sleeper.sleep([tag])
                context.check(not context.backend.memory_map.mapped(tag), f"{tag} is mapped while it sleeps")
            for tag, (mine, sleeper) in held.items():
                sleeper.wake([tag])
                mine.check(f"after it slept and woke while device {current} was current")
            context.check(device.current() == current, f"device {current} was current, it is {device.current()} now")


@law(part="lifecycle", id="lifecycle.tags-are-independent", deadline=40)
def tags_are_independent(context: LawContext) -> None:
    """A tag sleeps and wakes alone: the others stay mapped and usable, and no saved copy lands under another tag."""
    names = [f"{name} of lifecycle.tags-are-independent" for name in ("first", "second", "third")]
    held = {name: tagged(context, name, {"w": numbers(context, 300, 3)}) for name in names}
    memory, sleeper = context.backend.memory_map, lifecycle(context)
    first, second, third = names

    def check(asleep: set[str], when: str) -> None:
        for name, mine in held.items():
            context.check(
                memory.mapped(name) == (name not in asleep), f"{when}: mapped({name!r}) is {memory.mapped(name)}"
            )
            if name not in asleep:
                mine.check(when)
        found = set(sleeper.health().asleep) & set(names)
        context.check(found == asleep, f"{when}: health says that {sorted(found)} sleep")

    steps: list[tuple[str, list[str], set[str]]] = [
        ("sleep", [second], {second}),
        ("sleep", [first], {first, second}),
        ("wake", [second], {first}),
        ("sleep", [third, second], {first, second, third}),
        ("wake", [first], {second, third}),
        ("wake", [third], {second}),
        ("wake", [second], set()),
    ]
    for number, (kind, tags, asleep) in enumerate(steps):
        getattr(sleeper, kind)(tags)
        check(asleep, f"after step {number}, {kind} of {tags}")
        if number == 0:
            held[first].write(7)
            held[third].write(9)
            check(asleep, f"after new values for {first} and {third} while {second} slept")


@law(part="lifecycle", id="lifecycle.sleep-gives-memory-back", claim=SLEEP, deadline=40)
def sleep_gives_memory_back(context: LawContext) -> None:
    """Sleep gives the bytes of its tags back to the device, of no other, and a wake has them again when they are
    written, at any level: memory may come with the first write to it, as a host's pages do, but it has to be there.
    """
    device, memory = context.backend.device, context.backend.memory_map
    tag, other = (f"{name} of lifecycle.sleep-gives-memory-back" for name in ("weights", "others"))
    mine = tagged(context, tag, {name: numbers(context, 1 << 20, dtype=torch.uint8) for name in ("a", "b", "c", "d")})
    kept = tagged(context, other, {"w": numbers(context, 1 << 20, dtype=torch.uint8)})
    index, size = context.device_index, mine.nbytes
    warm = lifecycle(context)  # the first cycle may make tables, buffers and threads that stay
    warm.sleep([tag])
    warm.wake([tag])
    gc.collect()  # what earlier laws left must not go while this one counts
    for level in (1, 2):
        device.synchronize(index)
        before = device.memory(index)
        sleeper = lifecycle(context)
        sleeper.sleep([tag], level=level)
        device.synchronize(index)
        asleep = device.memory(index)
        gone = bytes_less(context, before, asleep)
        context.check(
            0.9 * size <= gone <= 1.1 * size + (1 << 16),
            f"{size} bytes went to sleep at level {level}, the device has {gone} bytes more for others",
        )
        context.check(memory.mapped(other), f"{other} is not mapped any more")
        kept.check(f"while {tag} sleeps")
        extra = context.full(size // 8, value=1.0)
        del extra
        gc.collect()
        asleep = device.memory(index)
        sleeper.wake([tag])
        if level == 2:
            for tensor in mine.tensors.values():
                tensor.fill_(level)
        device.synchronize(index)
        taken = bytes_more(context, asleep, device.memory(index))
        context.check(
            0.9 * size <= taken, f"{size} bytes were woken at level {level}, the device has {taken} bytes less"
        )
        if level == 1:
            mine.check("after sleep and wake")


@law(part="lifecycle", id="lifecycle.queued-work-is-kept", deadline=40)
def queued_work_is_kept(context: LawContext) -> None:
    """Work that was queued when sleep was called, on any stream of the device, is done before anything is saved."""
    device, index = context.backend.device, context.device_index
    tag = fresh_tag("weights of lifecycle.queued-work-is-kept")
    mine = tagged(context, tag, {name: torch.zeros(64) for name in ("side", "own", "drained")})
    streams = {name: device.stream(index) for name in ("side", "own", "drained")}

    def late(name: str, value: float) -> None:
        with device.use_stream(streams[name]):
            keep_busy(context)
            mine.tensors[name].fill_(value)
        mine.contents[name] = torch.full((64,), value)

    class Draining(IdleHost):
        """An engine whose last batch is queued while it drains."""

        def drain(self, deadline: float) -> None:
            late("drained", 3.0)

    sleeper = lifecycle(context, host=Draining())
    late("side", 1.0)
    with device.use_stream(streams["own"]):
        late("own", 2.0)
        sleeper.sleep([tag])
    device.synchronize(index)
    sleeper.wake([tag])
    mine.check("after sleep and wake with work queued at the call")


@law(part="lifecycle", id="lifecycle.woken-memory-is-complete", deadline=40)
def woken_memory_is_complete(context: LawContext) -> None:
    """When wake returns the contents are there for work on every stream, not only for the one that copied them."""
    device, index = context.backend.device, context.device_index
    tag = fresh_tag("weights of lifecycle.woken-memory-is-complete")
    mine = tagged(context, tag, {"w": numbers(context, 4096)})
    stream, out = device.stream(index), context.empty(4096)
    sleeper = lifecycle(context)
    sleeper.sleep([tag])
    sleeper.wake([tag])
    if mine.tensors["w"].device != out.device:
        out = torch.empty(4096)
    with device.use_stream(stream):
        out.copy_(mine.tensors["w"])
    stream.synchronize()
    context.equal(out, mine.contents["w"], "a copy made on another stream right after wake")


@law(part="lifecycle", id="lifecycle.unknown-tags-are-refused", deadline=40)
def unknown_tags_are_refused(context: LawContext) -> None:
    """A tag that nobody put memory under is refused with a LifecycleError that names it and the known ones."""
    tag = fresh_tag("weights of lifecycle.unknown-tags-are-refused")
    mine = tagged(context, tag, {"w": numbers(context, 100)})
    memory, sleeper = context.backend.memory_map, lifecycle(context)
    alone = ("unmap", "map", "restore")  # of several tags these may have done some when they refuse one
    calls: dict[str, Callable[[list[str]], Any]] = {
        "save": memory.save,
        "unmap": memory.unmap,
        "map": memory.map,
        "restore": memory.restore,
        "discard": memory.discard,
        "digest": memory.digest,
        "mapped": lambda tags: memory.mapped(tags[-1]),
        "sleep": sleeper.sleep,
        "level 2 sleep": lambda tags: sleeper.sleep(tags, level=2),
    }
    for name, call in calls.items():
        with context.refuses(f"{name} of a tag that nobody knows", LifecycleError, naming=["wieghts", tag]):
            call(["wieghts"] if name in alone else [tag, "wieghts"])
        context.check(memory.mapped(tag), f"{name} of a known and an unknown tag took the memory of the known one")
    mine.check("after calls with an unknown tag")
    sleeper.sleep([tag])
    for name, call in {"wake": sleeper.wake, "committed": sleeper.committed}.items():
        with context.refuses(f"{name} of a tag that nobody knows", LifecycleError, naming=["wieghts"]):
            call([tag, "wieghts"] if name == "wake" else ["wieghts"])
        context.check(not memory.mapped(tag), f"{name} of a known and an unknown tag mapped the known one")
    with context.refuses("a sleep of level 3", LifecycleError, naming=["3"]):
        sleeper.sleep([tag], level=3)
    sleeper.wake()
    mine.check("after a wake that followed a refused one")
    context.check(sleeper.health().serving, f"after all that the rank does not serve: {sleeper.health().reason}")


@law(part="lifecycle", id="lifecycle.every-step-may-be-repeated", deadline=40)
def every_step_may_be_repeated(context: LawContext) -> None:
    """Each call of the memory map is idempotent per tag: twice is once, in contents and in bytes."""
    tag = fresh_tag("weights of lifecycle.every-step-may-be-repeated")
    mine = tagged(context, tag, {"w": numbers(context, 1 << 18), "v": numbers(context, 10)})
    memory, device, index = context.backend.memory_map, context.backend.device, context.device_index
    claimed = context.backend.capabilities.sleep

    def bytes_are(before: int, change: int, when: str) -> None:
        found = device.memory(index).allocated - before
        if claimed:
            room = 0.1 * mine.nbytes + 4096
            context.check(abs(found - change) <= room, f"{when} the device counts {found} bytes more, not {change}")

    for _ in range(2):
        memory.save([tag])
        memory.save([tag])
        before = device.memory(index).allocated  # on the host: resident bytes, to which comparing tensors adds
        memory.unmap([tag])
        memory.unmap([tag])
        context.check(not memory.mapped(tag), "the tag is mapped after it was unmapped twice")
        bytes_are(before, -mine.nbytes, "after unmapping twice")
        memory.map([tag])
        memory.map([tag])
        context.check(memory.mapped(tag), "the tag is not mapped after it was mapped twice")
        memory.restore([tag])
        memory.restore([tag])
        device.synchronize(index)
        bytes_are(before, 0, "after mapping and restoring twice")
        mine.check("after every step twice")
        memory.map([tag])
        mine.check("after memory that is mapped was mapped again")
        memory.discard([tag])
        memory.discard([tag])
        mine.check("after its copy was dropped twice")


@law(part="lifecycle", id="lifecycle.steps-out-of-order-are-refused", deadline=40)
def steps_out_of_order_are_refused(context: LawContext) -> None:
    """Saving, restoring or digesting what is not mapped, and restoring what was not saved, is a LifecycleError."""
    tag = fresh_tag("weights of lifecycle.steps-out-of-order-are-refused")
    mine = tagged(context, tag, {"w": numbers(context, 2000)})
    memory = context.backend.memory_map
    with context.refuses("restoring what was never saved", LifecycleError, naming=[tag]):
        memory.restore([tag])
    mine.check("after a refused restore")
    memory.save([tag])
    memory.unmap([tag])
    calls: dict[str, Callable[[list[str]], Any]] = {
        "save": memory.save,
        "restore": memory.restore,
        "digest": memory.digest,
    }
    for name, call in calls.items():
        with context.refuses(f"{name} of unmapped memory", LifecycleError, naming=[tag]):
            call([tag])
    memory.map([tag])
    memory.restore([tag])
    context.backend.device.synchronize(context.device_index)
    mine.check("after three refused calls")
    memory.discard([tag])
    with context.refuses("restoring from a copy that was dropped", LifecycleError, naming=[tag]):
        memory.restore([tag])


@law(part="lifecycle", id="lifecycle.digest-sees-every-element", deadline=40)
def digest_sees_every_element(context: LawContext) -> None:
    """A digest is of what is in memory now: any changed element or swapped halves change it, equal contents do not."""
    tag = fresh_tag("weights of lifecycle.digest-sees-every-element")
    mine = tagged(context, tag, {"w": numbers(context, 5000, dtype=torch.uint8), "v": torch.arange(3000)})
    memory, device = context.backend.memory_map, context.backend.device
    before = memory.digest([tag])
    context.check(len(before) == 2, f"two allocations are under the tag, the digest knows {sorted(before)}")
    context.check(all(key.startswith(f"{tag}/") for key in before), f"keys should read 'tag/what': {sorted(before)}")
    context.check(memory.digest([tag]) == before, "the digest of unchanged memory changed")

    def changed() -> int:
        device.synchronize(context.device_index)
        now = memory.digest([tag])
        return sum(now.get(key) != value for key, value in before.items())

    def check(name: str, place: int) -> None:
        tensor, host = mine.tensors[name], mine.contents[name]
        at = place % host.numel()
        tensor[at : at + 1].copy_(host[at : at + 1] + 1)
        context.check(changed() == 1, f"element {at} of {name} changed, {changed()} digests did")
        tensor.copy_(host)
        context.check(changed() == 0, f"element {at} of {name} was set back, {changed()} digests differ")

    for name in mine.tensors:
        check(name, 0)
        check(name, -1)
    context.examples(check, count=10, name=st.sampled_from(["w", "v"]), place=st.integers(0, 10000))
    half = 1500
    mine.tensors["v"].copy_(torch.cat([mine.contents["v"][half:], mine.contents["v"][:half]]))
    context.check(changed() == 1, "the halves of v were swapped, its digest is the same")


@law(part="lifecycle", id="lifecycle.holders-are-true", deadline=40)
def holders_are_true(context: LawContext) -> None:
    """`holders` lists every living allocation with its tag, size and state, largest first; `tags` knows its tag."""
    tag = fresh_tag("weights of lifecycle.holders-are-true")
    sizes = {"small": 1000, "large": 90000, "middle": 20000}
    mine = tagged(context, tag, {name: numbers(context, size, dtype=torch.uint8) for name, size in sizes.items()})
    memory = context.backend.memory_map

    def check(mapped: bool, saved: bool | None, when: str, count: int = 3) -> None:
        found = [holding for holding in memory.holders() if holding.tag == tag]
        context.check(len(found) == count, f"{when}: {count} allocations live under the tag, {len(found)} are listed")
        listed = [holding.nbytes for holding in memory.holders()]
        context.check(listed == sorted(listed, reverse=True), f"{when}: holders are not listed largest first: {listed}")
        for holding, size in zip(found, sorted(sizes.values(), reverse=True), strict=False):
            context.check(
                size <= holding.nbytes <= size + (4 << 20), f"{when}: {size} bytes are listed as {holding.nbytes}"
            )
            context.check(holding.mapped == mapped, f"{when}: {holding.what} is listed with mapped={holding.mapped}")
            if saved is not None:
                context.check(holding.saved == saved, f"{when}: {holding.what} is listed with saved={holding.saved}")
        context.check(len({holding.what for holding in found}) == count, f"{when}: two holdings have one name")
        context.check(memory.mapped(tag) == mapped, f"{when}: mapped() is {memory.mapped(tag)}")
        context.check(tag in memory.tags(), f"{when}: tags() does not know {tag}")

    check(True, False, "before sleep")
    memory.save([tag])
    check(True, True, "after save")
    memory.unmap([tag])
    check(False, True, "after unmap")
    memory.map([tag])
    check(True, True, "after map")
    memory.restore([tag])
    memory.discard([tag])
    check(True, False, "after discard")
    places = {holding.device for holding in memory.holders() if holding.tag == tag}
    context.check(
        places == {str(mine.tensors["large"].device)}, f"on {mine.tensors['large'].device}, listed on {places}"
    )
    del mine.tensors["middle"], sizes["middle"]
    check(True, False, "after a tensor was dropped", count=2)


@law(part="lifecycle", id="lifecycle.pools-take-what-is-theirs", deadline=40)
def pools_take_what_is_theirs(context: LawContext) -> None:
    """A pool takes what its thread allocates inside its block, and nothing else: a block inside it has its own tag."""
    memory = context.backend.memory_map
    outer, inner = (f"{name} of lifecycle.pools-take-what-is-theirs" for name in ("outer", "inner"))
    probe = tagged(context, outer, {"probe": numbers(context, 10)})
    device = probe.tensors["probe"].device
    del probe
    size = 10000

    def allocate() -> torch.Tensor:
        return torch.zeros(size, dtype=torch.uint8, device=device)

    def count(tag: str) -> int:
        return sum(holding.nbytes >= size for holding in memory.holders() if holding.tag == tag)

    kept = []
    with memory.pool(outer, context.device_index):
        kept.append(allocate())
        with memory.pool(inner, context.device_index):
            kept.append(allocate())
        kept.append(allocate())
        kept.append(context.in_thread(allocate))
    kept.append(allocate())
    try:
        with memory.pool(outer, context.device_index):
            raise ArithmeticError("planted")
    except ArithmeticError:
        kept.append(allocate())
    found = {"outer": count(outer), "inner": count(inner)}
    context.check(
        found == {"outer": 2, "inner": 1},
        f"two tensors belong to the outer pool, one to the inner, three to none; listed are {found}",
    )


@law(part="lifecycle", id="lifecycle.one-memory-has-one-tag", deadline=40)
def one_memory_has_one_tag(context: LawContext) -> None:
    """Existing tensors can be adopted and then sleep, or are refused by name; memory never has two tags."""
    memory = context.backend.memory_map
    tag, other = (f"{name} of lifecycle.one-memory-has-one-tag" for name in ("weights", "other"))
    contents = {"w_adopted": numbers(context, 700), "v_adopted": numbers(context, 20)}
    tensors = {name: context.to_device(host) for name, host in contents.items()}
    try:
        memory.adopt(tag, tensors)
    except LifecycleError as error:
        context.check(any(name in str(error) for name in contents), f"the refusal names no tensor: {error}")
        context.note("existing tensors are not adopted")
    else:
        addresses = {name: tensor.data_ptr() for name, tensor in tensors.items()}
        memory.adopt(tag, tensors)
        count = sum(holding.tag == tag for holding in memory.holders())
        context.check(count == 2, f"two tensors were adopted twice, {count} are listed")
        sleeper = lifecycle(context)
        sleeper.sleep([tag])
        context.check(not memory.mapped(tag), "adopted memory is mapped while it sleeps")
        sleeper.wake([tag])
        for name, tensor in tensors.items():
            context.equal(tensor, contents[name], f"{name} after sleep and wake")
            context.check(tensor.data_ptr() == addresses[name], f"{name} is at another address after sleep and wake")
        with context.refuses("memory under two tags", LifecycleError, naming=["w_adopted"]):
            memory.adopt(other, {"w_adopted": tensors["w_adopted"]})
    pooled = tagged(context, tag, {"w": numbers(context, 30)})
    with context.refuses("pooled memory under a second tag", LifecycleError, naming=["w_again"]):
        memory.adopt(other, {"w_again": pooled.tensors["w"][3:]})
    if pooled.tensors["w"].device.type != "cpu":
        with context.refuses("host memory in a map of device memory", LifecycleError, naming=["on_host"]):
            memory.adopt(tag, {"on_host": torch.zeros(4)})


# -- one rank ------------------------------------------------------------------------------------------------------


@law(part="lifecycle", id="lifecycle.steps-are-in-order", deadline=40)
def steps_are_in_order(context: LawContext) -> None:
    """Close, drain, wait for the device, vote, only then unmap; map, restore, wait, check, vote, resume, admit."""
    for world in (1, 2):
        with ThreadRanks(context, world) as ranks:
            ranks.must(ranks.sleep(), "sleep")
            for rank in range(world):
                _check_sleep_order(context, ranks.script, rank)
            ranks.must_be(["ASLEEP"], "after sleep")
            ranks.script.clear()
            ranks.must(ranks.wake(), "wake")
            for rank in range(world):
                _check_wake_order(context, ranks.script, rank)
            ranks.must_be(["RUNNING"], "after wake")
            for host in ranks.hosts:
                given = host.drains
                fine = bool(given) and all(0 < deadline <= ranks.deadlines.steps for deadline in given)
                context.check(fine, f"drain was given the deadlines {given}, of {ranks.deadlines.steps:g} s in all")


def _check_sleep_order(context: LawContext, script: Script, rank: int) -> None:
    check = context.check
    close, drain = script.of(rank, "close_admission"), script.of(rank, "drain")
    check(close and drain, f"sleep of rank {rank} closed admission {len(close)} times, drained {len(drain)} times")
    check(close[0].end <= drain[0].begin, f"rank {rank} drained before admission was closed")
    touched = script.of(rank, "digest", "save", "unmap")
    check(script.of(rank, "save") and script.of(rank, "unmap"), f"rank {rank} saved and unmapped nothing")
    waited = [e for e in script.of(rank, "synchronize") if e.begin >= drain[-1].end and e.end <= touched[0].begin]
    check(waited, f"rank {rank} did not wait for its device between the end of drain and '{touched[0].step}'")
    for unmap in script.of(rank, "unmap"):
        for tag in set(unmap.tags) - VOLATILE:
            saved = [e for e in script.of(rank, "save") if tag in e.tags and e.end <= unmap.begin]
            check(saved, f"rank {rank} unmapped {tag} before it was saved")
    votes = script.of(rank, "vote")
    first = script.of(rank, "unmap")[0]
    check(any(vote.end <= first.begin for vote in votes), f"rank {rank} unmapped before a vote")
    last = script.of(rank, "unmap")[-1]
    check(any(vote.begin >= last.end for vote in votes), f"rank {rank} did not vote after it had unmapped")


def _check_wake_order(context: LawContext, script: Script, rank: int) -> None:
    check = context.check
    for restore in script.of(rank, "restore"):
        for tag in restore.tags:
            mapped = [e for e in script.of(rank, "map") if tag in e.tags and e.end <= restore.begin]
            check(mapped, f"rank {rank} restored {tag} before it was mapped")
    restored = script.of(rank, "restore")
    check(restored, f"rank {rank} restored nothing")
    resume, opened = script.of(rank, "resume"), script.of(rank, "open_admission")
    check(resume and opened, f"wake of rank {rank} resumed {len(resume)} times, admitted {len(opened)} times")
    digests = [e for e in script.of(rank, "digest") if e.begin >= restored[-1].end and e.end <= resume[0].begin]
    seen = {tag for entry in digests for tag in entry.tags}
    absent = set(TAGS) - VOLATILE - seen
    check(not absent, f"rank {rank} resumed without a look at the contents of {sorted(absent)}")
    waited = [e for e in script.of(rank, "synchronize") if e.begin >= restored[-1].end and e.end <= resume[0].begin]
    check(waited, f"rank {rank} did not wait for its device between restore and resume")
    check(resume[-1].end <= opened[0].begin, f"rank {rank} opened admission before the engine had resumed")
    votes = [e for e in script.of(rank, "vote") if e.begin >= digests[-1].end and e.end <= opened[0].begin]
    check(votes, f"rank {rank} opened admission without a vote")


def _model(kind: str, tags: frozenset[str], state: dict[str, Any], level: int) -> bool:
    """What the protocol says of one call: changes `state`, False if it is to be refused."""
    if kind == "sleep":
        touched = tags - state["asleep"]
        if touched:
            state["epoch"] += 1
            state["asleep"] |= touched
            if level == 2:
                state["undefined"] |= touched - VOLATILE
    elif kind == "wake":
        if state["epoch"] == 0:
            return False
        state["asleep"] -= tags
    else:
        if tags & state["asleep"]:
            return False
        state["undefined"] -= tags
    return True


@law(part="lifecycle", id="lifecycle.any-sequence-is-lawful", deadline=60)
def any_sequence_is_lawful(context: LawContext) -> None:
    """Whatever is called in whatever order: phase, tags, epoch, admission and contents are what the calls add up to."""

    def check(calls: list[tuple[str, list[str], int]]) -> None:
        with ThreadRanks(context, 1) as ranks:
            state: dict[str, Any] = {"epoch": 0, "asleep": frozenset(), "undefined": frozenset()}
            rewritten: set[str] = set()
            for number, (kind, tags, level) in enumerate(calls):
                chosen = frozenset(tags)
                rewrite = chosen & state["undefined"] - state["asleep"] if kind == "committed" else frozenset()
                for tag in rewrite:
                    ranks.memories[0].contents[tag] = ranks.originals[0][tag] = bytes([number + 50] * 16)
                before = dict(state)
                allowed = _model(kind, chosen, state, level)
                outcome = ranks.sleep(tags, level) if kind == "sleep" else getattr(ranks, kind)(tags)
                when = f"after {calls[: number + 1]}"
                if allowed:
                    ranks.must(outcome, when)
                else:
                    ranks.must_refuse(outcome, when)
                    context.check(state == before, "the model changed")
                phase = "ASLEEP" if state["asleep"] else "REMAPPED" if state["undefined"] else "RUNNING"
                ranks.must_be([phase], when)
                health = ranks.lifecycles[0].health()
                found = {
                    "epoch": health.epoch,
                    "asleep": frozenset(health.asleep),
                    "undefined": frozenset(health.undefined),
                }
                context.check(found == state, f"{when} health says {found}, expected {state}")
                context.check(health.healthy and not health.operation, f"{when} health says {health}")
                rewritten |= rewrite

    some = st.lists(st.sampled_from(TAGS), min_size=1, max_size=3, unique=True)
    call = st.tuples(st.sampled_from(["sleep", "sleep", "wake", "wake", "committed"]), some, st.integers(1, 2))
    for calls in (
        [("sleep", ["weights"], 1), ("sleep", ["weights"], 2), ("wake", ["weights"], 1)],
        [("sleep", ["weights"], 2), ("wake", ["weights"], 1), ("sleep", ["experts"], 1), ("committed", ["weights"], 1)],
    ):
        check(calls)
    context.examples(check, count=15, calls=st.lists(call, min_size=1, max_size=6))


@law(part="lifecycle", id="lifecycle.twice-is-once", deadline=40)
def twice_is_once(context: LawContext) -> None:
    """A second sleep changes nothing and saves nothing over the good copy; so does a second wake."""
    tag = fresh_tag("weights of lifecycle.twice-is-once")
    mine = tagged(context, tag, {"w": numbers(context, 3000)})
    sleeper, memory = lifecycle(context), context.backend.memory_map
    for _ in range(2):
        first = sleeper.sleep([tag])
        for level in (1, 2):
            context.check(sleeper.sleep([tag], level=level) == first, f"a second sleep, level {level}, changed health")
        context.check(not memory.mapped(tag), "the tag is mapped after two sleeps")
        context.check(not first.serving and first.healthy, f"asleep, health says {first}")
        awake = sleeper.wake([tag])
        mine.check("after two sleeps and a wake")
        mine.write(5)
        context.check(sleeper.wake([tag]) == awake, "a second wake changed health")
        mine.check("after it was written and woken again")
        context.check(awake.serving, f"awake, health says {awake}")
    context.check(sleeper.health().epoch == 2, f"two sleeps took memory, the epoch is {sleeper.health().epoch}")
    with ThreadRanks(context, 2) as ranks:
        ranks.must(ranks.sleep(), "sleep")
        ranks.script.clear()
        ranks.must(ranks.sleep(level=2), "a second sleep")
        ranks.must_be(["ASLEEP"], "after two sleeps")
        ranks.must(ranks.wake(), "wake")
        ranks.must_be(["RUNNING"], "after two sleeps and a wake")


@law(part="lifecycle", id="lifecycle.wake-before-sleep-is-refused", deadline=40)
def wake_before_sleep_is_refused(context: LawContext) -> None:
    """A wake before any sleep is refused, touches nothing, and leaves every rank serving."""
    for world in (1, 2):
        with ThreadRanks(context, world) as ranks:
            for tags in (None, ["weights"]):
                ranks.must_refuse(ranks.wake(tags), "a wake before any sleep")
                ranks.must_be(["RUNNING"], "after a refused wake")
            touched = [entry.step for entry in ranks.script.of(0, "map", "restore", "unmap", "drain")]
            context.check(not touched, f"a wake before any sleep did {touched}")
            ranks.must(ranks.sleep(), "a sleep after a refused wake")


@law(part="lifecycle", id="lifecycle.level-2-loses-contents", deadline=40)
def level_2_loses_contents(context: LawContext) -> None:
    """After a level 2 sleep and a wake nothing is served until `committed`: the contents are nobody's, and it says so.

    Tags that are volatile need no contents and are not waited for.
    """
    for world in (1, 2):
        with ThreadRanks(context, world) as ranks:
            ranks.must(ranks.sleep(level=2), "a level 2 sleep")
            ranks.must_be(["ASLEEP"], "after a level 2 sleep")
            ranks.must_refuse(ranks.committed(["weights"]), "committed of a tag that sleeps", "weights")
            ranks.must(ranks.wake(), "wake")
            lost = set(TAGS) - VOLATILE

            def waits(lost: set[str], when: str, ranks: ThreadRanks = ranks) -> None:
                ranks.must_be(["REMAPPED"], when, written=TAGS)
                for rank, health in enumerate(ranks.healths()):
                    context.check(
                        set(health.undefined) == lost, f"{when}: rank {rank} calls {health.undefined} undefined"
                    )
                    with context.refuses(f"{when}: serving on rank {rank}", LifecycleError, naming=sorted(lost)):
                        ranks.lifecycles[rank].require_serving()

            waits(lost, "after a level 2 sleep and a wake")
            ranks.must(ranks.wake(), "a second wake")
            waits(lost, "after a second wake")
            ranks.must(ranks.committed(["experts"]), "committed of experts")
            waits(lost - {"experts"}, "after the experts were committed")
            ranks.must(ranks.committed(), "committed")
            ranks.must_be(["RUNNING"], "after all was committed", written=TAGS)
            for lifecycle_ in ranks.lifecycles:
                lifecycle_.require_serving()
            told = [set(calls[-1]) if calls else set() for calls in (host.lost for host in ranks.hosts)]
            context.check(
                all(call >= VOLATILE for call in told), f"resume has to hear that {set(VOLATILE)} is lost, heard {told}"
            )
            ranks.must(ranks.sleep(), "a level 1 sleep after it")
            ranks.must(ranks.wake(), "a wake after it")
            ranks.must_be(["RUNNING"], "after another sleep and wake", written=TAGS)


@law(part="lifecycle", id="lifecycle.level-2-keeps-addresses", deadline=40)
def level_2_keeps_addresses(context: LawContext) -> None:
    """After a level 2 sleep and a wake tensors are at their addresses and can be written; `committed` then serves."""
    tag = fresh_tag("weights of lifecycle.level-2-keeps-addresses")
    mine = tagged(context, tag, {"w": numbers(context, 3000), "v": numbers(context, 5)})
    sleeper = lifecycle(context)
    sleeper.sleep([tag], level=2)
    context.check(not context.backend.memory_map.mapped(tag), "the tag is mapped after a level 2 sleep")
    health = sleeper.wake([tag])
    context.check(not health.serving, "after a level 2 sleep and a wake, before any update, the rank serves")
    context.check(tag in health.undefined, f"nothing says that {tag} lost its contents: undefined={health.undefined}")
    mine.write(3)
    context.check(not sleeper.health().serving, "written, and not committed: the rank serves")
    health = sleeper.committed([tag])
    context.check(health.serving and not health.undefined, f"after the commit health says {health}")
    mine.check("after a level 2 sleep, a wake and an update")
    sleeper.sleep([tag])
    sleeper.wake([tag])
    mine.check("after a level 1 sleep that followed a level 2 sleep")


@law(part="lifecycle", id="lifecycle.admission-is-closed-while-asleep", deadline=40)
def admission_is_closed_while_asleep(context: LawContext) -> None:
    """From the first step of sleep to the last of wake nothing is admitted, and `health` says so at every step."""
    with ThreadRanks(context, 2) as ranks:
        wrong: list[str] = []

        def watch(rank: int, step: str) -> None:
            begin = time.monotonic()
            health = ranks.lifecycles[rank].health()
            took = time.monotonic() - begin
            if health.serving:
                wrong.append(f"health says serving in '{step}'")
            if ranks.hosts[rank].admits and step not in ("close_admission", "vote", "discard"):
                wrong.append(f"requests are admitted in '{step}'")
            if took > 1.0:
                wrong.append(f"health took {took:.1f} s in '{step}'")
            if not health.operation:
                wrong.append(f"health names no operation in '{step}'")

        ranks.script.watch = watch
        ranks.must(ranks.sleep(["experts", "weights"]), "sleep")
        ranks.must(ranks.sleep(["kv_cache"]), "sleep of another tag")
        for tags in (["weights"], ["kv_cache"]):
            ranks.must(ranks.wake(tags), "wake of some tags")
            ranks.must_be(["ASLEEP"], f"after a wake of {tags} alone")
        # The vote that ends a wake and what follows it may already count as served; nothing before it may.
        ranks.script.watch = lambda rank, step: watch(rank, step) if step != "open_admission" else None
        before_open = [w for w in wrong if "operation" not in w]
        context.check(not before_open, "; ".join(dict.fromkeys(before_open)))
        ranks.must(ranks.wake(), "wake")
        ranks.must_be(["RUNNING"], "after the last tag woke")
        found = [w for w in dict.fromkeys(wrong) if "'discard'" not in w and "'open_admission'" not in w]
        context.check(not found, "; ".join(found))


@law(part="lifecycle", id="lifecycle.one-operation-at-a-time", deadline=40)
def one_operation_at_a_time(context: LawContext) -> None:
    """While an operation is under way another one is refused at once; the first goes on, and `health` never waits."""
    with ThreadRanks(context, 1, [Fault(0, "drain", "hang")]) as ranks:
        inside = threading.Event()
        ranks.script.watch = lambda rank, step: inside.set() if step == "drain" else None
        answers: list[str] = []

        def intrude() -> None:
            inside.wait(5.0)
            for name in ("sleep", "wake", "committed"):
                begin = time.monotonic()
                try:
                    getattr(ranks.lifecycles[0], name)()
                    answers.append(f"{name} during a sleep was accepted")
                except LifecycleError:
                    pass
                took = time.monotonic() - begin
                if took > 1.0:
                    answers.append(f"{name} during a sleep waited {took:.2f} s")
            health = ranks.lifecycles[0].health()
            if not health.operation or health.serving:
                answers.append(f"during a sleep health says {health}")
            ranks.script.let_go()

        thread = threading.Thread(target=intrude, daemon=True)
        thread.start()
        ranks.must(ranks.sleep(), "a sleep into which others called")
        thread.join(5.0)
        context.check(not answers, "; ".join(answers))
        ranks.must_be(["ASLEEP"], "after a sleep into which others called")
        ranks.script.watch = lambda rank, step: None
        ranks.must(ranks.wake(), "wake")
        ranks.must_be(["RUNNING"], "after it was woken")


@law(part="lifecycle", id="lifecycle.wrong-contents-are-not-served", deadline=40)
def wrong_contents_are_not_served(context: LawContext) -> None:
    """Contents that differ after wake from those that were put to sleep are refused by name, and no rank serves."""
    for world in (1, 2):
        for how, tags in (("corrupt first", None), ("corrupt last", None), ("corrupt last", ["weights"])):
            with ThreadRanks(context, world, [Fault(world - 1, "restore", how, always=True)]) as ranks:
                ranks.must(ranks.sleep(), "sleep")
                ranks.must_refuse(ranks.wake(tags), "a wake that brings other contents", str(world - 1))
                ranks.must_be(["ASLEEP", "FAILED"], "after a wake that brought other contents")


# -- several ranks -------------------------------------------------------------------------------------------------


@law(part="lifecycle", id="lifecycle.nobody-goes-ahead", deadline=40)
def nobody_goes_ahead(context: LawContext) -> None:
    """No rank unmaps before every rank has drained and waited for its device, and none resumes or admits before every
    rank is mapped, restored and checked; each step of every rank may be the late one.
    """
    world = 3

    def check(slow: int, steps: tuple[str, ...]) -> None:
        with ThreadRanks(context, world, [Fault(slow, step, "late") for step in steps]) as ranks:
            outcomes = ranks.sleep()
            ranks.must(outcomes, "sleep")
            of = ranks.script.of
            ready = max(of(rank, "synchronize")[0].end for rank in range(world))
            for rank in range(world):
                begin = of(rank, "unmap")[0].begin
                context.check(
                    begin >= ready,
                    f"rank {rank} unmapped {ready - begin:.2f} s before all had waited, rank {slow} late",
                )
            done = max(of(rank, "unmap")[-1].end for rank in range(world))
            for rank, outcome in enumerate(outcomes):
                context.check(
                    outcome.returned >= done, f"sleep returned on rank {rank} before every rank had given memory back"
                )
            # The late restore waits for `wake`; a late digest has had its turn in sleep.
            ranks.script.faults += [Fault(slow, step, "late") for step in steps if step == "digest"]
            ranks.script.clear()
            outcomes = ranks.wake()
            ranks.must(outcomes, "wake")
            ready = max(entry.end for rank in range(world) for entry in of(rank, "map", "restore", "digest"))
            resumed = max(entry.end for rank in range(world) for entry in of(rank, "resume"))
            for rank in range(world):
                begin = of(rank, "resume")[0].begin
                context.check(
                    begin >= ready,
                    f"rank {rank} resumed {ready - begin:.2f} s before all were mapped, rank {slow} late",
                )
                opened = of(rank, "open_admission")[0].begin
                context.check(opened >= resumed, f"rank {rank} admitted requests before all had resumed")

    late = ((0, ("drain", "map", "resume")), (2, ("synchronize", "restore")), (1, ("unmap", "digest")))
    at_once(*(functools.partial(check, slow, steps) for slow, steps in late))


SLEEP_STEPS = ("close_admission", "drain", "synchronize", "digest", "save", "unmap")
WAKE_STEPS = ("map", "restore", "synchronize", "digest", "resume")


def _one_fault(context: LawContext, world: int, rank: int, step: str, kind: str, level: int) -> None:
    """One rank raises once in one step of a sleep or a wake."""
    what = f"a {kind} in which {step} raised on rank {rank} of {world}"
    with ThreadRanks(context, world) as ranks:
        if kind == "wake":
            ranks.must(ranks.sleep(level=level), "sleep")
        ranks.script.faults.append(Fault(rank, step))
        outcomes = ranks.sleep(level=level) if kind == "sleep" else ranks.wake()
        if ranks.script.faults:
            return  # this step is no part of it, for example a restore after level 2
        ranks.must_refuse(outcomes, what, f"rank {rank}", f"planted in {step}")
        for outcome in outcomes:
            context.check(outcome.seconds < PROMPT, f"{what} took {outcome.seconds:.1f} s")
        if kind == "wake":
            allowed = ["ASLEEP", "FAILED"]
        elif step in ("close_admission", "drain", "synchronize"):
            allowed = ["RUNNING"]
        else:
            allowed = ["RUNNING", "FAILED"] if level == 1 else ["RUNNING", "REMAPPED", "FAILED"]
        phase = ranks.must_be(allowed, f"after {what}")
        if phase == "FAILED":
            return
        if phase == "RUNNING":
            context.check(
                all(health.epoch == 0 for health in ranks.healths()), f"after {what} the epoch counts a sleep"
            )
            ranks.must(ranks.sleep(), f"another sleep after {what}")
        if phase != "REMAPPED":
            ranks.must(ranks.wake(), f"a wake after {what}")
        if any(health.undefined for health in ranks.healths()):
            ranks.must(ranks.committed(), f"committed after {what}")
        written = TAGS if level == 2 else ()
        ranks.must_be(["RUNNING"], f"after {what}, and all of it again without a fault", written=written)


@law(part="lifecycle", id="lifecycle.a-fault-strands-nobody", deadline=60)
def a_fault_strands_nobody(context: LawContext) -> None:
    """When a rank raises in any step, every rank hears of it by name at once, and all end alike: serving the old
    contents, asleep, or FAILED. Before the first vote nothing has changed.
    """
    for kind, steps in (("sleep", SLEEP_STEPS), ("wake", WAKE_STEPS)):
        for step in steps:
            for rank in (0, 1):
                _one_fault(context, 2, rank, step, kind, 1)
        _one_fault(context, 1, 0, steps[0], kind, 1)
        _one_fault(context, 3, 1, "unmap" if kind == "sleep" else "map", kind, 2)


@law(part="lifecycle", id="lifecycle.many-faults-end-alike", deadline=60)
def many_faults_end_alike(context: LawContext) -> None:
    """Whatever fails on however many ranks, once or again in every attempt: nobody waits, and no rank serves alone."""
    seen: dict[str, int] = {}

    def check(world: int, faults: list[tuple[int, str, bool]], level: int) -> None:
        planted = [Fault(rank % world, step, always=always) for rank, step, always in faults]
        with ThreadRanks(context, world, planted) as ranks:
            for kind in ("sleep", "wake"):
                raised = [o for o in (ranks.sleep(level=level) if kind == "sleep" else ranks.wake()) if o.error]
                context.check(len(raised) in (0, world), f"{kind} raised on {len(raised)} of {world} ranks")
                phase = ranks.must_be(["RUNNING", "ASLEEP", "REMAPPED", "FAILED"], f"after {kind} with {planted}")
                seen[phase] = seen.get(phase, 0) + 1

    steps = sorted({*SLEEP_STEPS, *WAKE_STEPS})
    fault = st.tuples(st.integers(0, 3), st.sampled_from(steps), st.booleans())
    check(2, [(0, "unmap", False), (0, "map", True)], 1)
    check(2, [(1, "map", True), (1, "unmap", True)], 1)
    check(4, [(3, "resume", True)], 1)
    context.examples(
        check,
        count=15,
        world=st.integers(1, 4),
        faults=st.lists(fault, min_size=1, max_size=3),
        level=st.integers(1, 2),
    )
    context.check(seen.get("FAILED"), f"a fault in every attempt should fail the engine, the phases were {seen}")


@law(part="lifecycle", id="lifecycle.failed-stays-failed", deadline=40)
def failed_stays_failed(context: LawContext) -> None:
    """An engine that can neither go on nor back is FAILED on every rank: health says so and why, every later call is
    refused at once with that reason, and nothing is served.
    """
    plans = {
        "a rollback that raises": ("sleep", [Fault(0, "unmap"), Fault(0, "map", always=True)]),
        "a resume that raises": ("wake", [Fault(1, "resume", always=True)]),
        "a retreat that raises": ("wake", [Fault(1, "map", always=True)]),
    }
    for what, (kind, faults) in plans.items():
        with ThreadRanks(context, 2, faults if kind == "sleep" else ()) as ranks:
            if kind == "wake":
                ranks.must(ranks.sleep(), "sleep")
                ranks.script.faults += faults
            if "retreat" in what:
                ranks.script.faults.append(Fault(0, "unmap", always=True))
            ranks.must_refuse((ranks.sleep if kind == "sleep" else ranks.wake)(), what)
            ranks.must_be(["FAILED"], f"after {what}")
            for name in ("sleep", "wake", "committed"):
                before = [len(ranks.script.of(rank)) for rank in (0, 1)]
                later = getattr(ranks, name)()
                ranks.must_refuse(later, f"{name} after {what}", "FAILED", "planted")
                context.check(
                    before == [len(ranks.script.of(rank)) for rank in (0, 1)], f"{name} after {what} did something"
                )
                ranks.must_be(["FAILED"], f"after {what} and a refused {name}")
            for lifecycle_ in ranks.lifecycles:
                with context.refuses(f"serving after {what}", LifecycleError, naming=["FAILED", "planted"]):
                    lifecycle_.require_serving()


@law(part="lifecycle", id="lifecycle.a-hang-is-named", deadline=40)
def a_hang_is_named(context: LawContext) -> None:
    """A step that hangs is given up at the deadline: every rank hears which rank and step it was, and none serves with
    memory that may still be changing. Before the first vote no rank unmaps.
    """
    deadlines = Deadlines(steps=0.5, vote=0.5)

    def check(kind: str, step: str) -> None:
        what = f"a {kind} in which {step} hangs on rank 1"
        with ThreadRanks(context, 2, (), deadlines) as ranks:
            if kind == "wake":
                ranks.must(ranks.sleep(), "sleep")
            ranks.script.faults.append(Fault(1, step, "hang", always=True))
            limit = 3 * (deadlines.steps + deadlines.vote) + SLACK
            outcomes = ranks.sleep(within=limit) if kind == "sleep" else ranks.wake(within=limit)
            ranks.must_refuse(outcomes, what)
            context.check("rank 1" in outcomes[0].text, f"{what}: rank 0 is not told which one: {outcomes[0].text}")
            context.check(step in outcomes[1].text, f"{what}: rank 1 does not say where: {outcomes[1].text}")
            if step in ("drain", "synchronize"):
                prompt = deadlines.steps + deadlines.vote + SLACK
                slowest = max(outcome.seconds for outcome in outcomes)
                context.check(slowest <= prompt, f"{what} took {slowest:.1f} s, the deadlines are {deadlines}")
                for rank in (0, 1):
                    context.check(not ranks.script.of(rank, "unmap"), f"{what}: rank {rank} unmapped")
                context.check(ranks.lifecycles[0].health().serving, f"{what}: rank 0, unharmed, does not serve")
            else:
                for rank, health in enumerate(ranks.healths()):
                    context.check(not health.serving, f"{what}: rank {rank} serves")
                    context.check(health.phase != "RUNNING", f"{what}: rank {rank} calls itself RUNNING")
            hung = ranks.lifecycles[1].health()
            context.check(not hung.healthy and not hung.serving, f"{what}: rank 1 itself says {hung}")
            begin = time.monotonic()
            with context.refuses(f"another sleep on the rank where {step} still hangs", LifecycleError):
                ranks.lifecycles[1].sleep()
            context.check(time.monotonic() - begin < 1.0, f"{what}: the next call waited")

    cases = [("sleep", "drain"), ("sleep", "synchronize"), ("sleep", "unmap"), ("wake", "map"), ("wake", "restore")]
    at_once(*(functools.partial(check, kind, step) for kind, step in cases))


@law(part="lifecycle", id="lifecycle.an-absent-rank-is-named", deadline=40)
def an_absent_rank_is_named(context: LawContext) -> None:
    """A rank that does not come is named on the others within the deadline; nothing is unmapped, and health tells."""
    deadlines = Deadlines(steps=0.4, vote=0.4)
    with ThreadRanks(context, 3, (), deadlines) as ranks:
        limit = deadlines.steps + deadlines.vote + SLACK
        for outcome in ranks.sleep(ranks=[0, 2], within=limit):
            context.check(isinstance(outcome.error, LifecycleError), f"without rank 1, sleep gave {outcome.error!r}")
            context.check("rank 1" in outcome.text, f"rank 1 did not come, the error names {outcome.text}")
            context.check(outcome.seconds >= 0.4, f"rank 1 was waited for {outcome.seconds:.2f} s only")
        for rank in (0, 2):
            health = ranks.lifecycles[rank].health()
            context.check(not ranks.script.of(rank, "unmap"), f"rank {rank} unmapped although rank 1 did not come")
            context.check(1 in health.missing and not health.healthy, f"rank 1 did not come, rank {rank} says {health}")
            context.check(ranks.memories[rank].contents == ranks.originals[rank], f"rank {rank} has other contents")


@law(part="lifecycle", id="lifecycle.disagreement-is-refused", deadline=40)
def disagreement_is_refused(context: LawContext) -> None:
    """Ranks that are asked for different things (tags, level, operation, operation id) refuse, and nothing changes."""
    calls: dict[str, Callable[[Any, int], Any]] = {
        "other tags": lambda it, rank: it.sleep(["weights"] if rank else ["experts"]),
        "other levels": lambda it, rank: it.sleep(level=1 + rank),
        "other operations": lambda it, rank: it.wake() if rank else it.sleep(),
        "other operation ids": lambda it, rank: it.sleep(op_id=7 + rank),
        "an unknown tag on one rank": lambda it, rank: it.sleep(["weights", "wieghts"] if rank else ["weights"]),
    }
    for what, call in calls.items():
        with ThreadRanks(context, 2) as ranks:
            ranks.must_refuse(ranks.each(call), what)
            ranks.must_be(["RUNNING"], f"after {what}")
            for rank in (0, 1):
                context.check(not ranks.script.of(rank, "unmap"), f"{what}: rank {rank} unmapped")
            # With numbers that they give themselves the ranks would go on disagreeing; that caller's mistake stays.
            ranks.must(ranks.each(lambda it, rank: it.sleep(op_id=20)), f"a sleep after {what}")


@law(part="lifecycle", id="lifecycle.epochs-count-sleeps", deadline=40)
def epochs_count_sleeps(context: LawContext) -> None:
    """`epoch` counts the sleeps that took memory, alike on every rank; failed and empty ones do not count."""
    with ThreadRanks(context, 2) as ranks:

        def check(epoch: int, when: str) -> None:
            found = [health.epoch for health in ranks.healths()]
            context.check(found == [epoch] * 2, f"{when} the epochs are {found}, expected {epoch}")

        check(0, "at first")
        ranks.must(ranks.sleep(["weights"]), "sleep")
        check(1, "after a sleep")
        ranks.must(ranks.sleep(["weights"]), "the same sleep again")
        check(1, "after the same sleep again")
        ranks.must(ranks.sleep(["experts"]), "a sleep of another tag")
        check(2, "after a sleep of another tag")
        ranks.must(ranks.wake(), "wake")
        check(2, "after a wake")
        ranks.script.faults.append(Fault(1, "drain"))
        ranks.must_refuse(ranks.sleep(), "a sleep whose drain raises")
        check(2, "after a sleep that failed")
        ranks.must(ranks.sleep(level=2), "a level 2 sleep")
        check(3, "after a level 2 sleep")


# -- processes -----------------------------------------------------------------------------------------------------


@law(part="lifecycle", id="lifecycle.processes-sleep-together", ranks=(2, 4), deadline=60)
def processes_sleep_together(context: LawContext) -> None:
    """Ranks in processes sleep and wake as one over the backend's own communicator: none unmaps before all have waited
    for their devices, none admits before all have their contents.
    """
    group = context.communicator()
    tag = "weights of lifecycle.processes-sleep-together"
    mine = tagged(context, tag, {"w": numbers(context, 500) if context.rank == 0 else torch.full((500,), 1.0)})
    store, memory, late = context.store, context.backend.memory_map, context.world_size - 1
    assert store is not None
    wrong: list[str] = []

    def mark(what: str) -> None:
        store.set(f"{what}/{context.rank}", "yes")

    def all_have(what: str, when: str) -> None:
        absent = [rank for rank in range(context.world_size) if not store.check([f"{what}/{rank}"])]
        if absent:
            wrong.append(f"rank {context.rank} {when} before ranks {absent}")

    class Marked:
        """The backend's memory; marks what it did and looks at what the others did."""

        def __getattr__(self, name: str) -> Any:
            return getattr(memory, name)

        def unmap(self, tags: Any) -> None:
            all_have("drained", "unmapped, and not drained were all")
            memory.unmap(tags)
            mark("unmapped")

        def restore(self, tags: Any) -> None:
            if context.rank == late:
                time.sleep(0.2)
            memory.restore(tags)
            mark("restored")

    class Host(IdleHost):
        def drain(self, deadline: float) -> None:
            if context.rank == late:
                time.sleep(0.2)
            mark("drained")

        def resume(self, lost: Any) -> None:
            all_have("restored", "resumed")
            mark("resumed")

        def open_admission(self) -> None:
            all_have("resumed", "admitted requests")

    sleeper = lifecycle(context, memory=Marked(), host=Host(), voter=group)
    context.meet()  # a first use of a device may import for seconds: before the deadlines, not within them
    sleeper.sleep([tag])
    all_have("unmapped", "returned from sleep")
    context.check(not memory.mapped(tag), "the tag is mapped after sleep")
    sleeper.wake([tag])
    mine.check("after sleep and wake")
    phases = context.gather((sleeper.health().phase, sleeper.health().serving, sleeper.health().epoch))
    context.check(set(phases) == {(Phase.RUNNING.value, True, 1)}, f"the ranks are {phases}")
    context.check(not wrong, "; ".join(wrong))


@law(part="lifecycle", id="lifecycle.processes-fail-together", ranks=2, deadline=40)
def processes_fail_together(context: LawContext) -> None:
    """A rank whose step raises leaves no process waiting: all hear of it by name and all serve the old contents."""
    group = context.communicator()
    tag = "weights of lifecycle.processes-fail-together"
    mine = tagged(context, tag, {"w": torch.arange(400.0) + context.rank})
    memory = context.backend.memory_map
    failing = {"step": ""}

    def fails(step: str) -> None:
        if failing["step"] == step and context.rank == 1:
            failing["step"] = ""
            raise ArithmeticError(f"planted in {step}")

    class Failing:
        def __getattr__(self, name: str) -> Any:
            return getattr(memory, name)

        def unmap(self, tags: Any) -> None:
            fails("unmap")
            memory.unmap(tags)

    class Host(IdleHost):
        def drain(self, deadline: float) -> None:
            fails("drain")

    sleeper = lifecycle(context, memory=Failing(), host=Host(), voter=group)
    context.meet()
    for step in ("drain", "unmap"):
        failing["step"] = step
        begin = time.monotonic()
        with context.refuses(f"a sleep whose {step} raised on rank 1", LifecycleError, naming=["rank 1", "planted"]):
            sleeper.sleep([tag])
        took = time.monotonic() - begin
        context.check(took < DEADLINES.vote, f"a sleep whose {step} raised on rank 1 took {took:.1f} s here")
        found = context.gather((sleeper.health().phase, sleeper.health().serving))
        context.check(set(found) == {("RUNNING", True)}, f"after {step} raised on rank 1 the ranks are {found}")
        mine.check(f"after {step} raised on rank 1")


@law(part="lifecycle", id="lifecycle.a-dead-process-is-named", ranks=2, deadline=30)
def a_dead_process_is_named(context: LawContext) -> None:
    """When a rank's process dies in mid-sleep the others are told in time, by name, have unmapped nothing, and say so
    in health.
    """
    group = context.communicator()
    tag = "weights of lifecycle.a-dead-process-is-named"
    mine = tagged(context, tag, {"w": numbers(context, 400)})

    class Host(IdleHost):
        def drain(self, deadline: float) -> None:
            if context.rank == 1:
                context.die()

    deadlines = Deadlines(steps=0.6, vote=0.6)
    sleeper = lifecycle(context, host=Host(), voter=group, deadlines=deadlines)
    context.meet()
    begin = time.monotonic()
    with context.refuses("a sleep in which rank 1 died", LifecycleError, naming=["1"]):
        sleeper.sleep([tag])
    took = time.monotonic() - begin
    context.check(took <= deadlines.steps + deadlines.vote + SLACK, f"rank 1 died, the error came after {took:.1f} s")
    context.check(context.backend.memory_map.mapped(tag), "rank 1 died before it voted, and rank 0 has unmapped")
    mine.check("after rank 1 died in drain")
    context.check(not sleeper.health().healthy, f"rank 1 is dead, health says {sleeper.health()}")

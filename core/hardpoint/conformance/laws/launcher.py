"""Laws of the launcher: where a kernel runs, what is refused before it runs, and what loading means."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from hypothesis import strategies as st

from hardpoint.conformance.claims import GRAPH
from hardpoint.conformance.context import LawContext
from hardpoint.conformance.law import law
from hardpoint.conformance.laws._kernels import (
    add_kernel,
    blocked_kernel,
    failing_kernel,
    gather_kernel,
    optional_kernel,
    scale_kernel,
    typed_kernel,
)
from hardpoint.conformance.laws._work import keep_busy
from hardpoint.errors import CaptureRefused, LaunchRefused

DTYPES = ("float32", "bfloat16", "float16", "int32")


@law(part="launcher", id="launcher.launch-computes", deadline=30)
def launch_computes(context: LawContext) -> None:
    """A launched kernel does its work exactly once, for every declared dtype and every shape, and its results are seen.

    Launch, a bound call, and a launch after a preload do the same, also on views that leave gaps in their memory.
    """
    launcher = context.backend.launcher
    names = [name for name in DTYPES if name in context.backend.capabilities.dtypes]

    def check(shape: tuple[int, ...], name: str, how: str, step: int) -> None:
        dtype, kernel = getattr(torch, name), add_kernel()
        x = context.full(*shape, value=3, dtype=dtype)
        whole = context.full(*shape[:-1], shape[-1] * step, value=4, dtype=dtype)
        out = whole[..., ::step]
        if how == "bind":
            launcher.bind(kernel, out, x)(out, x)
        else:
            if how == "preload":
                launcher.preload(kernel, out, x)
            launcher.launch(kernel, out, x=x)
        expected = torch.full((*shape[:-1], shape[-1] * step), 4, dtype=dtype)
        expected[..., ::step] = 7
        context.equal(whole, expected, f"out += x after {how}, {name} {shape}, where out is every column {step} apart")
        context.equal(x, torch.full(shape, 3, dtype=dtype), f"x, which the kernel only reads, after {how}")

    context.examples(
        check,
        count=25,
        shape=st.lists(st.integers(1, 17), min_size=1, max_size=3).map(tuple),
        name=st.sampled_from(names),
        how=st.sampled_from(["launch", "bind", "preload"]),
        step=st.integers(1, 2),
    )


@law(part="launcher", id="launcher.device-from-tensors", devices=2, deadline=30)
def device_from_tensors(context: LawContext) -> None:
    """A launch runs on the device of its tensors, whatever the calling thread's current device is.

    Field report 1: the tensors were on device 2, the thread's current device was 0.
    """
    device, launcher = context.backend.device, context.backend.launcher

    def everywhere() -> None:
        for current in context.device_indices:
            for index in context.device_indices:
                with device.use(current):
                    for how in _ways(launcher, current, index):
                        x, out = context.arange(9, index=index), context.full(9, value=-1.0, index=index)
                        what = f"{how.__name__} of tensors on device {index} while device {current} is current"
                        how(out, x)
                        context.check(device.current() == current, f"{what} left device {device.current()} current")
                        context.equal(out, torch.arange(9, dtype=torch.float32) * 2, what)

    everywhere()
    context.in_thread(everywhere)


def _ways(launcher: Any, current: int, index: int) -> list[Callable[..., None]]:
    kernels, gather = [scale_kernel() for _ in range(3)], gather_kernel()

    def launch(out: torch.Tensor, x: torch.Tensor) -> None:
        launcher.launch(kernels[0], out, x, 2.0)

    def bound(out: torch.Tensor, x: torch.Tensor) -> None:
        launcher.bind(kernels[1], out, x, 2.0)(out, x, 2.0)

    def preloaded(out: torch.Tensor, x: torch.Tensor) -> None:
        launcher.preload(kernels[2], out, x, 2.0, devices=[current, index])
        launcher.launch(kernels[2], out, x, 2.0)

    def with_numbers_first(out: torch.Tensor, x: torch.Tensor) -> None:
        def numbers_first(factor: float, nothing: None, x: torch.Tensor, out: torch.Tensor) -> None:
            torch.mul(x, factor, out=out)

        launcher.launch(numbers_first, 2.0, None, x=x, out=out)

    def in_lists(out: torch.Tensor, x: torch.Tensor) -> None:
        def through_lists(factor: float, outs: list[torch.Tensor], parts: list[torch.Tensor]) -> None:
            torch.mul(parts[0], factor, out=outs[0])

        launcher.launch(through_lists, 1.0, [out], [x])
        launcher.bind(gather, out, [x])(out, [x])

    return [launch, bound, preloaded, with_numbers_first, in_lists]


@law(part="launcher", id="launcher.current-device-is-restored", devices=2, deadline=30)
def current_device_is_restored(context: LawContext) -> None:
    """Launch, bind, a bound call, preload and explain leave the current device as it was, also when refused."""
    device, last = context.backend.device, context.device_indices[-1]
    for current, index in ((0, last), (last, 0)):
        with device.use(current):
            for name, step in _steps(context, current, index):
                _swallow(step)
                found = device.current()
                context.check(found == current, f"{name} left device {found} current, it was {current} before")
        _swallow(functools.partial(device.synchronize, index))


def _steps(context: LawContext, current: int, index: int) -> list[tuple[str, Callable[[], object]]]:
    """What a caller on device `current` may do with tensors of device `index`, refused steps included."""
    launcher, last = context.backend.launcher, context.device_indices[-1]
    x, out, other = (context.full(4, value=1.0, index=i) for i in (index, index, current))
    kernel = scale_kernel()
    bound = launcher.bind(kernel, out, x, 2.0)
    return [
        ("bind", lambda: launcher.bind(scale_kernel(), out, x, 2.0)),
        ("a bound call", lambda: bound(out, x, 2.0)),
        ("launch", lambda: launcher.launch(kernel, out, x, 2.0)),
        ("preload", lambda: launcher.preload(scale_kernel(), out, x, 2.0, devices=[0, last])),
        ("explain", lambda: launcher.explain(kernel, out, x, 2.0)),
        ("a refused launch", lambda: launcher.launch(kernel, out, other, 2.0)),
        ("a preload on a missing device", lambda: launcher.preload(kernel, out, x, 2.0, devices=[99])),
        ("a launch whose kernel fails", lambda: launcher.launch(failing_kernel(), out)),
    ]


def _swallow(step: Callable[[], object]) -> None:
    try:
        step()
    except Exception:  # noqa: BLE001 - what is raised is the business of other laws
        return


@law(part="launcher", id="launcher.launch-is-in-stream-order", deadline=30)
def launch_is_in_stream_order(context: LawContext) -> None:
    """A kernel runs in the current stream of the tensors' device: after what is queued there, before what comes later.

    Also when another device is current, since the current stream is one per device.
    """
    device, launcher = context.backend.device, context.backend.launcher
    for index in context.device_indices:
        kernel = scale_kernel()
        for bound in (False, True):
            stream = device.stream(index)
            x, out, seen = (context.full(16, value=value, index=index) for value in (1.0, 0.0, 0.0))
            call = launcher.bind(kernel, out, x, 2.0) if bound else None
            device.synchronize(index)
            with device.use_stream(stream):
                keep_busy(context, index)
                x.fill_(5.0)
                with device.use(context.device_indices[0]):
                    if call is None:
                        launcher.launch(kernel, out, x, 2.0)
                    else:
                        call(out, x, 2.0)
                seen.copy_(out)
                x.fill_(100.0)
            stream.synchronize()
            how = "a bound call" if bound else "a launch"
            expected = torch.full((16,), 10.0)
            context.equal(seen, expected, f"{how} between two writes of its input on a stream of device {index}")


@law(part="launcher", id="launcher.refuses-tensors-off-the-device", deadline=30)
def refuses_tensors_off_the_device(context: LawContext) -> None:
    """A tensor that is not on the device, such as a host tensor, is refused by argument name, and nothing runs.

    In any position, by name, in a list; by launch, bind, preload and a bound call; explain says it and does not raise.
    """
    launcher, device = context.backend.launcher, context.backend.device
    # Where the host is the device, a tensor without memory (meta) is what does not belong there.
    strange = torch.ones(8, device="meta" if device.type == "cpu" else "cpu")
    good, out, kernel = context.full(8, value=1.0), context.full(8, value=-1.0), add_kernel()
    gather = gather_kernel()
    bound = launcher.bind(kernel, out, good)
    cases: list[tuple[str, str, Callable[[], object]]] = [
        ("launch with it last", "x", lambda: launcher.launch(kernel, out, strange)),
        ("launch with it first", "out", lambda: launcher.launch(kernel, strange, good)),
        ("launch with it by name", "x", lambda: launcher.launch(kernel, out=out, x=strange)),
        ("launch with it in a list", "parts", lambda: launcher.launch(gather, out, [good, strange])),
        ("bind", "x", lambda: launcher.bind(kernel, out, strange)),
        ("preload", "x", lambda: launcher.preload(kernel, out, strange)),
        ("a bound call", "x", lambda: bound(out, strange)),
        ("launch with nothing else", "x", lambda: launcher.launch(kernel, strange, strange)),
    ]
    for what, name, step in cases:
        with context.refuses(
            f"{what} ({strange.device})", LaunchRefused, naming=[name, kernel.__name__ * (name != "parts")]
        ):
            step()
    context.equal(out, torch.full((8,), -1.0), "the output after refused launches, which nothing may have written")
    plan = launcher.explain(kernel, out, strange)
    context.check(plan.refusal and "x" in plan.refusal, f"explain of a launch that is refused has no refusal: {plan}")
    context.check(plan.device is None, f"explain names device {plan.device} for a launch that is refused")


@law(part="launcher", id="launcher.refuses-two-devices", devices=2, deadline=30)
def refuses_two_devices(context: LawContext) -> None:
    """Tensors on two devices are refused by argument name and device before anything runs."""
    launcher, kernel = context.backend.launcher, add_kernel()
    for first, second in ((0, 1), (1, 0)):
        out, x = context.full(8, value=-1.0, index=first), context.full(8, value=1.0, index=second)
        for current in (0, 1):
            with context.backend.device.use(current):
                for step in (launcher.launch, launcher.bind, launcher.preload):
                    what = f"{step.__name__} of tensors on devices {first} and {second}"
                    with context.refuses(what, LaunchRefused, naming=["out", "x", str(out.device), str(x.device)]):
                        step(kernel, out, x)
                plan = launcher.explain(kernel, out, x)
                context.check(plan.refusal is not None, f"explain has no refusal for tensors on two devices: {plan}")
        context.equal(out, torch.full((8,), -1.0), "the output after a refused launch")


@law(part="launcher", id="launcher.refuses-what-has-no-device", deadline=30)
def refuses_what_has_no_device(context: LawContext) -> None:
    """A launch without a tensor, of something that is no kernel, or with arguments it cannot take, is refused."""
    launcher, out = context.backend.launcher, context.full(4, value=-1.0)
    ran: list[int] = []
    with context.refuses("a launch without a tensor", LaunchRefused):
        launcher.launch(lambda n: ran.append(n), 3)
    with context.refuses("a launch of a string", LaunchRefused):
        launcher.launch("scale", out)
    with context.refuses("a launch without all arguments", LaunchRefused, naming=["scale"]):
        launcher.launch(scale_kernel(), out)
    with context.refuses("a launch with too many arguments", LaunchRefused, naming=["add"]):
        launcher.launch(add_kernel(), out, out, out)
    context.backend.device.synchronize()
    context.check(not ran, "a kernel without a tensor argument ran although its launch was refused")
    context.equal(out, torch.full((4,), -1.0), "the output after refused launches")


@law(part="launcher", id="launcher.refuses-wrong-dtypes", deadline=30)
def refuses_wrong_dtypes(context: LawContext) -> None:
    """A dtype that a kernel does not declare is refused with argument, dtype found and dtypes expected."""
    launcher, kernel = context.backend.launcher, typed_kernel()
    out, x = context.full(4, value=-1.0), context.full(4, value=2, dtype=torch.int32)
    for step in (launcher.launch, launcher.bind, launcher.preload):
        with context.refuses(f"{step.__name__} with int32", LaunchRefused, naming=["x", "int32", "float32"]):
            step(kernel, out, x)
    context.check(launcher.explain(kernel, out, x).refusal, "explain has no refusal for a dtype that launch refuses")
    context.equal(out, torch.full((4,), -1.0), "the output after refused launches")
    launcher.launch(kernel, out, context.full(4, value=2.0))
    context.equal(out, torch.full((4,), 2.0), "the output of a launch with the declared dtype")


@law(part="launcher", id="launcher.explain-runs-nothing", deadline=30)
def explain_runs_nothing(context: LawContext) -> None:
    """Explain says kernel, device and whether it is loaded, and neither launches nor loads."""
    launcher = context.backend.launcher
    for index in context.device_indices:
        kernel, out = add_kernel(), context.full(4, value=1.0, index=index)
        for _ in range(2):
            plan = launcher.explain(kernel, out, out)
            context.check(not plan.loaded, "explain says that a kernel is loaded that nobody launched or preloaded")
        context.check(plan.refusal is None, f"explain refuses a launch that is legal: {plan.refusal}")
        context.check(
            plan.device == str(context.on(index)) or plan.device == f"{out.device.type}:{index}",
            f"explain names device {plan.device} for tensors on {out.device}",
        )
        context.check("add" in plan.kernel, f"explain names the kernel {plan.kernel!r}, it is called 'add'")
        launcher.launch(kernel, out, out)
        context.check(launcher.explain(kernel, out, out).loaded, "explain says 'not loaded' after a launch")
        context.equal(out, torch.full((4,), 2.0), "out += out after three calls of explain and one of launch")


@law(part="launcher", id="launcher.preload-loads-without-launching", deadline=30)
def preload_loads_without_launching(context: LawContext) -> None:
    """Preload loads on every named device, on no other, and runs nothing. A handle belongs to one device."""
    launcher = context.backend.launcher
    indices = list(context.device_indices)
    tensors = [context.full(4, value=1.0, index=index) for index in indices]

    def loaded(kernel: Any) -> list[int]:
        return [
            i for i, tensor in zip(indices, tensors, strict=True) if launcher.explain(kernel, tensor, tensor).loaded
        ]

    for named in ([indices[-1]], [indices[0]], indices, None):
        for index, tensor in zip(indices, tensors, strict=True):
            kernel = add_kernel()
            context.check(loaded(kernel) == [], "a kernel that nobody named before counts as loaded")
            launcher.preload(kernel, tensor, tensor, devices=named)
            wanted, found = [index] if named is None else sorted(named), loaded(kernel)
            what = f"preload with devices={named} and tensors on device {index}"
            context.check(found == wanted, f"after {what}, loaded on {found} instead of {wanted}")
    for tensor in tensors:
        context.equal(tensor, torch.full((4,), 1.0), "a tensor that preload was given")
    with context.refuses("preload on a device that is not there"):
        launcher.preload(add_kernel(), tensors[0], tensors[0], devices=[len(indices)])


@law(part="launcher", id="launcher.specialisations-are-loaded-apart", deadline=30)
def specialisations_are_loaded_apart(context: LawContext) -> None:
    """A kernel loaded for one dtype, None-ness, integer class, alignment or constant is not loaded for another one.

    Where a form is shared, as by 6 and 7, it computes with what the launch was given.
    """
    launcher, dtypes = context.backend.launcher, context.backend.capabilities.dtypes
    base, out = context.full(40, value=1.0), context.full(8, value=0.0)
    x = base[:8]
    variants: dict[str, tuple[Any, ...]] = {
        "plain": (out, x, 6),
        "None": (out, None, 6),
        "the integer 1": (out, x, 1),
        "a multiple of 16": (out, x, 32),
        "an integer of 64 bits": (out, x, 2**40 + 3),
    }
    if base[1:9].data_ptr() % 16 and base.data_ptr() % 16 == 0:
        variants["an unaligned pointer"] = (out, base[1:9], 6)
    if "int32" in dtypes:
        variants["another dtype"] = (out, context.full(8, value=1, dtype=torch.int32), 6)
    for name, arguments in variants.items():
        kernel = optional_kernel()
        launcher.preload(kernel, *arguments)
        found = [other for other, others in variants.items() if launcher.explain(kernel, *others).loaded]
        context.check(found == [name], f"a kernel that was loaded for '{name}' counts as loaded for {found}")
    kernel = optional_kernel()
    launcher.preload(kernel, out, x, 6)
    context.check(launcher.explain(kernel, out, x, 7).loaded, "6 and 7 are integers of one class, and loaded apart")
    for arguments in variants.values():
        launcher.launch(kernel, *arguments)
        expected = torch.full((8,), float(arguments[2] % 97)) + (0.0 if arguments[1] is None else 1.0)
        context.equal(out, expected, f"a kernel launched in form {launcher.explain(kernel, *arguments).specialisation}")
    for number in (6, 7):
        launcher.launch(kernel, out, None, number)
        context.equal(out, torch.full((8,), float(number)), f"a kernel launched with {number} in a form that 6 shares")
    kernel = blocked_kernel()
    launcher.preload(kernel, out, 6)
    loaded = [block for block in (6, 7, 16) if launcher.explain(kernel, out, block).loaded]
    context.check(loaded == [6], f"a kernel that was loaded for the constant 6 counts as loaded for {loaded}")
    for block in (6, 7, 16):
        launcher.launch(kernel, out, block)
        context.equal(out, torch.full((8,), float(block)), f"a kernel launched with the constant {block}")


@law(part="launcher", id="launcher.bound-calls-fit-or-refuse", deadline=30)
def bound_calls_fit_or_refuse(context: LawContext) -> None:
    """A bound call with arguments of another kind or device is refused, or does the right thing; never a wrong one."""
    launcher, kernel = context.backend.launcher, add_kernel()
    out, x = context.full(8, value=1.0), context.full(8, value=2.0)
    bound = launcher.bind(kernel, out, x)
    context.equal(out, torch.full((8,), 1.0), "the output after bind, which launches nothing")
    bound(out, x)
    bound(out, context.full(8, value=10.0))
    context.equal(out, torch.full((8,), 13.0), "two bound calls with tensors of the same kind")
    bound(x=x, out=out)
    context.equal(out, torch.full((8,), 15.0), "a bound call with its arguments by name, in another order")
    # The bits of 1.0: read as floats they add up to other bits than as integers.
    others = [(context.full(8, value=0x3F800000, dtype=torch.int32),) * 2]
    others += [(context.full(8, value=1.0, index=index),) * 2 for index in context.device_indices if index != 0]
    for first, second in others:
        before = context.to_host(first)
        try:
            bound(first, second)
        except LaunchRefused:
            context.equal(first, before, "the output of a refused bound call")
        else:
            context.equal(first, before * 2, "the output of an accepted bound call")
    scale, seen = scale_kernel(), context.full(8, value=0.0)
    bound = launcher.bind(scale, seen, x, 2.0)
    for factor in (2.0, 3.0, 5.0):
        bound(seen, x, factor)
        context.equal(seen, torch.full((8,), 2.0 * factor), f"a kernel bound with 2.0, called with {factor}")


@law(part="launcher", id="launcher.kernel-errors-are-raised", deadline=30)
def kernel_errors_are_raised(context: LawContext) -> None:
    """An error in a kernel is raised, by the launch or where the device is next waited for; it is never lost."""
    out = context.full(4, value=1.0)
    with context.refuses("a launch of a kernel that raises, and a wait", naming=["planted in the kernel"]):
        context.backend.launcher.launch(failing_kernel(), out)
        context.backend.device.synchronize(context.device_index)


@law(part="launcher", id="launcher.cold-launch-in-capture-is-refused", claim=GRAPH, deadline=30)
def cold_launch_in_capture_is_refused(context: LawContext) -> None:
    """In a capture a kernel that is not loaded on that device is an error that names kernel and preload.

    Field report 2: never skipped, or the graph would lack the kernel. A kernel that is loaded on another device only,
    or in another specialisation, is cold as well. Explain says so too.
    """
    launcher, graphs = context.backend.launcher, context.backend.graphs
    for index in context.device_indices:
        out, x = context.full(8, value=0.0, index=index), context.full(8, value=1.0, index=index)
        cold, elsewhere, another = add_kernel(), add_kernel(), add_kernel()
        others = [other for other in context.device_indices if other != index]
        if others:
            launcher.preload(elsewhere, out, x, devices=others)
        integers = context.full(8, value=1, dtype=torch.int32, index=index)
        launcher.preload(another, integers, integers)
        for name, kernel in (("cold", cold), ("loaded elsewhere", elsewhere), ("loaded for int32", another)):
            for step in (launcher.launch, launcher.bind):
                what = f"{step.__name__} of a kernel that is {name} in a capture on device {index}"
                naming = ["add", "preload", str(index)]
                with context.refuses(what, CaptureRefused, naming=naming), graphs.capture(index):
                    plan = launcher.explain(kernel, out, x)
                    context.check(plan.refusal is not None, f"explain has no refusal for a kernel that is {name}")
                    step(kernel, out, x)
        context.equal(out, torch.zeros(8), "the output after refused launches in captures")
        launcher.preload(cold, out, x, devices=[index])
        with graphs.capture(index) as graph:
            launcher.launch(cold, out, x)
        graph.replay()
        context.equal(out, torch.ones(8), "the output after preload, capture and one replay")


@law(part="launcher", id="launcher.launch-in-capture-is-recorded", claim=GRAPH, deadline=30)
def launch_in_capture_is_recorded(context: LawContext) -> None:
    """A launch in a capture runs once in each replay, and not while it is captured; bound calls as well."""
    launcher, graphs = context.backend.launcher, context.backend.graphs
    for index in context.device_indices:
        kernel, scale = add_kernel(), scale_kernel()
        out, x = context.full(8, value=0.0, index=index), context.full(8, value=1.0, index=index)
        last = context.full(8, value=0.0, index=index)
        launcher.preload(kernel, out, x)
        bound = launcher.bind(scale, last, out, 10.0)
        with graphs.capture(index) as graph:
            launcher.launch(kernel, out, x)
            launcher.launch(kernel, out, x)
            bound(last, out, 10.0)
        context.equal(out, torch.zeros(8), f"the output after the capture on device {index}, before any replay")
        total = 0.0
        for count in (1, 2, 3):
            with context.backend.device.use(index):
                x.fill_(float(count))
                graph.replay()
            total += 2.0 * count
            context.equal(out, torch.full((8,), total), f"two launches, replayed {count} times as x grew")
            context.equal(last, torch.full((8,), 10 * total), f"a bound call in a graph, replayed {count} times")

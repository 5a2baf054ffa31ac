"""`TritonLauncher`: the `KernelLauncher` for backends whose kernels are Triton's."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hardpoint.errors import CaptureRefused, DeviceError, LaunchRefused
from hardpoint.launcher.arguments import refuse_wrong_dtypes
from hardpoint.launcher.protocol import LaunchPlan
from hardpoint.launcher.python_kernel import facts_of
from hardpoint.launcher.triton import releases, tuning
from hardpoint.launcher.triton.arguments import device_of, given, options_of
from hardpoint.launcher.triton.cold_load import ColdLoad
from hardpoint.launcher.triton.form import Form
from hardpoint.launcher.triton.guards import Guard, guard_for
from hardpoint.launcher.triton.host import TritonHost
from hardpoint.launcher.triton.kernel import Layers, heuristic_values, layers_of, tuned_values, tuner_of, tuning_key
from hardpoint.launcher.triton.loading import compiled_form, from_another_device, load, share_binder
from hardpoint.launcher.triton.peek import loaded_form
from hardpoint.launcher.triton.plain import PlainLaunches, cold_in_capture

if TYPE_CHECKING:
    from hardpoint.communicator import Communicator

log = logging.getLogger("hardpoint.launcher")
Grid = tuple[int, ...] | Callable[[dict[str, Any]], tuple[int, ...]]
Specialised = tuple[dict[str, Any], list[tuple[Any, ...]], dict[str, Any]]


class TritonLauncher:
    """Launch Triton kernels on the device of their arguments.

    The first launch of a form takes the slow path: every argument is checked, Triton compiles and loads. After that the
    generated direct call of the last form is tried first; it falls back to the slow path when an argument is of another
    kind, when a grid is a callable, or while a launch hook is installed, so that profilers see every launch.

    Args:
        device_type: ``cuda`` or another type that both torch and Triton drive; looked up at the first launch.
        host: runtime calls; taken from `device_type` if None.
        cold_load: permission to load a kernel inside a capture where the driver is known to accept it; None (the
            default) refuses every cold launch in a capture, on every driver alike.
    """

    def __init__(
        self,
        device_type: str,
        host: TritonHost | None = None,
        *,
        cold_load: ColdLoad | None = None,
    ) -> None:
        self._device_type = device_type
        self._host = host
        self._cold_load = cold_load
        self._forms: dict[tuple[Any, ...], Form] = {}
        self._layers: dict[int, tuple[Any, Layers]] = {}
        self._last: dict[int, tuple[frozenset[str], Callable[..., None]]] = {}
        self._lock = threading.Lock()
        self._announced: set[str] = set()
        self._plain_launches: PlainLaunches | None = None

    @property
    def host(self) -> TritonHost:
        """Runtime calls of the device type."""
        if self._host is None:
            self._host = TritonHost.of(self._device_type)
        return self._host

    def launch(self, kernel: Any, *args: Any, grid: Grid, **kwargs: Any) -> None:
        """Launch `kernel` over `grid` on the device of its tensors, on that device's current stream.

        Keyword arguments are the kernel's own parameters and Triton's options (num_warps, num_stages ...).
        Raises LaunchRefused (nothing was launched) or CaptureRefused.
        """
        last = self._last.get(id(kernel))
        if last is not None and kwargs.keys() <= last[0] and len(args) <= len(last[0]):
            last[1](*args, grid=grid, **kwargs)
        else:
            self._slow(kernel, args, kwargs, grid)

    def bind(self, kernel: Any, *args: Any, grid: tuple[int, ...] | None = None, **kwargs: Any) -> Callable[..., None]:
        """Compile and load for these arguments; return ``call(*args, grid=grid)`` that launches directly.

        Constants and launch options need not be named again. A call whose arguments are of another kind is checked and
        goes to the form that fits it. Binding launches nothing.
        """
        layers = self._layers_of(kernel)
        if self._plain_only(layers):
            self._prepare_plain(layers, kernel, args, kwargs)
            return self._bound_plain(layers, kernel, args, kwargs, grid)
        form = self._prepare(kernel, args, kwargs)
        constants = {guard.name: guard.value for guard in form.guards if guard.kind == "constant"}
        options = options_of(layers, kwargs)

        def miss(*, grid: Grid | None, **again: Any) -> None:
            self._slow(kernel, (), {**again, **options}, grid)

        if form.bindable:
            return form.direct(grid, self.host, miss, _knobs().runtime, keep_constants=True)

        def call(*again: Any, grid: Grid | None = grid, **keywords: Any) -> None:
            named = given(form.layers, again, keywords)
            kept = {name: value for name, value in constants.items() if name in kwargs and name not in named}
            self._slow(kernel, (), {**kept, **named, **options}, grid)

        return call

    def preload(
        self, kernel: Any, *args: Any, devices: Sequence[int] | None = None, grid: Grid | None = None, **kwargs: Any
    ) -> None:
        """Compile and load on every device of `devices` (None: the arguments' own), so that no launch is a cold one.

        DeviceError for a device that does not exist, before anything is loaded.
        """
        layers = self._layers_of(kernel)
        own = device_of(layers.name, given(layers, args, kwargs), self._device_type)
        wanted = (own,) if devices is None else tuple(devices)
        for device in wanted:
            if not 0 <= device < self.host.count():
                raise DeviceError(
                    f"Expected a device index from 0 to {self.host.count() - 1}, found {device}: {layers.name} "
                    "cannot be preloaded there."
                )
        for device in wanted:
            if self._plain_only(layers):
                self._prepare_plain(layers, kernel, args, kwargs, device)
            else:
                self._prepare(kernel, args, kwargs, device)

    def explain(self, kernel: Any, *args: Any, grid: Grid | None = None, **kwargs: Any) -> LaunchPlan:
        """What `launch` would do with these arguments; compiles and runs nothing."""
        name, text, loaded = getattr(kernel, "__name__", str(kernel)), "", False
        try:
            layers = self._layers_of(kernel)
            arguments, device = self._checked(layers, kernel, args, kwargs)
            with self._on(device):
                if self._plain_only(layers):
                    form, loaded = self._plain.specialisation(layers, arguments, kwargs)
                    text = str(form)
                else:
                    text, loaded = self._look(layers, arguments, kwargs, device)
                if not loaded and self.host.capturing() and not self._cold_load_allowed():
                    raise CaptureRefused(cold_in_capture(layers, self.host, device, text))
        except (LaunchRefused, CaptureRefused, DeviceError) as refusal:
            return LaunchPlan(name, None, text, loaded, str(refusal))
        return LaunchPlan(layers.name, f"{self._device_type}:{device}", text, loaded, None)

    # -- what autotuning chose ---------------------------------------------------------------------------------------

    def save_tuning(self, path: Path, kernels: Iterable[Any]) -> None:
        """Store what autotuning chose for `kernels` in this process, to be shipped to other machines of this kind."""
        tuning.write(path, kernels)

    def load_tuning(self, path: Path, kernels: Iterable[Any]) -> int:
        """Take stored choices; how many. LaunchRefused if they are for other code or another kind of device.

        Kernels of the file that are not in `kernels` are passed over. Calls that are bound already keep their form.
        """
        wanted = {self._layers_of(kernel).name: kernel for kernel in kernels}
        found = [choices for choices in tuning.read(path) if choices.kernel in wanted]
        self._forget_last(wanted.values())
        return sum(tuning.adopt(wanted[choices.kernel], choices) for choices in found)

    def share_tuning(self, kernels: Iterable[Any], communicator: Communicator, device: int, *, src: int = 0) -> None:
        """Collective: every rank takes what rank `src` chose, or none does (LaunchRefused everywhere)."""
        import torch

        every = list(kernels)
        self._forget_last(every)
        tuning.share(every, communicator, torch.device(self._device_type, device), src=src)

    def _forget_last(self, kernels: Iterable[Any]) -> None:
        for kernel in kernels:
            self._last.pop(id(kernel), None)

    # -- the slow path -----------------------------------------------------------------------------------------------

    def _slow(self, kernel: Any, args: tuple[Any, ...], kwargs: dict[str, Any], grid: Grid | None) -> None:
        layers = self._layers_of(kernel)
        if grid is None:
            raise LaunchRefused(f"Expected a grid for {layers.name}, found none: pass grid=(x, y, z) or a callable.")
        arguments, device = self._checked(layers, kernel, args, kwargs, tuned=False)
        with self._on(device):
            if self._plain_only(layers):
                self._plain.launch(layers, kernel, arguments, args, kwargs, grid)
                return
            tuner = tuner_of(layers.wrappers)
            untuned = tuner is not None and tuning_key(tuner, arguments) not in tuner.cache
            if untuned and self.host.capturing():
                raise CaptureRefused(
                    f"{layers.name} has not been autotuned for these arguments, and autotuning inside a graph capture "
                    "would record its trial launches: launch it once with the same arguments before the capture."
                )
            if untuned:
                kernel[grid](*args, **kwargs)
                return
            form, bound = self._form(layers, arguments, kwargs, device)
            if self._hooked():  # Triton's own path, so that a profiler sees the launch; the form is loaded all the same
                kernel[grid](*args, **kwargs)
                return
            if not form.bindable:
                kernel[grid](*args, **kwargs)
                return
            if callable(grid):
                grid = grid(bound)  # may replace entries of `bound`: what it leaves there is launched
            elif not options_of(layers, kwargs):
                self._remember(kernel, form)
            form.run(grid, self.host.raw_stream(device), tuple(bound.values()))

    def _remember(self, kernel: Any, form: Form) -> None:
        def miss(*, grid: Grid | None, **again: Any) -> None:
            # What heuristics and autotuning set is computed anew, as for the call that the user made.
            named = {name: value for name, value in again.items() if name not in computed}
            self._slow(kernel, (), named, grid)

        computed = set(heuristic_names(form.layers))
        names = frozenset(parameter.name for parameter in form.layers.parameters)
        direct = form.direct(None, self.host, miss, _knobs().runtime, keep_constants=False)
        self._last[id(kernel)] = (names - computed, direct)

    def _prepare(self, kernel: Any, args: tuple[Any, ...], kwargs: dict[str, Any], device: int | None = None) -> Form:
        layers = self._layers_of(kernel)
        arguments, own = self._checked(layers, kernel, args, kwargs)
        with self._on(own if device is None else device):
            return self._form(layers, arguments, kwargs, own if device is None else device)[0]

    def _prepare_plain(
        self,
        layers: Layers,
        kernel: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        device: int | None = None,
    ) -> None:
        arguments, own = self._checked(layers, kernel, args, kwargs)
        with self._on(own if device is None else device):
            self._plain.load(layers, kernel, arguments, args, kwargs)

    def _bound_plain(
        self, layers: Layers, kernel: Any, args: tuple[Any, ...], kwargs: dict[str, Any], grid: Grid | None
    ) -> Callable[..., None]:
        given_before, options = given(layers, args, kwargs), options_of(layers, kwargs)

        def call(*again: Any, grid: Grid | None = grid, **keywords: Any) -> None:
            named = given(layers, again, keywords)
            kept = {name: value for name, value in given_before.items() if name in kwargs and name not in named}
            self._slow(kernel, (), {**kept, **named, **options}, grid)

        return call

    def _checked(
        self, layers: Layers, kernel: Any, args: tuple[Any, ...], kwargs: dict[str, Any], *, tuned: bool = True
    ) -> tuple[dict[str, Any], int]:
        """The arguments by name and the device of the launch. LaunchRefused before anything is compiled."""
        arguments = given(layers, args, kwargs)
        device = device_of(layers.name, arguments, self._device_type)
        for declared in (kernel, layers.jit, layers.jit.fn):
            refuse_wrong_dtypes(layers.name, arguments, facts_of(declared))
        if tuned:
            self._refuse_untuned(layers, arguments)
        return arguments, device

    def _refuse_untuned(self, layers: Layers, arguments: dict[str, Any]) -> None:
        tuner = tuner_of(layers.wrappers)
        if tuner is not None and tuning_key(tuner, arguments) not in tuner.cache:
            raise LaunchRefused(
                f"{layers.name} has {len(tuner.configs)} autotuning configurations and none is chosen for these "
                "arguments: launch it once (that tunes it) or load a stored choice before binding or preloading it."
            )

    def _form(
        self, layers: Layers, arguments: dict[str, Any], kwargs: dict[str, Any], device: int
    ) -> tuple[Form, dict[str, Any]]:
        """The loaded form for these arguments, compiled and loaded now if need be, and all its arguments in order."""
        bound, entries, options = self._specialise(layers, arguments, kwargs)
        key = self._key(layers, device, bound, entries, options)
        form = self._forms.get(key)
        if form is not None:
            return form, bound
        with self._lock:
            text, place = _specialisation_text(layers, entries, options), f"{self._device_type}:{device}"
            permission: AbstractContextManager[None] = nullcontext()
            if self.host.capturing() and loaded_form(layers.jit, bound, options) is None:
                permission = self._permission(layers, device, text)
            with permission:
                compiled = self._twin(layers, device, key) or compiled_form(layers, bound, options, text)
                load(layers, compiled, place, text)
            guards = _guards(layers, bound, entries)
            entry = releases.direct_launch(compiled, _triton_version(), self._device_type)
            form = Form(layers, compiled, device, text, guards, options, _bindable(layers, guards), entry)
            self._forms[key] = form
        return form, bound

    def _twin(self, layers: Layers, device: int, key: tuple[Any, ...]) -> Any | None:
        """The code that another device already has for the same specialisation, not yet loaded here."""
        for (jit, other, *rest), form in self._forms.items():
            if jit == key[0] and other != device and rest == list(key[2:]):
                return from_another_device(layers, other, device, form.compiled)
        return None

    def _permission(self, layers: Layers, device: int, text: str) -> AbstractContextManager[None]:
        """A context in which the capture under way tolerates a load. CaptureRefused if there is none."""
        if self._cold_load is None or not self._cold_load.allowed():
            raise CaptureRefused(cold_in_capture(layers, self.host, device, text))
        log.warning(
            "%s is loaded on %s:%d inside a graph capture; this driver allows it, older ones do not. Preload it.",
            layers.name,
            self._device_type,
            device,
        )
        return self._cold_load.relaxed()

    def _cold_load_allowed(self) -> bool:
        return self._cold_load is not None and self._cold_load.allowed()

    def _look(self, layers: Layers, arguments: dict[str, Any], kwargs: dict[str, Any], device: int) -> tuple[str, bool]:
        """The specialisation as text, and whether it is loaded on the current device."""
        bound, entries, options = self._specialise(layers, arguments, kwargs)
        known = self._key(layers, device, bound, entries, options) in self._forms
        loaded = known or loaded_form(layers.jit, bound, options) is not None
        return _specialisation_text(layers, entries, options), loaded

    # -- what a call is made of ----------------------------------------------------------------------------------------

    def _layers_of(self, kernel: Any) -> Layers:
        found = self._layers.get(id(kernel))
        if found is None:  # the kernel is held, so its id cannot pass to another
            found = self._layers[id(kernel)] = (kernel, layers_of(kernel))
        return found[1]

    def _specialise(self, layers: Layers, arguments: dict[str, Any], kwargs: dict[str, Any]) -> Specialised:
        """All parameters with their values, Triton's entry for each, and the launch options. Runs under the device."""
        parameters, options = tuned_values(layers, arguments)
        named = arguments | parameters
        named |= heuristic_values(layers.wrappers, named)
        share_binder(layers, self.host.current())
        binder = layers.jit.device_caches[self.host.current()][4]
        try:
            bound, entries, _ = binder(**named)
        except KeyError as error:  # Triton's table of dtypes
            lacking = str(error.args[0])
            strange = [f"{name} ({_dtype(value)})" for name, value in named.items() if lacking in str(_dtype(value))]
            raise LaunchRefused(
                f"{layers.name} cannot take {', '.join(strange) or lacking}: Triton has no such type; nothing was "
                "launched."
            ) from error
        except (TypeError, ValueError) as error:
            raise LaunchRefused(f"{layers.name} cannot take these arguments: {error}; nothing was launched.") from error
        return bound, entries, options_of(layers, kwargs) | options

    def _key(
        self,
        layers: Layers,
        device: int,
        bound: dict[str, Any],
        entries: list[tuple[Any, ...]],
        options: dict[str, Any],
    ) -> tuple[Any, ...]:
        tuner = tuner_of(layers.wrappers)
        pinned = () if tuner is None else tuple(bound[name] for name in tuner.keys if name in bound)
        switches = (_knobs().runtime.debug, _knobs().compilation.instrumentation_mode)
        return (id(layers.jit), device, str(entries), str(sorted(options.items())), str(pinned), switches)

    def _hooked(self) -> bool:
        """A launch hook is installed: a profiler, or vLLM's JIT monitor."""
        runtime = _knobs().runtime
        enter, leave = runtime.launch_enter_hook, runtime.launch_exit_hook
        return bool(getattr(enter, "calls", enter)) or bool(getattr(leave, "calls", leave))

    @property
    def _plain(self) -> PlainLaunches:
        if self._plain_launches is None:
            self._plain_launches = PlainLaunches(self.host)
        return self._plain_launches

    def _plain_only(self, layers: Layers) -> bool:
        """The kernel goes through ``kernel[grid]`` alone: the interpreter's, or this Triton's internals are unknown."""
        return layers.interpreted or not self._release_known()

    def _release_known(self) -> bool:
        version = _triton_version()
        if releases.known(version):
            return True
        if version not in self._announced:
            self._announced.add(version)
            log.warning(
                "Triton %s is not one whose internals hardpoint knows (%s to below %s): kernels are launched through "
                "kernel[grid], right but slower.",
                version,
                releases.FIRST,
                releases.PAST,
            )
        return False

    @contextmanager
    def _on(self, device: int) -> Iterator[None]:
        try:
            before = self.host.exchange(device)
        except RuntimeError as error:  # torch's error for a device that is gone, or whose context is broken
            raise DeviceError(
                f"{self._device_type}:{device}, where the tensors are, cannot be made current: {error}; nothing was "
                "launched."
            ) from error
        try:
            yield
        finally:
            self.host.exchange(before)


def _guards(layers: Layers, bound: dict[str, Any], entries: list[tuple[Any, ...]]) -> tuple[Guard, ...]:
    tuner = tuner_of(layers.wrappers)
    guards = []
    for parameter, entry, declared in zip(layers.parameters, entries, layers.jit.params, strict=True):
        name, value = parameter.name, bound[parameter.name]
        annotated, constant = bool(declared.annotation_type), declared.is_constexpr
        guard = guard_for(name, entry, value, annotated=annotated, constexpr=constant)
        pinned = tuner is not None and name in tuner.keys
        guards.append(replace(guard, pinned=True, value=value) if pinned else guard)
    return tuple(guards)


def _bindable(layers: Layers, guards: tuple[Guard, ...]) -> bool:
    """Nothing about this kernel needs Triton's own path on each call."""
    watched = layers.jit.pre_run_hooks or layers.jit.used_global_vals
    configs = [config for w in layers.wrappers for config in getattr(w, "configs", ())]
    # The direct call is a generated function whose own names are `grid` and names with an underscore in front.
    clash = any(g.name == "grid" or g.name.startswith("_") for g in guards)
    odd = clash or any(g.kind == "opaque" or (g.pinned and g.kind == "pointer") for g in guards)
    return not (watched or odd or any(config.pre_hook for config in configs))


def heuristic_names(layers: Layers) -> list[str]:
    """Parameters that heuristics or autotuning set."""
    from hardpoint.launcher.triton.kernel import heuristics_of, tuned_names

    return [*heuristics_of(layers.wrappers), *tuned_names(layers)]


def _dtype(value: Any) -> Any:
    return getattr(value, "dtype", None)


def _knobs() -> Any:
    from triton import knobs

    return knobs


def _triton_version() -> str:
    import triton

    return str(triton.__version__)


def _specialisation_text(layers: Layers, entries: list[tuple[Any, ...]], options: dict[str, Any]) -> str:
    parts = []
    for parameter, entry in zip(layers.parameters, entries, strict=True):
        parts.append(f"{parameter.name}: {':'.join(str(item) for item in entry if item not in ('', None))}")
    return "(" + ", ".join([*parts, *(f"{name}={value}" for name, value in sorted(options.items()))]) + ")"

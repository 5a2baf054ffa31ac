"""What autotuning chose, as data: stored in a file, shipped to other machines, agreed on between ranks.

Autotuning measures, so two ranks may choose differently: their results then differ in the last bits, and where one
rank tunes inside a step the others wait for it. One rank tunes, everybody takes its choice.
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from hardpoint.errors import LaunchRefused
from hardpoint.launcher.triton.kernel import layers_of, tuner_of

if TYPE_CHECKING:
    from hardpoint.communicator import Communicator

FORMAT = 1


@dataclass(frozen=True)
class Choices:
    """The choices of one kernel on one kind of device.

    Attributes:
        kernel: module and qualified name.
        source: digest of the kernel's source and of its configurations; other code makes other choices.
        target: what they were measured on, for example ``cuda:90``.
        entries: tuning key, as `repr`s of its parts -> index of the configuration.
    """

    kernel: str
    source: str
    target: str
    entries: Mapping[tuple[str, ...], int]


def choices_of(kernel: Any) -> Choices:
    """What the autotuner of `kernel` has chosen so far in this process. LaunchRefused if `kernel` has none."""
    name, source, tuner = _tuner(kernel)
    configs = [str(config) for config in tuner.configs]  # as text: those from Triton's own disk cache are new objects
    # Keys are tuples of numbers, booleans, None and dtype names: repr tells 1, True and 1.0 apart and can be read back.
    entries = {tuple(repr(part) for part in key): configs.index(str(config)) for key, config in tuner.cache.items()}
    return Choices(name, source, target(), entries)


def adopt(kernel: Any, choices: Choices) -> int:
    """Make `choices` the kernel's own and return how many there are. They replace what it chose for the same keys.

    LaunchRefused if they are for another kernel, other code, other configurations or another kind of device.
    """
    name, source, tuner = _tuner(kernel)
    for what, found, wanted in (
        ("kernel", choices.kernel, name),
        ("source and configurations", choices.source, source),
        ("device target", choices.target, target()),
    ):
        if found != wanted:
            raise LaunchRefused(
                f"expected autotuning choices for {what} {wanted} of {name}, found them for {found}: tune again here, "
                "nothing was changed"
            )
    wrong = [index for index in choices.entries.values() if not 0 <= index < len(tuner.configs)]
    if wrong:
        raise LaunchRefused(
            f"{name} has {len(tuner.configs)} autotuning configurations, and the stored choices name number "
            f"{wrong[0]}; nothing was changed"
        )
    for key, index in choices.entries.items():
        tuner.cache[tuple(_part(text) for text in key)] = tuner.configs[index]
    return len(choices.entries)


def write(path: Path, kernels: Iterable[Any]) -> None:
    """Write the choices of all `kernels` into a file, in place of what is there."""
    path.write_text(dumps([choices_of(kernel) for kernel in kernels]))


def read(path: Path) -> list[Choices]:
    """The choices in a file that `write` made. LaunchRefused if it is no such file."""
    try:
        return loads(path.read_text())
    except OSError as error:
        raise LaunchRefused(f"the file of autotuning choices {path} cannot be read: {error}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise LaunchRefused(
            f"{path} is no file of autotuning choices of format {FORMAT} ({type(error).__name__}: {error}): write it "
            "again with launcher.save_tuning"
        ) from error


def share(kernels: Iterable[Any], communicator: Communicator, device: torch.device, *, src: int = 0) -> None:
    """Every rank takes the choices of rank `src`, or none does: the ranks vote before anyone changes anything.

    Collective. LaunchRefused on every rank, with the reason, if one of them cannot take them.
    """
    kernels = list(kernels)
    text = dumps([choices_of(kernel) for kernel in kernels]).encode() if communicator.rank == src else b""
    length = torch.tensor([len(text)], dtype=torch.int64, device=device)
    communicator.broadcast(length, src=src)
    size = int(length.item())
    # One byte at least: an empty tensor is no collective on some transports.
    data = torch.zeros(max(size, 1), dtype=torch.uint8, device=device)
    if communicator.rank == src:
        data[:size] = torch.frombuffer(bytearray(text), dtype=torch.uint8).to(device)
    communicator.broadcast(data, src=src)
    found = loads(bytes(data[:size].cpu().tolist()).decode())
    saved = [dict(tuner.cache) for _, _, tuner in map(_tuner, kernels)]
    reason = _adopt_all(kernels, found)
    verdict = communicator.vote(not reason, "autotuning choices", reason=reason)
    if not verdict.unanimous:
        for (_, _, tuner), cache in zip(map(_tuner, kernels), saved, strict=True):
            tuner.cache.clear()
            tuner.cache.update(cache)
        said = "; ".join(f"rank {rank}: {sentence}" for rank, sentence in sorted(verdict.objections.items()))
        absent = f"; no answer from {verdict.missing}" if verdict.missing else ""
        raise LaunchRefused(f"the autotuning choices of rank {src} were taken by no rank: {said}{absent}")


def dumps(every: Iterable[Choices]) -> str:
    """As text."""
    rows = [asdict(c) | {"entries": [[list(key), index] for key, index in c.entries.items()]} for c in every]
    return json.dumps({"format": FORMAT, "choices": rows}, indent=1)


def loads(text: str) -> list[Choices]:
    """From text. ValueError, KeyError, TypeError or AttributeError if it is anything else."""
    found = json.loads(text)
    if found["format"] != FORMAT:
        raise ValueError(f"format {found['format']!r}")
    return [
        Choices(row["kernel"], row["source"], row["target"], {tuple(key): int(i) for key, i in row["entries"]})
        for row in found["choices"]
    ]


def target() -> str:
    """Kind of the device that Triton compiles for now."""
    from triton.runtime.driver import driver

    found = driver.active.get_current_target()
    return f"{found.backend}:{found.arch}"


def _adopt_all(kernels: list[Any], found: list[Choices]) -> str:
    by_name = {choices.kernel: choices for choices in found}
    try:
        for kernel in kernels:
            name = _tuner(kernel)[0]
            if name not in by_name:
                return f"there are no choices for {name}"
            adopt(kernel, by_name[name])
    except LaunchRefused as error:
        return str(error)
    return ""


def _tuner(kernel: Any) -> tuple[str, str, Any]:
    """Name, digest of what the choices depend on, and the autotuner."""
    layers = layers_of(kernel)
    tuner = tuner_of(layers.wrappers)
    if tuner is None:
        raise LaunchRefused(f"{layers.name} has no autotuning choice to make: no @triton.autotune with several configs")
    text = "\n".join([layers.jit.src, *map(str, tuner.configs), *tuner.keys])
    return layers.name, hashlib.sha256(text.encode()).hexdigest()[:16], tuner


def _part(text: str) -> Any:
    return ast.literal_eval(text)

"""`LawContext`: what a law is given. The backend under test, seeded random numbers, tensors, checks, ranks."""

from __future__ import annotations

import contextlib
import os
import pickle
import random
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import torch
import torch.distributed as dist

from hardpoint.communicator.protocol import Communicator, Rendezvous
from hardpoint.conformance.claims import ExtraCase, Tolerance
from hardpoint.conformance.compare import DEFAULT_TOLERANCE, bitwise_difference, close_difference, dtype_name
from hardpoint.conformance.failure import LawFailed

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy
    from torch._C._distributed_c10d import Store

    from hardpoint.backend import Backend

T = TypeVar("T")
DEATH_CODE = 13
__all__ = ["LawContext", "LawFailed"]


class LawContext:
    """One run of one law on one rank.

    Attributes:
        backend: the backend under test.
        law_id: id of the law that runs.
        seed: of this run; derived from the kit's seed and the law's id, so that a law alone draws what it drew in full.
        rank, world_size: 0 and 1 unless the law runs in several processes.
        store: torch.distributed store that the ranks of this run share; None in a single process.
        device_index: device that this rank works on, ``rank % count``.
        random: `random.Random` with that seed; the same on every rank.
        generator: host `torch.Generator` with that seed; the same on every rank.
        extra_cases: the cases that the backend's plugin brings.
        notes: sentences for the report, added by `note` and by `close`.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        law_id: str,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        store: Store | None = None,
        tolerances: Sequence[Tolerance] = (),
        extra_cases: Sequence[ExtraCase] = (),
        before_death: Callable[[], None] = lambda: None,
        effort: float = 1.0,
    ) -> None:
        self.backend = backend
        self.law_id = law_id
        self.seed = zlib.crc32(f"{seed}:{law_id}".encode())
        self.rank = rank
        self.world_size = world_size
        self.store = store
        self.device_index = rank % max(backend.device.count(), 1)
        self.random = random.Random(self.seed)
        self.generator = torch.Generator().manual_seed(self.seed)
        self.notes: list[str] = []
        self.extra_cases = extra_cases
        self._tolerances = tolerances
        self._before_death = before_death
        self._effort = effort
        self._opened: list[Communicator] = []
        self._shared = 0

    # -- devices and tensors -------------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        """Torch device of this rank."""
        return self.backend.device.torch_device(self.device_index)

    @property
    def device_indices(self) -> range:
        """Every visible device."""
        return range(self.backend.device.count())

    def on(self, index: int | None = None) -> torch.device:
        """Torch device `index`, None for this rank's."""
        return self.device if index is None else self.backend.device.torch_device(index)

    def empty(self, *shape: int, dtype: torch.dtype = torch.float32, index: int | None = None) -> torch.Tensor:
        """Uninitialised tensor on device `index`."""
        return torch.empty(shape, dtype=dtype, device=self.on(index))

    def full(
        self, *shape: int, value: float, dtype: torch.dtype = torch.float32, index: int | None = None
    ) -> torch.Tensor:
        """Tensor of one value on device `index`."""
        return torch.full(shape, value, dtype=dtype, device=self.on(index))

    def arange(self, count: int, *, dtype: torch.dtype = torch.float32, index: int | None = None) -> torch.Tensor:
        """``[0, count)`` on device `index`; made on the host, so that it needs no arithmetic in `dtype`."""
        return self.to_device(torch.arange(count, dtype=torch.int64).to(dtype), index)

    def randn(self, *shape: int, dtype: torch.dtype = torch.float32, index: int | None = None) -> torch.Tensor:
        """Seeded normal values on device `index`; the same on every rank and every backend."""
        return self.to_device(self.host_randn(*shape, dtype=dtype), index)

    def host_randn(self, *shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """Seeded normal values on the host."""
        return torch.randn(shape, generator=self.generator).to(dtype)

    def to_device(self, host: torch.Tensor, index: int | None = None) -> torch.Tensor:
        """Copy a host tensor to device `index`, complete on return; a copy also where the host is the device."""
        tensor = host.to(self.on(index), copy=True)
        self.backend.device.synchronize(self.device_index if index is None else index)
        return tensor

    def to_host(self, tensor: torch.Tensor) -> torch.Tensor:
        """Wait for all streams of the tensor's device, then copy to the host; never a view of the tensor."""
        if tensor.device.type == "cpu" and self.backend.device.type != "cpu":
            return tensor.detach().clone()
        index = tensor.device.index
        self.backend.device.synchronize(self.device_index if index is None else index)
        return tensor.detach().to("cpu", copy=True)

    # -- checks --------------------------------------------------------------------------------------------------

    def check(self, condition: object, sentence: str) -> None:
        """Fail with `sentence` (what was expected, what was found) unless `condition` is true."""
        if not condition:
            raise LawFailed(sentence)

    def fail(self, sentence: str) -> None:
        """Fail with `sentence`."""
        raise LawFailed(sentence)

    def note(self, sentence: str) -> None:
        """Add a sentence to the report."""
        self.notes.append(sentence)

    def equal(self, actual: torch.Tensor, expected: torch.Tensor, what: str) -> None:
        """Fail unless both have the same shape, dtype and bits (NaN equals itself); `what` begins the sentence."""
        difference = bitwise_difference(self.to_host(actual), self.to_host(expected))
        if difference is not None:
            raise LawFailed(f"{what}: {difference}")

    def close(
        self,
        actual: torch.Tensor,
        expected: torch.Tensor,
        what: str,
        *,
        rtol: float | None = None,
        atol: float | None = None,
    ) -> None:
        """Fail unless close; without `rtol` and `atol` the dtype's tolerance or the backend's stated one holds.

        The tolerance used is printed in the report, also when the law holds.
        """
        left, right = self.to_host(actual), self.to_host(expected)
        name = dtype_name(left.dtype)
        default = DEFAULT_TOLERANCE.get(name, (0.0, 0.0))
        stated = next((t for t in self._tolerances if t.law in (self.law_id, "*") and t.dtype == name), None)
        if stated is not None and rtol is None and atol is None:
            default = (stated.rtol, stated.atol)
        used = (default[0] if rtol is None else rtol, default[1] if atol is None else atol)
        sentence = f"tolerance for {name}: rtol {used[0]:g}, atol {used[1]:g}"
        if stated is not None:
            sentence += f", stated by the backend: {stated.reason}"
        if sentence not in self.notes:
            self.note(sentence)
        difference = close_difference(left, right, *used)
        if difference is not None:
            raise LawFailed(f"{what}: {difference} ({sentence})")

    @contextlib.contextmanager
    def refuses(self, what: str, *errors: type[Exception], naming: Sequence[str] = ()) -> Iterator[None]:
        """Fail unless the block raises one of `errors` (default: any Exception) with every text of `naming` in it."""
        kinds = errors or (Exception,)
        try:
            yield
        except LawFailed:
            raise
        except kinds as error:
            absent = [text for text in naming if text not in str(error)]
            self.check(not absent, f"{what} was refused, but the message does not name {absent}: {error}")
            return
        except Exception as error:
            names = " or ".join(kind.__name__ for kind in kinds)
            raise LawFailed(f"{what} should raise {names}, raised {type(error).__name__}: {error}") from error
        names = " or ".join(kind.__name__ for kind in kinds)
        raise LawFailed(f"{what} should be refused with {names}, but was accepted")

    def examples(self, check: Callable[..., None], /, *, count: int = 50, **strategies: SearchStrategy[Any]) -> None:
        """Call ``check(**case)`` for up to `count` cases drawn from hypothesis `strategies`, with this run's seed.

        The self-test runs fewer where it only wants to see that a law ends, or how a right backend fares.
        In a single process a failing case is shrunk. In several, rank 0 draws and every rank runs the same cases in the
        same order without shrinking, since a rank that shrank alone would leave the others in a collective.
        """
        from hardpoint.conformance.examples import check_examples, draw_examples

        count = max(1, round(count * self._effort))
        if self.world_size == 1:
            check_examples(check, strategies, count, self.seed)
            return
        drawn = draw_examples(strategies, count, self.seed) if self.rank == 0 else []
        for case in self.share(drawn):
            try:
                check(**case)
            except LawFailed as error:
                raise LawFailed(f"{error} [case: {case!r}]") from error

    # -- threads and ranks ---------------------------------------------------------------------------------------

    def in_thread(self, function: Callable[[], T], *, deadline: float = 20.0) -> T:
        """Run `function` in a new thread and return what it returns; its error is raised here."""
        result: list[T] = []
        errors: list[BaseException] = []

        def run() -> None:
            try:
                result.append(function())
            except BaseException as error:  # noqa: BLE001 - handed to the thread that waits
                errors.append(error)

        thread = threading.Thread(target=run, name=f"{self.law_id} helper", daemon=True)
        thread.start()
        thread.join(deadline)
        if thread.is_alive():
            raise LawFailed(f"a thread that the law started did not end within {deadline:g} s")
        if errors:
            raise errors[0]
        return result[0]

    def communicator(self, name: str = "law", deadline: float = 10.0) -> Communicator:
        """A communicator of all ranks of this run from the backend's own factory; closed when the run ends."""
        if self.store is None:
            raise LawFailed(
                f"law {self.law_id} asks for a communicator but runs in one process; give it ranks=2 or more"
            )
        if not self._opened:
            # What a process loads on its first use of a device takes seconds; not while ranks count each other's beats.
            self.empty(1).fill_(0)
            self.meet()
        prefix = dist.PrefixStore(f"communicator/{name}", self.store)  # type: ignore[attr-defined]  # torch exports it lazily
        opened = self.backend.communicator(
            Rendezvous(prefix, self.rank, self.world_size, name, deadline, self.device_index)
        )
        self._opened.append(opened)
        return opened

    def share(self, value: T, *, src: int = 0, deadline: float = 30.0) -> T:
        """Rank `src`'s `value` on every rank, through the store and not through the communicator under test."""
        if self.store is None:
            return value
        key = f"share/{self._shared}"
        self._shared += 1
        if self.rank == src:
            self.store.set(key, pickle.dumps(value))  # type: ignore[arg-type]  # the stub says str; bytes are taken
            return value
        self._wait_for(key, src, deadline)
        received: T = pickle.loads(self.store.get(key))
        return received

    def gather(self, value: T, *, deadline: float = 30.0) -> list[T]:
        """Every rank's `value` in rank order, on every rank, through the store."""
        return [self.share(value, src=rank, deadline=deadline) for rank in range(self.world_size)]

    def meet(self, *, deadline: float = 30.0) -> None:
        """Return when every rank has called it; through the store and not through the communicator under test."""
        self.gather(True, deadline=deadline)

    def tell_failure(self) -> None:
        """Let the other ranks stop waiting for this one in `share` and what is made of it; called by the machinery."""
        if self.store is not None:
            self.store.set(f"failed/{self.rank}", "yes")

    def _wait_for(self, key: str, src: int, deadline: float) -> None:
        assert self.store is not None
        end = time.monotonic() + deadline
        while True:
            left = end - time.monotonic()
            try:
                self.store.wait([key], timedelta(seconds=max(0.001, min(0.2, left))))
                return
            except RuntimeError:  # not there yet
                # What a rank had said before it failed counts.
                if self.store.check([f"failed/{src}"]) and not self.store.check([key]):
                    raise LawFailed(f"still waiting for rank {src} after another rank had failed") from None
                if left <= 0:
                    raise

    def eventually(self, condition: Callable[[], object], *, deadline: float = 5.0) -> bool:
        """Poll `condition` until it is true or `deadline` seconds are over; says which."""
        end = time.monotonic() + deadline
        pause = 0.0  # a simulator advances with every question, a device with time
        while time.monotonic() < end:
            if condition():
                return True
            time.sleep(pause)
            pause = min(pause + 1e-4, 0.005)
        return bool(condition())

    def die(self) -> NoReturn:
        """End this process at once, as a crash would; for laws about what the other ranks do. Counts as passed here."""
        self._before_death()
        os._exit(DEATH_CODE)

    def finish(self, *, quiet: bool = False) -> None:
        """Close what the run opened; called by the machinery. `quiet` is for after a failure, which says more."""
        opened, self._opened = self._opened, []
        for communicator in reversed(opened):
            try:
                communicator.close()
            except Exception:
                if not quiet:
                    raise

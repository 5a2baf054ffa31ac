"""The kit inside pytest: every law is an item, called by the law's id.

    pytest --pyargs hardpoint.conformance -p hardpoint.conformance.plugin --backend=acme

or inside a vendor's own run, where the laws stand beside the vendor's tests as ``tests/conftest.py::<law>``:

    # tests/conftest.py
    pytest_plugins = ["hardpoint.conformance.plugin"]

    # pyproject.toml
    [tool.pytest.ini_options]
    hardpoint_backend = "acme"                 # or hardpoint_factory = "module:attribute"

It is not a pytest11 entry point: nobody's run changes because hardpoint is installed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest

from hardpoint.conformance.known_failures import expired, read_known_failures
from hardpoint.conformance.pool import Pool
from hardpoint.conformance.registry import laws
from hardpoint.conformance.results import LawResult, Status
from hardpoint.conformance.runner import Plan, cannot_be_built, describe, plan, run_law
from hardpoint.conformance.source import BackendSource
from hardpoint.errors import HardpointError

_PACKAGE = Path(__file__).resolve().parent


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("hardpoint", "hardpoint conformance kit")
    group.addoption("--backend", metavar="NAME", help="backend that the laws run on, as in HARDPOINT_BACKEND")
    group.addoption(
        "--backend-factory", metavar="MODULE:ATTRIBUTE", help="instead of --backend: a function that gives the Backend"
    )
    group.addoption("--conformance-seed", type=int, default=0, metavar="N", help="seed of all laws (default 0)")
    group.addoption("--known-failures", type=Path, metavar="F", help="laws that are known to fail, each with a reason")
    parser.addini("hardpoint_backend", "what --backend is if it is not given")
    parser.addini("hardpoint_factory", "what --backend-factory is if it is not given")
    parser.addini("hardpoint_known_failures", "what --known-failures is if it is not given", type="paths")


class LawBroken(Exception):
    """A law failed; carries the result."""

    def __init__(self, result: LawResult) -> None:
        super().__init__(result.reason)
        self.result = result


class Kit:
    """The kit of one pytest session: the workers, the backend and what came of the laws."""

    def __init__(self, config: pytest.Config) -> None:
        self.source = _source(config)
        self.seed: int = config.getoption("conformance_seed")
        self.results: list[LawResult] = []
        self._known = _known(config)
        self._pool: Pool | None = None
        self._plans: list[Plan] | None = None

    def plans(self) -> list[Plan]:
        """The laws for this backend, asked once. HardpointError if it cannot be built."""
        if self._plans is None:
            described = describe(self._workers(), self.source)
            if described.failure is not None or described.description is None:
                raise HardpointError(cannot_be_built(self.source, described))
            self._plans = plan(described.description)
            stray = [law for law in self._known if law not in {entry.id for entry in self._plans}]
            if stray:
                raise HardpointError(expired(dict.fromkeys(stray, ""), [])[0])
        return self._plans

    def run(self, entry: Plan) -> LawResult:
        """Run one law, or say why it is not run."""
        result = run_law(self._workers(), self.source, entry, seed=self.seed, known=self._known.get(entry.id))
        self.results.append(result)
        return result

    def expired(self, result: LawResult) -> str | None:
        """Why the law's entry in the known-failures file has to go, if it has one and has to."""
        entries = {id: reason for id, reason in self._known.items() if id == result.id}
        return next(iter(expired(entries, [result])), None)

    def close(self) -> None:
        """End every process of the kit."""
        if self._pool is not None:
            self._pool.__exit__(None, None, None)
            self._pool = None

    def _workers(self) -> Pool:
        if self._pool is None:
            # pytest runs one item at a time, so one worker is enough; laws over several ranks get theirs.
            self._pool = Pool(slots=1).__enter__()
        return self._pool


class LawItem(pytest.Item):
    """One law, in all its world sizes."""

    entry: Plan
    kit: Kit

    @classmethod
    def of(cls, parent: pytest.Collector, kit: Kit, entry: Plan) -> LawItem:
        item: LawItem = cls.from_parent(parent, name=entry.id)
        item.kit, item.entry = kit, entry
        return item

    def runtest(self) -> None:
        result = self.kit.run(self.entry)
        for title, text in (("notes", "\n".join(result.notes)), ("printed by the backend", result.printed)):
            if text:
                self.add_report_section("call", title, text)
        if (sentence := self.kit.expired(result)) is not None:
            pytest.fail(sentence, pytrace=False)
        if result.status in (Status.NOT_CLAIMED, Status.NOT_APPLICABLE):
            pytest.skip(f"{result.status.value}: {result.reason}")
        if result.status is Status.KNOWN_FAILURE:
            pytest.xfail(result.reason)
        if result.status is Status.FAILED:
            raise LawBroken(result)

    def repr_failure(  # type: ignore[override]  # a string is a representation too, as in pytest's own example of an Item
        self, excinfo: pytest.ExceptionInfo[BaseException]
    ) -> object:
        if not isinstance(excinfo.value, LawBroken):
            return super().repr_failure(excinfo)
        result = excinfo.value.result
        lines = [f"law:   {result.statement}", f"found: {result.reason}", f"rerun: {result.rerun}"]
        return "\n".join([*lines, *(["", result.traceback.rstrip()] if result.traceback else [])])

    def reportinfo(self) -> tuple[Path, int | None, str]:
        law = laws().get(self.entry.id)
        code = getattr(law.function, "__code__", None) if law else None
        where = (Path(code.co_filename), code.co_firstlineno) if code else (self.path, None)
        # Not the bare id: pytest would print its dot as "::".
        return *where, f"law {self.entry.id}"


class KitDirectory(pytest.Directory):
    """The folder of the kit itself, for ``--pyargs hardpoint.conformance``: no files, only laws."""

    def collect(self) -> Iterable[LawItem]:
        return _collect(self)


class KitConftest(pytest.File):
    """A conftest.py that asks for the kit."""

    def collect(self) -> Iterable[LawItem]:
        return _collect(self)


def pytest_collect_directory(path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    if path.resolve() != _PACKAGE:
        return None
    found: KitDirectory = KitDirectory.from_parent(parent, path=path)
    return found


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    if file_path.name != "conftest.py" or not _asks_for_the_kit(file_path, parent.config):
        return None
    found: KitConftest = KitConftest.from_parent(parent, path=file_path)
    return found


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    kit = config.stash.get(_KIT, None)
    if kit is None or not kit.results:
        return
    write = terminalreporter.write_line
    terminalreporter.section(f"hardpoint conformance: {kit.source.label}, seed {kit.seed}")
    for status in (Status.NOT_CLAIMED, Status.NOT_APPLICABLE):
        by_reason: dict[str, list[str]] = {}
        for result in kit.results:
            if result.status is status:
                by_reason.setdefault(result.reason, []).append(result.id)
        for reason, ids in by_reason.items():
            write(f"{status.value}: {reason}: {', '.join(ids)}")
    counts = {status: sum(result.status is status for result in kit.results) for status in Status}
    write(", ".join(f"{count} {status.value}" for status, count in counts.items() if count))


def pytest_unconfigure(config: pytest.Config) -> None:
    kit = config.stash.get(_KIT, None)
    if kit is not None:
        kit.close()


_KIT = pytest.StashKey[Kit]()


@dataclass(frozen=True)
class _Choice:
    name: str | None
    factory: str | None


def _collect(parent: pytest.Collector) -> list[LawItem]:
    config = parent.config
    try:
        if _KIT not in config.stash:
            config.stash[_KIT] = Kit(config)
        kit = config.stash[_KIT]
        return [LawItem.of(parent, kit, entry) for entry in kit.plans()]
    except HardpointError as error:
        raise parent.CollectError(str(error)) from None


def _source(config: pytest.Config) -> BackendSource:
    given = _Choice(config.getoption("backend"), config.getoption("backend_factory"))
    if not (given.name or given.factory):  # the command line wins as a whole: a name there is not a second one
        given = _Choice(config.getini("hardpoint_backend"), config.getini("hardpoint_factory"))
    if given.name and given.factory:
        raise HardpointError(f"give a backend's name or a factory, not both: {given.name}, {given.factory}")
    if not (given.name or given.factory):
        raise HardpointError(
            "which backend? Give --backend=NAME or --backend-factory=MODULE:ATTRIBUTE, or set hardpoint_backend or "
            "hardpoint_factory in pytest's ini file"
        )
    return BackendSource(given.name or "", given.factory or None)


def _known(config: pytest.Config) -> dict[str, str]:
    path: Path | None = config.getoption("known_failures")
    paths = [path] if path is not None else list(config.getini("hardpoint_known_failures"))
    return {law: reason for path in paths for law, reason in read_known_failures(path).items()}


def _asks_for_the_kit(path: Path, config: pytest.Config) -> bool:
    for plugin in config.pluginmanager.get_plugins():
        if getattr(plugin, "__file__", None) == str(path):
            wanted = getattr(plugin, "pytest_plugins", ())
            return __name__ in ([wanted] if isinstance(wanted, str) else list(wanted))
    return False

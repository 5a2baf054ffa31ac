"""Our source calls vendors only as the tables of their supported releases allow, and the reader sees every call."""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import re
import sys
from pathlib import Path

import pytest

CI = Path(__file__).resolve().parents[2] / "ci"
sys.path.insert(0, str(CI))

from vendor_api import tables  # noqa: E402
from vendor_api.__main__ import judge  # noqa: E402
from vendor_api.archive import Archive  # noqa: E402
from vendor_api.check import check, unused  # noqa: E402
from vendor_api.found import Call, misfit  # noqa: E402
from vendor_api.project import Project  # noqa: E402
from vendor_api.resolve import Resolver  # noqa: E402
from vendor_api.tables import Looks  # noqa: E402
from vendor_api.usage import usage  # noqa: E402
from vendor_api.vendors import VENDORS, distributions, vendor_of  # noqa: E402

TABLES = tables.load_all()
FOUND, REPORT, DECLARATIONS = judge()


def test_every_vendor_call_is_covered(capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        print(f"\n{REPORT}")
    assert not REPORT.complaints, "\n".join(REPORT.complaints)
    assert REPORT.coverage == 100.0
    assert REPORT.uses > 30, "the reader sees next to nothing of our source"
    assert REPORT.calls == REPORT.fitted + REPORT.native
    assert REPORT.uses == REPORT.resolved + REPORT.unreadable


def test_declarations_beside_the_tables_are_still_needed() -> None:
    assert not DECLARATIONS, "\n".join(DECLARATIONS)


@pytest.mark.parametrize(
    "table", [t for rows in TABLES.values() for t in rows], ids=lambda t: f"{t.distribution}-{t.version}"
)
def test_a_table_says_which_wheel_it_was_read_from(table: tables.Table) -> None:
    assert re.fullmatch(r"[0-9a-f]{64}", table.sha256)
    name = f"{table.distribution.replace('-', '_')}-{table.version}"
    assert table.file.startswith((f"{name}-", f"{name}+"))


def test_tables_hold_no_name_that_nothing_reaches() -> None:
    left_over = unused(TABLES, FOUND, tables.declared_members())
    assert not left_over, f"nothing reaches {left_over}: run `python ci/vendor_api prune`"


def test_the_installed_torch_is_what_its_table_says() -> None:
    version = importlib.metadata.version("torch")
    table = next((t for t in TABLES["torch"] if t.version == version.split("+")[0]), None)
    assert table is not None, f"torch {version} is installed, tables exist for {[t.version for t in TABLES['torch']]}"
    spec = importlib.util.find_spec("torch")
    assert spec is not None
    assert spec.origin is not None
    resolver = Resolver(Archive(Path(spec.origin).parent.parent, ("torch",)))
    for name, row in table.names.items():
        if row.kind != "native":
            assert resolver.find(name) == row, name


def test_a_call_that_the_silicon_would_refuse_is_found_in_our_own_source() -> None:
    """torch.xpu.Event takes no `blocking`: give it one in the backend as it is, and the check says where."""
    project = {
        str(path.relative_to(tables.ROOT)): path.read_text() for path in (tables.ROOT / "backends/xpu").rglob("*.py")
    }
    file = "backends/xpu/hardpoint_xpu/runtime.py"
    before = project[file]
    project[file] = before.replace("torch.xpu.Event(enable_timing=", "torch.xpu.Event(blocking=True, enable_timing=")
    assert project[file] != before
    looks = Looks({name: rows[-1].look for name, rows in TABLES.items()}, lambda n: vendor_of(n, "backends/xpu/"))
    report = check(usage(Project(project), looks), TABLES, ())
    line = before[: before.index("torch.xpu.Event(")].count("\n") + 1
    mine = [text for text in report.complaints if "torch.xpu.Event" in text]
    assert len(mine) == len(TABLES["torch"])
    assert mine[0].startswith(
        f"{file}:{line}: torch.xpu.Event in torch-2.11.0: called with (blocking=, enable_timing=)"
    )


def test_what_cannot_be_read_is_declared_and_nothing_else() -> None:
    called = {use.target for use in FOUND.uses if use.call is not None}
    left_over = set(tables.unreadable()) - called
    assert not left_over, f"unreadable.txt: nothing calls {left_over}: take the lines out"


def test_what_is_handed_on_is_declared_and_nothing_else() -> None:
    used = {use.target for use in FOUND.uses if use.handed_on}
    left_over = set(tables.handed_on()) - used
    assert not left_over, f"handed_on.txt: nothing hands on {left_over}: take the lines out"


PROTOCOLS = ast.parse((tables.ROOT / "core/hardpoint/device/protocol.py").read_text())


def methods(protocol: str) -> dict[str, tuple[int, int]]:
    """Methods of a protocol of core: the least and the most positional arguments with which they are called."""
    (node,) = [n for n in PROTOCOLS.body if isinstance(n, ast.ClassDef) and n.name == protocol]
    found = {}
    for method in [n for n in node.body if isinstance(n, ast.FunctionDef)]:
        most = len(method.args.posonlyargs) + len(method.args.args) - 1
        found[method.name] = (most - len(method.args.defaults), most)
    return found


@pytest.mark.parametrize("module", ["torch.xpu", "torch_npu.npu"])
@pytest.mark.parametrize("protocol", ["Stream", "Event"])
def test_vendors_streams_and_events_take_the_calls_of_cores_protocols(module: str, protocol: str) -> None:
    """The backends give core these objects as they are."""
    wanted = methods(protocol)
    assert {f"{module}.{protocol}.{name}" for name in wanted} <= set(tables.declared_members())
    for table in TABLES[module.split(".")[0].replace("_", "-")]:
        for name, (least, most) in wanted.items():
            row = table.names[f"{module}.{protocol}.{name}"]
            assert row.kind == "function", f"{module}.{protocol}.{name} in {table.version} is {row.kind}"
            for count in (least, most):
                assert misfit(row, Call(count, ())) is None, f"{module}.{protocol}.{name} in {table.version}"


def test_members_that_core_calls_without_a_protocol_take_that_call() -> None:
    for name, call in tables.member_calls().items():
        vendor = vendor_of(name, "")
        assert vendor is not None
        for table in TABLES[vendor.distribution]:
            assert misfit(table.names[name], call) is None, f"{name} in {table.version}"


def test_what_is_declared_to_be_returned_is_called_and_not_annotated() -> None:
    rows = {name: row for releases in TABLES.values() for name, row in releases[-1].names.items()}
    called = {use.target for use in FOUND.uses if use.call is not None}
    for name, gives in tables.declared_returns().items():
        assert name in called, f"returns.txt: nothing calls {name}: take the line out"
        assert rows[name].returns is None, f"returns.txt: {name} says itself what it returns: take the line out"
        assert gives == "plain" or gives.startswith("torch_npu."), f"returns.txt: {gives} is no class of a vendor"


def test_every_supported_release_has_its_table() -> None:
    for name, vendor in distributions().items():
        assert [t.version for t in TABLES[name]] == list(vendor.releases)
    assert all(vendor.releases == distributions()[vendor.distribution].releases for vendor in VENDORS)

"""The reader of our own source: what it follows, what it refuses, and what it says of a call that does not fit."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "ci"))

from vendor_api.check import Report, check, stale
from vendor_api.found import MISSING, Call, Found
from vendor_api.project import Project
from vendor_api.tables import Table
from vendor_api.usage import usage

NPU = "backends/npu/hardpoint_npu/device.py"
OP = "(Tensor self, int acl_format, *, int? customize_dtype=None) -> Tensor"
NAMES = {
    "torch_npu": Found("module"),
    "torch_npu.npu": Found("module"),
    "torch_npu.npu.set_device": Found("function", ("(device)",), returns="plain"),
    "torch_npu.npu.current_stream": Found("function", ("(device=None)",)),
    "torch_npu.npu.new_stream": Found("function", ("()",), returns="torch_npu.npu.Stream"),
    "torch_npu.npu.Stream": Found("class", ("(device=None, priority=0)",), returns="torch_npu.npu.Stream"),
    "torch_npu.npu.Stream.npu_stream": Found("native"),
    "torch_npu.npu.Stream.wait": Found("function", ("(event)",), returns="plain"),
    "torch_npu.npu.Stream.gone": MISSING,
    "torch_npu.npu.gone": MISSING,
    "torch_npu.cast": Found("op", (OP,), returns="plain"),
    "acl": Found("module"),
    "acl.rt": Found("module"),
    "acl.rt.memcpy": Found("function", returns="plain"),
    "torch.ops.npu": Found("module"),
    "torch.ops.npu.cast": Found("op", (OP,), returns="plain"),
}
XPU = {
    "torch.xpu": Found("module"),
    "torch.xpu.set_device": Found("function", ("(device)",), returns="plain"),
    "torch.xpu.gone": Found("function", ("()",), returns="plain"),
}


def table(distribution: str, version: str, names: dict[str, Found]) -> Table:
    return Table(distribution, version, "w.whl", "0" * 64, (), names)


def judged(
    text: str,
    *,
    file: str = NPU,
    older: dict[str, Found] | None = None,
    shapes: dict[str, Call] | None = None,
    unreadable: dict[str, Call] | None = None,
    **more: str,
) -> Report:
    """The report on one file of ours; `more`: other modules of hardpoint_npu."""
    texts = {file: text, **{f"backends/npu/hardpoint_npu/{name}.py": other for name, other in more.items()}}
    found = usage(Project(texts), lambda name: {**NAMES, **XPU}.get(name, MISSING))
    npu = [table("torch-npu", "2.11", {**NAMES, **(older or {})}), table("torch-npu", "2.14", NAMES)]
    return check(found, {"torch-npu": npu, "torch": [table("torch", "2.13", XPU)]}, (), shapes, unreadable)


CLASS = "import torch\nclass A:\n"
FOLLOWED = {
    "plain": "import torch_npu\ntorch_npu.npu.{}",
    "torch.npu": "import torch\ntorch.npu.{}",
    "import as": "import torch_npu as n\nn.npu.{}",
    "import module as": "import torch_npu.npu as n\nn.{}",
    "from": "from torch_npu import npu\nnpu.{}",
    "inside a function": "def f():\n    import torch_npu\n    return torch_npu.npu.{}",
    "named again": "import torch\nnpu = torch.npu\ndef f():\n    return npu.{}",
    "tuple": "import torch\ndef f(i):\n    m, j = torch.npu, i\n    return m.{}",
    "attribute of self": CLASS + "  def __init__(self):\n    self._m = torch.npu\n  def f(self):\n    self._m.{}",
    "returned by a method": CLASS + "  def m(self):\n    return torch.npu\n  def f(self):\n    self.m().{}",
    "property": CLASS + "  @property\n  def m(self):\n    return torch.npu\n  def f(self):\n    self.m.{}",
    "base class": CLASS + "  def m(self):\n    return torch.npu\nclass B(A):\n  def f(self):\n    self.m().{}",
    "another module": "from hardpoint_npu.other import module\nmodule().{}",
    "import_module": "import importlib\nm = importlib.import_module('torch_npu')\nm.npu.{}",
    "sys.modules": "import sys\nsys.modules['torch_npu'].npu.{}",
    "get_device_module": "import torch\ntorch.get_device_module('npu:0').{}",
    "own type": "import torch\ntorch.get_device_module(device.type).{}",
    "either": "import torch\nm = torch.npu if x else None\nm.{}",
}
OTHER = "def module():\n    import torch_npu\n    return torch_npu.npu\n"


@pytest.mark.parametrize("way", FOLLOWED)
def test_ways_of_reaching_a_vendor_are_followed(way: str) -> None:
    good = judged(FOLLOWED[way].format("set_device(0)"), other=OTHER)
    assert good.complaints == ()
    assert (good.calls, good.fitted, good.coverage) == (1, 1, 100.0)
    bad = judged(FOLLOWED[way].format("gone()"), other=OTHER)
    line = FOLLOWED[way].count("\n") + 1
    assert bad.complaints == tuple(
        f"{NPU}:{line}: torch_npu.npu.gone does not exist in torch-npu-{version}" for version in ("2.11", "2.14")
    )
    assert bad.coverage < 100.0
    misfit = judged(FOLLOWED[way].format("set_device(0, wait=1)"), other=OTHER).complaints
    assert (
        "called with (1 positional, wait=): got an unexpected keyword argument 'wait'; it takes (device)" in misfit[0]
    )


REFUSED = {
    "computed getattr": ("import torch\ngetattr(torch.npu, name)", "getattr on torch_npu.npu with a computed name"),
    "computed getattr on torch": ("import torch\ngetattr(torch, name)", "getattr on torch with a computed name"),
    "computed setattr": ("import torch_npu\nsetattr(torch_npu, name, 1)", "setattr on torch_npu with a computed name"),
    "on an object": (
        "import torch\nstream = torch.npu.Stream()\ngetattr(stream, name)",
        "getattr on torch_npu.npu.Stream with a computed name",
    ),
    "computed import": ("import importlib\nimportlib.import_module(name)", "import_module with a computed name"),
    "star import": ("from torch_npu import *", "hides which names are used"),
    "handed to a function": ("import torch\nf(torch.npu)", "the module torch_npu.npu is handed on as a value"),
    "kept in a dict": ("import torch\nd = {'npu': torch.npu}", "the module torch_npu.npu is handed on as a value"),
    "kept in an object": ("import torch\nthing.module = torch.npu", "the module torch_npu.npu is handed on as a value"),
    "stars": ("import torch\ntorch.npu.set_device(*x)", "torch_npu.npu.set_device is called with * or **"),
    "double stars": ("import torch\ntorch.npu.set_device(**x)", "torch_npu.npu.set_device is called with * or **"),
    "vars": ("import torch\nvars(torch)['npu']", "vars of torch"),
    "dict": ("import torch\ntorch.__dict__['npu']", "__dict__ of torch"),
    "attrgetter": ("import operator\noperator.attrgetter('npu.f')(x)", "attrgetter reaches attributes out of sight"),
    "default of a parameter": ("import torch\ndef f(m=torch.npu): ...", "torch_npu.npu is handed on as a value"),
    "lambda": ("import torch\nf(lambda: torch.npu)", "torch_npu.npu is handed on as a value"),
    "function of ours": (
        "import torch\ndef m():\n    return torch.npu\nf(m)",
        "a function that returns a vendor's module is handed on: call it here",
    ),
    "unknown result": (
        "import torch\ntorch.npu.current_stream().npu_stream",
        ".npu_stream of what torch_npu.npu.current_stream returns, which its source does not say",
    ),
}


@pytest.mark.parametrize("way", REFUSED)
def test_what_cannot_be_followed_is_refused_with_its_line(way: str) -> None:
    text, sentence = REFUSED[way]
    report = judged(text)
    line = text.count("\n") + 1
    assert any(c.startswith(f"{NPU}:{line}: ") and sentence in c for c in report.complaints), report.complaints
    assert report.coverage < 100.0


def test_objects_of_vendor_classes_are_followed() -> None:
    for made in ("torch.npu.Stream(0)", "torch.npu.new_stream()"):
        assert judged(f"import torch\n{made}.wait(e)").complaints == ()
        assert "gone does not exist" in judged(f"import torch\ns = {made}\ns.gone()").complaints[0]
        assert "missing a required argument" in judged(f"import torch\ns = {made}\ns.wait()").complaints[0]
    text = "import torch\ndef f(stream: torch.npu.Stream) -> int:\n    return stream.{}"
    assert judged(text.format("npu_stream")).complaints == ()
    assert "gone does not exist" in judged(text.format("gone")).complaints[0]


@pytest.mark.parametrize(
    ("call", "wrong"),
    [
        ("cast(t, 29)", None),
        ("cast(t, 29, customize_dtype=1)", None),
        ("cast(t, acl_format=29)", None),
        ("cast(t)", "missing a required argument: 'acl_format'"),
        ("cast(t, 29, 1)", "too many positional arguments"),
        ("cast(t, 29, dtype=1)", "unexpected keyword argument 'dtype'"),
    ],
)
@pytest.mark.parametrize("head", ["import torch_npu\ntorch_npu.", "import torch\ntorch.ops.npu."])
def test_ops_are_held_against_their_schemas(head: str, call: str, wrong: str | None) -> None:
    complaints = judged(head + call).complaints
    assert (wrong is None and not complaints) or (wrong is not None and wrong in complaints[0])


def test_a_name_that_only_an_old_release_lacks_is_told_with_that_release() -> None:
    report = judged("import torch\ntorch.npu.set_device(0)", older={"torch_npu.npu.set_device": MISSING})
    assert report.complaints == (f"{NPU}:2: torch_npu.npu.set_device does not exist in torch-npu-2.11",)


def test_a_name_may_be_asked_for_where_it_may_be_missing() -> None:
    assert judged("import torch\nhasattr(torch.npu, 'gone')").complaints == ()
    assert judged("import torch\nf = getattr(torch.npu, 'gone', None)\nf()").complaints == ()
    assert "does not exist" in judged("import torch\ngetattr(torch.npu, 'gone')").complaints[0]


@pytest.mark.parametrize(
    "text",
    [
        "import torch\nf(torch.npu.set_device)",
        "import torch\nd = {'set': torch.npu.set_device}",
        "import torch\ndef g():\n    return torch.npu.set_device",
        "import torch\nset_it = torch.npu.set_device\nf(set_it)",
        "from torch_npu.npu import set_device\nf(set_device)",
        "import torch\nf(getattr(torch.npu, 'set_device', None))",
    ],
)
def test_a_function_that_is_handed_on_needs_a_declared_call(text: str) -> None:
    line = text.count("\n") + 1
    assert judged(text).complaints == (
        f"{NPU}:{line}: torch_npu.npu.set_device is handed on: say in ci/vendor_api/handed_on.txt how it is called",
    )
    assert judged(text, shapes={"torch_npu.npu.set_device": Call(1, ())}).complaints == ()
    wrong = judged(text, shapes={"torch_npu.npu.set_device": Call(0, ())}).complaints
    assert "missing a required argument: 'device'" in wrong[0]


@pytest.mark.parametrize(
    "way", ["isinstance(x, torch.npu.Stream)", "x: torch.npu.Stream = y", "callable(torch.npu.set_device)"]
)
def test_types_and_questions_are_not_handed_on(way: str) -> None:
    assert judged(f"import torch\n{way}").complaints == ()


def test_what_is_in_no_wheel_is_called_exactly_as_declared() -> None:
    text = "import acl\nacl.rt.memcpy(a, b, c, d, e)"
    assert judged(text).complaints == (
        f"{NPU}:1: acl is in no wheel: declare it in ci/vendor_api/unreadable.txt",
        f"{NPU}:2: acl.rt.memcpy is in no wheel: declare it in ci/vendor_api/unreadable.txt",
    )
    declared = {"acl.rt.memcpy": Call(5, ())}
    good = judged(text, unreadable=declared)
    assert (good.complaints, good.coverage, good.resolved) == ((), 100.0, 0)
    (wrong,) = judged("import acl\nacl.rt.memcpy(a, b)", unreadable=declared).complaints
    assert wrong == f"{NPU}:2: acl.rt.memcpy is called with (2 positional), declared is (5 positional)"


def test_a_name_that_no_table_holds_asks_for_a_refresh() -> None:
    assert judged("import torch\ntorch.npu.new_name()").complaints == (
        f"{NPU}:2: torch_npu.npu.new_name is in no table yet: run `make vendor-api`",
    )


def test_core_is_held_against_every_vendor_that_its_device_type_may_mean() -> None:
    text = "import torch\ndef f(device_type):\n    m = {}\n    m.gone()"
    for module in ("torch.get_device_module(device_type)", "getattr(torch, device_type, None)"):
        report = judged(text.format(module), file="core/hardpoint/device/x.py")
        assert {c.split(": ")[1].split()[0] for c in report.complaints} == {"torch_npu.npu.gone"}  # torch.xpu has one
    dtype = "import torch\nd = getattr(torch, dtype_name)\nd.gone"
    assert judged(dtype, file="core/hardpoint/x.py").uses == 0


def test_declared_differences_that_are_none_are_told() -> None:
    rows = {
        "torch-npu": [
            table("torch-npu", "2.11", {"a": MISSING, "b": NAMES["torch_npu"]}),
            table("torch-npu", "2.14", {"a": NAMES["torch_npu"], "b": NAMES["torch_npu"]}),
        ]
    }
    assert stale(rows, [("a", "torch-npu-2.11")]) == []
    assert "b is no difference in torch-npu-2.11" in stale(rows, [("b", "torch-npu-2.11")])[0]
